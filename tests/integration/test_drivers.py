"""No driver turns the catalogue into Python objects, and each has room on a small machine with two million songs."""

from pathlib import Path

import pytest

from benchmarks import drivers

DRIVERS = [verb for verb in drivers.VERBS if not verb.startswith("an index")]
OBJECTS_BYTES = 30 << 20
"""65,536 rows as Python objects, of several columns, and what modules make that are imported late"""


@pytest.mark.slow
def test_python_objects_of_a_driver_are_those_of_a_few_rows_however_many_songs_there_are(tmp_path: Path) -> None:
    with drivers.synthetic_workspace(100_000, str(tmp_path)) as workspace:
        costs = drivers.measure(workspace, list(drivers.VERBS), traced=True)
    assert {cost.verb: cost.objects_bytes for cost in costs if (cost.objects_bytes or 0) > OBJECTS_BYTES} == {}
    assert all(cost.peak_bytes < drivers.LIMIT_BYTES // 2 for cost in costs)


@pytest.mark.chaos
def test_two_million_songs_take_less_than_two_gibibytes_of_every_driver(tmp_path: Path) -> None:
    with drivers.synthetic_workspace(drivers.SONGS, str(tmp_path)) as workspace:
        costs = drivers.measure(workspace, DRIVERS)
    assert {cost.verb: cost.peak_bytes for cost in costs if cost.peak_bytes > drivers.LIMIT_BYTES} == {}
    assert all(cost.seconds < 120 for cost in costs)
