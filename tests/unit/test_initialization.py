"""When an instance is built."""

from __future__ import annotations

import pytest

from lambda_support.initialization import build_early


@pytest.mark.parametrize(
    ("kind", "built"), [("on-demand", 1), ("provisioned-concurrency", 1), ("snap-start", 0)]
)
def test_all_but_a_snapshot_is_built_early(monkeypatch: pytest.MonkeyPatch, kind: str, built: int) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", kind)
    calls: list[str] = []

    build_early(lambda: calls.append(kind))

    assert len(calls) == built
