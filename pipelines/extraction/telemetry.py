"""Telemetry of a running stage: Prometheus counters through Ray.

They appear as `ray_gatefold_…` at `/metrics` of the node that a worker runs on, at the port that `ray.nodes()` calls
MetricsExportPort, some ten seconds after they were counted; so too of the Ray that starts here without a dashboard. A
Prometheus that scrapes Ray's nodes has them, and can plot them. Of a histogram Ray exports the counts of its
buckets as they are, but its sum from their midpoints.
"""

from collections.abc import Mapping
from functools import cache

from ray.util.metrics import Counter, Histogram

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0]


def block_done(stage: str, songs: int, rejected: Mapping[str, int], bytes_read: int, seconds: float) -> None:
    """Counts a block that is finished, in the worker that finished it.

    Args:
        songs: all that were worked on, those rejected included.
        rejected: how many, by the code of the reject.
        bytes_read: fetched from storage.
        seconds: from the block's first song to its last written row.
    """
    _add("gatefold_songs_total", "songs worked on, rejected ones included", songs, stage=stage)
    _add("gatefold_read_bytes_total", "bytes fetched from storage", bytes_read, stage=stage)
    for code, count in rejected.items():
        _add("gatefold_rejects_total", "songs that could not be used, by reason", count, stage=stage, code=code)
    _block_seconds().observe(seconds, {"stage": stage})


def _add(name: str, description: str, count: int, **tags: str) -> None:
    if count:  # Ray refuses to add nothing
        _counter(name, description, tuple(tags)).inc(count, tags)


@cache
def _counter(name: str, description: str, tags: tuple[str, ...]) -> Counter:
    return Counter(name, description, tags)


@cache
def _block_seconds() -> Histogram:
    return Histogram("gatefold_block_seconds", "seconds a block took", _SECONDS, ("stage",))
