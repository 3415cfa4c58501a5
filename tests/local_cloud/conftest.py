"""A local cloud with the echo stack on it, for the tests of the local cloud itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.cloud import LocalCloud

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.sdk import Credentials


@pytest.fixture(scope="session")
def echo_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    folder = tmp_path_factory.mktemp("echo") / "stack"
    shutil.copytree(Path(__file__).parent / "echo_stack", folder)
    with LocalCloud(folder) as cloud:
        cloud.build()
        cloud.deploy()
        yield cloud


@pytest.fixture(scope="session")
def granted(echo_cloud: LocalCloud) -> Credentials:
    """The keys of a role that may call the echo stack."""
    return echo_cloud.create_caller("granted", [echo_cloud.outputs["CallerPolicyArn"]])
