"""What tests of backfill share."""

from collections.abc import Iterator

import pytest

from pipelines.cluster import connect, disconnect


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For folders of so many files that Ray's workers read their tags; left alone, Ray would outlive the test."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    connect()
    yield
    disconnect()
