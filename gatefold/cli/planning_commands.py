"""Verbs before a run: `plan` and `doctor`.

`gatefold.cli.main` puts them on the command line. Neither needs Ray.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gatefold.cli.session import FAILED, Session, packaged, readable
from gatefold.cli.terminal import table

if TYPE_CHECKING:
    from gatefold.cli.doctor import Finding
    from pipelines.planning.estimate import Estimate, Range
    from pipelines.planning.plan import Plan, Verdict

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "red")}


def plan(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="MANIFEST", help="Manifest or folder of songs; the last plan is judged when left out."),
    ] = None,
    songs: Annotated[
        int | None, typer.Option(min=1, help="Songs to plan for; as many as the manifest has when left out.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Songs to measure; more narrow the range.")] = 48,
    cluster: Annotated[
        Path | None,
        typer.Option("--cluster", metavar="FILE", help="The cluster.yaml with your machines; else gatefold's own."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="What you pay for them; else round examples.")
    ] = None,
) -> None:
    """What extracting spectrograms would take: hours, bytes, time and cost, from a sample measured here.

    The output names the file that the prices come from: copy it, write in yours, and name it with --prices. After a
    real run, without MANIFEST: how far off the last plan was.

    Example: gatefold plan s3://music/songs.parquet --songs 10000000
    """
    session: Session = context.obj.open()
    from pipelines.planning.plan import judge_plan, make_plan

    if source is None:
        verdict = judge_plan(session.workspace)
        session.terminal.result(verdict.model_dump(mode="json"), *_show_verdict(verdict))
        return
    prices = prices or packaged("pipelines", "prices.yaml")
    with session.terminal.progress("plan") as on_progress:
        made = make_plan(
            session.settings,
            source,
            session.workspace,
            cluster=cluster or packaged("pipelines", "workers.yaml"),
            prices=prices,
            songs=songs,
            sample=sample,
            on_progress=on_progress,
        )
    session.terminal.result(made.model_dump(mode="json"), *_show_plan(made, prices))


def _show_plan(made: "Plan", prices: Path) -> list[RenderableType]:
    estimate = made.estimate
    rejects = ", ".join(f"{code} {count:,}" for code, count in made.sample_rejects.items())
    return [
        f"{estimate.songs:,} songs, if all are like {made.sample_songs:,} of the {made.songs_in_source:,} in "
        f"{readable(made.source)}",
        *([f"{sum(made.sample_rejects.values()):,} of these cannot be used: {rejects}"] if rejects else []),
        "",
        _show_work(estimate),
        "",
        _show_machines(estimate),
        "",
        "In brackets: what the sample's spread allows (95 %).",
        f"Cost: machines, head and requests, at the prices of {made.prices_as_of} in {prices};",
        f"to keep what is written, {_span(estimate.totals.storage_usd_per_month, _PLAIN)} USD a month more.",
        "Assumed:",
        _show_points("·", made.assumptions),
    ]


def _show_points(mark: str, points: Sequence[str]) -> Table:
    shown = Table.grid(padding=(0, 1, 0, 0))
    for point in points:
        shown.add_row(mark, Text(point))
    return shown


def _show_work(estimate: "Estimate") -> Table:
    one, all_of = estimate.per_song, estimate.totals
    part = one.read_bytes.mean / one.object_bytes.mean if one.object_bytes.mean else 0.0
    requests = _span(one.get_requests, _PLAIN)
    rows = [
        ("computing", _span(one.cpu_s, _SECONDS), ""),
        ("waiting for reads", _span(one.wait_s, _SECONDS), ""),
        ("core time", _span(one.core_s, _SECONDS), f"{_span(all_of.vcpu_hours, _PLAIN)} vCPU-hours"),
        ("reads", requests, f"{all_of.get_requests.mean:,.0f}, and {all_of.put_requests:,} writes"),
        (f"read, {part:.0%} of objects", _span(one.read_bytes, _BYTES), _span(all_of.read_bytes, _BYTES)),
        ("written", _span(one.written_bytes, _BYTES), _span(all_of.written_bytes, _BYTES)),
    ]
    return table(("", "a song", "all songs"), rows)


def _show_machines(estimate: "Estimate") -> Table:
    rows = [
        (
            f"{one.name}{' (spot)' if one.spot else ''}",
            f"{one.machines:,} {one.instance_type}",
            one.vcpus,
            _span(one.wall_hours.times(3600), _SECONDS),
            _span(one.total_usd, _PLAIN),
        )
        for one in estimate.workers
    ]
    here_s = estimate.this_machine_wall_hours.times(3600)
    here = ("this machine", "", estimate.this_machine_cores, _span(here_s, _SECONDS), "")
    return table(("on", "machines", "vCPUs", "wall time", "cost, USD"), [*rows, here], right=("vCPUs",))


def _show_verdict(verdict: "Verdict") -> list[RenderableType]:
    units = {"core time a song": _SECONDS, "read a song": _BYTES, "wall time of the run": _SECONDS}
    rows = []
    for one in verdict.comparisons:
        unit = units[one.quantity]
        off = "–" if one.ratio is None else f"{one.ratio - 1:+.0%}"
        rows.append((one.quantity, _span(one.planned, unit), _sized(one.real, unit), off))
    return [
        f"plan of {verdict.planned_at:%Y-%m-%d %H:%M} against the run of {verdict.ran_at:%Y-%m-%d %H:%M} UTC over "
        f"{verdict.songs:,} songs",
        "",
        table(("", "planned", "real", "off"), rows, right=("off",)),
        *([""] if verdict.remarks else []),
        _show_points("!", verdict.remarks),
    ]


_Units = Sequence[tuple[float, str]]
_PLAIN: _Units = ((1, ""),)
_SECONDS: _Units = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))
_BYTES: _Units = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def _span(estimated: "Range", units: _Units) -> str:
    """`17.2 min (16.1–18.4)`, or `17.2 min` where that is all there is to say."""
    factor, unit = _unit_of(estimated.mean, units)
    mean, low, high = (_digits(value / factor) for value in (estimated.mean, estimated.low, estimated.high))
    brackets = "" if low == high else f" ({low}–{high})"
    return f"{mean} {unit}".rstrip() + brackets


def _sized(value: float, units: _Units) -> str:
    factor, unit = _unit_of(value, units)
    return f"{_digits(value / factor)} {unit}".rstrip()


def _unit_of(value: float, units: _Units) -> tuple[float, str]:
    return next((one for one in units if value >= one[0]), units[-1])


def _digits(value: float) -> str:
    """Three of them; two of what is small."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.0995 else f"{value:.2g}"


def doctor(context: typer.Context) -> None:
    """What is wrong on this machine or with this workspace's store, and what to do about it.

    Exit code 1 when there is a fault.

    Example: gatefold doctor --workspace s3://music/gatefold
    """
    session: Session = context.obj.open()
    from gatefold.cli.doctor import examine

    with session.terminal.progress("doctor") as on_progress:
        findings = examine(session.workspace, on_progress)
    counts = {state: sum(one.state == state for one in findings) for state in ("fault", "warning")}
    session.terminal.result(
        {"healthy": not counts["fault"], "findings": [asdict(one) for one in findings]}, _show_findings(findings)
    )
    if counts["fault"]:
        raise typer.Exit(FAILED)


def _show_findings(findings: Sequence["Finding"]) -> Table:
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for one in findings:
        mark, colour = _MARKS[one.state]
        detail = Text(one.detail)
        if one.remedy:
            detail.append(f"\n→ {one.remedy}", "bold")
        shown.add_row(Text(f"{mark} ", f"bold {colour}") + Text(one.name), detail)
    return shown
