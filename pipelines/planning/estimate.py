"""Estimate of a catalogue's cost from a sample: the arithmetic of a plan.

Every total is linear in the mean cost of a song, so its range is that of the mean: the middle 95 % of what samples like
this one would have given. Knows nothing of files; costs, prices and machines come in, numbers go out.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from pipelines.planning.machines import StoragePrices, WorkerType
from pipelines.planning.sampling import SEED, SongCost

IN_HAND = 4
"""songs that a core works on by turns: while one waits for the store, another computes"""
OVERHEAD = 1.14
"""core time of a long run over that of its songs in a plain pool of processes; `make bench-scaling` measures 1.03 to
1.17"""
PUTS_PER_BLOCK = 3
"""a part of rows, one of rejects, and a listing that shows whether the run still holds its lease"""
LEAST_SONGS = 8
"""in one go, however many cores wait for work"""
_RESAMPLES = 1_000
_PERCENTILES = (2.5, 97.5)
_GB = 1e9
_HOUR_S = 3600.0


class Record(BaseModel):
    """Frozen, unknown fields forbidden; to JSON and back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(Record):
    """An estimate, and between which bounds the sample's spread allows it to be."""

    mean: float
    low: float
    high: float

    def times(self, factor: float) -> "Range":
        """Mean and bounds, each times the factor, which is not negative."""
        return Range(mean=self.mean * factor, low=self.low * factor, high=self.high * factor)

    def plus(self, other: "Range") -> "Range":
        """Means and bounds, each summed."""
        return Range(mean=self.mean + other.mean, low=self.low + other.low, high=self.high + other.high)


class PerSong(Record):
    """The mean song, rejects among them."""

    core_s: Range
    """seconds that it keeps a core from other songs: computing, and as much of its waiting as those cannot fill"""
    cpu_s: Range
    wait_s: Range
    """for the store"""
    wall_s: Range
    """by the clock of this machine, whatever else ran on it"""
    get_requests: Range
    read_bytes: Range
    object_bytes: Range
    written_bytes: Range
    reject_share: Range


class Totals(Record):
    """Of all songs."""

    vcpu_hours: Range
    get_requests: Range
    put_requests: int
    read_bytes: Range
    written_bytes: Range
    requests_usd: Range
    """reads, writes and transfer"""
    storage_usd_per_month: Range
    """to keep what is written"""


class WorkerPlan(Record):
    """All songs on one type of worker: on as many machines as may run and have work."""

    name: str
    instance_type: str
    spot: bool
    machines: int
    vcpus: int
    """that have work"""
    vcpu_hours: Range
    wall_hours: Range
    machines_usd: Range
    """the head's included"""
    total_usd: Range
    """machines and requests"""


class Estimate(Record):
    """What so many songs would take."""

    songs: int
    per_song: PerSong
    totals: Totals
    this_machine_cores: int
    this_machine_wall_hours: Range
    workers: list[WorkerPlan]


def estimate(
    costs: Sequence[SongCost],
    songs: int,
    rows_per_block: int,
    cores: int,
    types: Sequence[WorkerType],
    prices: StoragePrices,
) -> Estimate:
    """What `songs` songs take, of which `costs` are a fair sample.

    Args:
        rows_per_block: songs that one core works on in one go, fewer where there are not enough for all cores.
        cores: of this machine.
    """
    per_song = per_song_of(costs)
    totals = _totals(per_song, songs, math.ceil(songs / rows_per_block), prices)
    busy = math.ceil(songs / min(LEAST_SONGS, rows_per_block))  # cores that would find work
    return Estimate(
        songs=songs,
        per_song=per_song,
        totals=totals,
        this_machine_cores=cores,
        this_machine_wall_hours=totals.vcpu_hours.times(1 / min(cores, busy)),
        workers=[_on_workers(kind, totals, busy) for kind in types],
    )


def per_song_of(costs: Sequence[SongCost]) -> PerSong:
    """Means and their ranges, by a seeded bootstrap."""
    columns = {
        "core_s": [max(cost.cpu_s, (cost.cpu_s + cost.wait_s) / IN_HAND) for cost in costs],
        "cpu_s": [cost.cpu_s for cost in costs],
        "wait_s": [cost.wait_s for cost in costs],
        "wall_s": [cost.wall_s for cost in costs],
        "get_requests": [cost.requests for cost in costs],
        "read_bytes": [cost.read_bytes for cost in costs],
        "object_bytes": [cost.object_bytes for cost in costs],
        "written_bytes": [cost.written_bytes for cost in costs],
        "reject_share": [cost.reject is not None for cost in costs],
    }
    values = np.array(list(columns.values()), np.float64)  # [quantities, songs]
    return PerSong(**dict(zip(columns, _ranges(values), strict=True)))


def _ranges(values: npt.NDArray[np.float64]) -> list[Range]:
    """Of the means of the rows of [Q, N]."""
    count = values.shape[1]
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), _RESAMPLES)  # [resamples, N]
    low, high = np.percentile(drawn @ values.T / count, _PERCENTILES, axis=0)
    return [Range(mean=m, low=a, high=b) for m, a, b in zip(values.mean(1), low, high, strict=True)]


def _totals(per_song: PerSong, songs: int, blocks: int, prices: StoragePrices) -> Totals:
    gets, puts = per_song.get_requests.times(songs), blocks * PUTS_PER_BLOCK
    read, written = per_song.read_bytes.times(songs), per_song.written_bytes.times(songs)
    puts_usd = puts * prices.put_per_1000 / 1000
    requests = gets.times(prices.get_per_1000 / 1000).plus(read.times(prices.gb_read / _GB))
    return Totals(
        vcpu_hours=per_song.core_s.times(songs * OVERHEAD / _HOUR_S),
        get_requests=gets,
        put_requests=puts,
        read_bytes=read,
        written_bytes=written,
        requests_usd=requests.plus(Range(mean=puts_usd, low=puts_usd, high=puts_usd)),
        storage_usd_per_month=written.times(prices.gb_month / _GB),
    )


def _on_workers(kind: WorkerType, totals: Totals, busy: int) -> WorkerPlan:
    vcpus = min(kind.workers * kind.vcpus, busy)
    machines = math.ceil(vcpus / kind.vcpus)
    wall = totals.vcpu_hours.times(1 / vcpus)
    machines_usd = wall.times(machines * kind.usd_per_hour + kind.head_usd_per_hour)
    return WorkerPlan(
        name=kind.name,
        instance_type=kind.instance_type,
        spot=kind.spot,
        machines=machines,
        vcpus=vcpus,
        vcpu_hours=totals.vcpu_hours,
        wall_hours=wall,
        machines_usd=machines_usd,
        total_usd=machines_usd.plus(totals.requests_usd),
    )
