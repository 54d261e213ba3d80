"""A plan of the extraction: what a catalogue would take, measured on a sample of it; and how right that was.

A plan is kept beside the reports of the stages, so that a real run can be held against it.
"""

import os
from datetime import UTC, date, datetime
from pathlib import Path

from gatefold.config import Settings
from gatefold.errors import Corrupt, ObjectNotFound, StageMissing
from gatefold.progress import OnProgress, silent
from gatefold.storage import objects
from gatefold.workspace import Workspace
from pipelines.extraction.stages import SPECTROGRAMS as SPECTROGRAMS
from pipelines.planning.estimate import OVERHEAD, Estimate, Range, Record, estimate
from pipelines.planning.machines import read_prices, read_worker_types
from pipelines.planning.sampling import count_rejects, draw_sample, measure
from pipelines.report import Report, read_report

SAMPLE = 48
"""songs measured by default"""
_FEW = 30
"""songs; fewer show little of their spread"""
_SHORT_S = 300.0


class Plan(Record):
    """What a catalogue would take."""

    made_at: datetime
    source: str
    audio: str
    """fingerprint of the audio settings"""
    songs_in_source: int
    sample_songs: int
    sample_rejects: dict[str, int]
    """by code"""
    estimate: Estimate
    prices_as_of: date
    assumptions: list[str]


class Comparison(Record):
    """One quantity, planned and real."""

    quantity: str
    planned: Range
    real: float

    ratio: float | None
    """real over planned; None where nothing was planned"""


class Verdict(Record):
    """How far off a plan was."""

    planned_at: datetime
    ran_at: datetime
    songs: int
    """that the run worked on"""
    comparisons: list[Comparison]
    remarks: list[str]
    """what could not be compared, or should not be trusted, and why"""


def make_plan(
    settings: Settings,
    source: str,
    workspace: Workspace,
    *,
    cluster: Path,
    prices: Path,
    songs: int | None = None,
    sample: int = SAMPLE,
    on_progress: OnProgress = silent,
) -> Plan:
    """Measures a sample of the source and keeps the plan as `reports/plan.json`.

    Args:
        source: manifest or folder of audio, as the catalogue takes it.
        cluster: `cluster.yaml`.
        prices: the operator's price list.
        songs: how many to plan for; as many as the source has, when None.
        sample: how many to measure; fewer where the source has fewer.

    Raises: InvalidManifest; InvalidSettings for a missing price; storage errors.
    """
    priced, types = read_prices(prices), read_worker_types(cluster, prices)  # first: their faults cost no sample
    drawn = draw_sample(source, sample)
    costs = measure(drawn, settings, on_progress)
    planned = songs or drawn.songs_there
    cores = os.cpu_count() or 1
    plan = Plan(
        made_at=datetime.now(UTC),
        source=drawn.source,
        audio=settings.audio.fingerprint(),
        songs_in_source=drawn.songs_there,
        sample_songs=len(costs),
        sample_rejects=count_rejects(costs),
        estimate=estimate(costs, planned, settings.batch.rows_per_block, cores, types, priced.storage),
        prices_as_of=priced.as_of,
        assumptions=_assumptions(len(costs), drawn.source),
    )
    objects.put(_plan_uri(workspace), plan.model_dump_json(indent=1).encode())
    return plan


def _assumptions(sampled: int, source: str) -> list[str]:
    store = "this disk" if objects.local_path(source) else "the store as far from the workers as it is from here"
    said = [
        "a vCPU of a worker works as fast as a core of this machine does alone",
        f"reads come from {store}",
        f"a run takes {OVERHEAD:.2f} times the core time of its songs; `gatefold plan` after a real one says how much",
        "machines are there from the beginning and none is lost; on spot, what a lost one had begun is done again",
    ]
    few = f"{sampled} songs show little of how songs differ, so the range is rough; measure more with --sample"
    return said + [few] * (sampled < _FEW)


def read_plan(workspace: Workspace) -> Plan:
    """The last plan. Raises: StageMissing when there is none; Corrupt."""
    uri = _plan_uri(workspace)
    try:
        return Plan.model_validate_json(objects.read(uri))
    except ObjectNotFound as error:
        raise StageMissing(f"'{workspace.uri}' has no plan; run `gatefold plan MANIFEST` first") from error
    except ValueError as error:
        raise Corrupt(f"plan '{uri}' cannot be read: {error}; run `gatefold plan MANIFEST` anew") from error


def judge_plan(workspace: Workspace) -> Verdict:
    """The last plan held against the last extraction.

    Raises: StageMissing where there is no plan, or no run after it that worked on songs.
    """
    plan, report = read_plan(workspace), read_report(workspace, SPECTROGRAMS)
    uri = objects.join(workspace.reports, f"{SPECTROGRAMS}.json")
    ran_at = objects.stat(uri).modified if report else None
    if report is None or ran_at is None or ran_at < plan.made_at:
        at = f"{plan.made_at:%Y-%m-%d %H:%M} UTC"
        raise StageMissing(f"no songs were extracted since the plan of {at}; run `gatefold {SPECTROGRAMS}` first")
    if not report.done:
        raise StageMissing(f"the last run had nothing to do, so it says nothing of the plan ('{uri}')")
    held, remarks = _hold_against(plan, report)
    return Verdict(planned_at=plan.made_at, ran_at=ran_at, songs=report.done, comparisons=held, remarks=remarks)


def _hold_against(plan: Plan, report: Report) -> tuple[list[Comparison], list[str]]:
    per_song, done = plan.estimate.per_song, report.done
    work_s, read_bytes, workers = (_number(report, name) for name in ("work_s", "bytes_read", "workers"))
    wall_s = per_song.core_s.times(done * OVERHEAD / (workers or 1))
    found: list[tuple[str, Range, float | None, str]] = [
        ("core time a song", per_song.core_s, None if work_s is None else work_s / done, "work_s"),
        ("read a song", per_song.read_bytes, None if read_bytes is None else read_bytes / done, "bytes_read"),
        ("wall time of the run", wall_s, None if workers is None else report.seconds, "workers"),
    ]
    remarks = [f"{what}: the report of the run has no {name}" for what, _, real, name in found if real is None]
    target = str(report.details.get("target", ""))
    if target and objects.name(target) != plan.audio:
        remarks.append("the run had other audio settings than the plan, so its songs took other work")
    if report.seconds < _SHORT_S:
        remarks.append(f"a run of {report.seconds:.0f} s is largely its workers' start, which the plan leaves out")
    held = [
        Comparison(quantity=what, planned=planned, real=real, ratio=real / planned.mean if planned.mean else None)
        for what, planned, real, _ in found
        if real is not None
    ]
    return held, remarks


def _number(report: Report, name: str) -> float | None:
    value = report.details.get(name)
    return float(value) if isinstance(value, int | float) else None


def _plan_uri(workspace: Workspace) -> str:
    return objects.join(workspace.reports, "plan.json")
