"""The cloud's broker as processes: a nursery for each module, with the rights of the broker's own role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.instances import Nursery
from local.races import broker_credentials, broker_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.cloud import LocalCloud


@pytest.fixture(scope="session")
def instance_environment(cloud: LocalCloud) -> dict[str, str]:
    return broker_environment(cloud, broker_credentials(cloud))


@pytest.fixture(scope="module")
def nursery(
    instance_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nursery]:
    log_file = tmp_path_factory.mktemp("instances") / "log"
    with Nursery(instance_environment, log_file) as nursery:
        yield nursery
