"""The arithmetic of a plan, on costs whose totals can be reckoned by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.planning.estimate import (
    IN_HAND,
    LEAST_SONGS,
    OVERHEAD,
    PUTS_PER_BLOCK,
    Estimate,
    Range,
    estimate,
    per_song_of,
)
from pipelines.planning.machines import StoragePrices, WorkerType
from pipelines.planning.sampling import SongCost

SONG = SongCost(
    cpu_s=0.09,
    wait_s=0.0,
    wall_s=0.2,
    requests=4,
    read_bytes=1_000_000,
    object_bytes=5_000_000,
    written_bytes=100_000.0,
    reject=None,
)
PRICES = StoragePrices(get_per_1000=0.0004, put_per_1000=0.005, gb_read=0.01, gb_month=0.02)
SPOT = WorkerType(
    name="audio",
    instance_type="c7i.4xlarge",
    vcpus=16,
    workers=32,
    spot=True,
    usd_per_hour=0.25,
    head_usd_per_hour=0.5,
)


def estimated(costs: list[SongCost], songs: int = 10_000_000, cores: int = 2) -> Estimate:
    return estimate(costs, songs, rows_per_block=32, cores=cores, types=[SPOT], prices=PRICES)


def is_just(found: Range, value: float) -> bool:
    """But for the last digits of a float."""
    return [found.mean, found.low, found.high] == pytest.approx([value] * 3, rel=1e-12)


def test_totals_are_songs_times_the_mean_song() -> None:
    totals = estimated([SONG, replace(SONG, read_bytes=3_000_000)]).totals
    assert totals.vcpu_hours.mean == pytest.approx(10_000_000 * 0.09 / 3600 * OVERHEAD)
    assert totals.read_bytes.mean == pytest.approx(2e13)
    assert totals.written_bytes.mean == pytest.approx(1e12)
    assert totals.get_requests.mean == pytest.approx(40_000_000)
    assert totals.put_requests == 312_500 * PUTS_PER_BLOCK


def test_songs_that_all_cost_the_same_leave_no_range() -> None:
    one = estimated([SONG] * 5)
    for found in (one.per_song.core_s, one.totals.vcpu_hours, one.totals.read_bytes, one.workers[0].total_usd):
        assert is_just(found, found.mean)


def test_the_range_holds_the_mean_and_narrows_with_the_sample() -> None:
    def spread(count: int) -> Range:
        seconds = np.random.default_rng(3).exponential(0.1, count)
        return per_song_of([replace(SONG, cpu_s=float(value)) for value in seconds]).cpu_s

    few, many = spread(20), spread(2_000)
    for found in (few, many):
        assert found.low < found.mean < found.high
    assert (many.high - many.low) < (few.high - few.low) / 5
    # of a mean of 2,000 exponentials: 1.96 standard errors on each side
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(2_000), rel=0.2)


def test_the_same_sample_gives_the_same_range() -> None:
    costs = [replace(SONG, cpu_s=0.01 * number) for number in range(1, 20)]
    assert per_song_of(costs) == per_song_of(costs)


def test_waiting_costs_a_core_only_when_the_other_songs_in_hand_cannot_fill_it() -> None:
    short, long = replace(SONG, wait_s=0.09), replace(SONG, wait_s=0.91)
    assert is_just(per_song_of([short]).core_s, 0.09)
    assert is_just(per_song_of([long]).core_s, (0.09 + 0.91) / IN_HAND)


def test_rejects_cost_too_and_are_reported_as_a_share() -> None:
    bad = replace(SONG, cpu_s=0.03, written_bytes=0.0, reject="silent_audio")
    found = per_song_of([SONG, SONG, SONG, bad])
    assert found.reject_share.mean == 0.25
    assert found.cpu_s.mean == pytest.approx((3 * 0.09 + 0.03) / 4)
    assert found.written_bytes.mean == pytest.approx(75_000)


def test_workers_take_the_hours_divided_by_their_vcpus_and_cost_machines_head_and_requests() -> None:
    one = estimated([SONG])
    worker = one.workers[0]
    hours = 250 * OVERHEAD / 512
    assert (worker.machines, worker.vcpus) == (32, 512)
    assert is_just(worker.wall_hours, hours)
    assert is_just(worker.machines_usd, hours * (32 * 0.25 + 0.5))
    requests = 40_000 * 0.0004 + 312.5 * PUTS_PER_BLOCK * 0.005 + 10_000 * 0.01
    assert is_just(one.totals.requests_usd, requests)
    assert is_just(worker.total_usd, hours * 8.5 + requests)
    assert is_just(one.totals.storage_usd_per_month, 1_000 * 0.02)
    assert is_just(one.this_machine_wall_hours, 250 * OVERHEAD / 2)


def test_a_few_songs_fill_only_a_few_cores() -> None:
    one = estimated([SONG], songs=2 * LEAST_SONGS, cores=8)
    assert (one.workers[0].vcpus, one.workers[0].machines) == (2, 1)
    assert is_just(one.this_machine_wall_hours, 16 * 0.09 / 3600 * OVERHEAD / 2)
    assert estimated([SONG], songs=16 * LEAST_SONGS + 1).workers[0].machines == 2
