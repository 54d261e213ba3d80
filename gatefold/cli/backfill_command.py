"""The verb that gives covers to songs that have none. `gatefold.cli.main` puts it on the command line."""

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatefold.cli.session import Session, readable

if TYPE_CHECKING:
    from pipelines.backfill.songs import BackfillPlan
    from pipelines.report import Report

_SHOWN = 20
"""songs that are printed of each list"""


class Into(StrEnum):
    """Where a new cover is written."""

    FILE = "file"
    TAGS = "tags"
    MANIFEST = "manifest"


def backfill(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(help="A folder of audio, an s3:// prefix, or a manifest (.parquet, .csv, .jsonl).")
    ] = None,
    into: Annotated[
        Into, typer.Option(help="cover.jpg beside the songs, a picture in their tags, or a manifest in the workspace.")
    ] = Into.FILE,
    write: Annotated[bool, typer.Option("--write", help="Do it; else only say what would be done.")] = False,
    undo: Annotated[
        str | None, typer.Option("--undo", metavar="RUN", help="Take back what a run wrote, byte for byte.")
    ] = None,
    size: Annotated[int, typer.Option(min=16, max=3000, help="Pixels a side.")] = 1000,
    novelty: Annotated[
        float | None, typer.Option(min=0, max=1, help="0 stays close to single covers, 1 mixes small parts of many.")
    ] = None,
) -> None:
    """A new cover for every song or album that has none; an existing one is never replaced. Continues where it stopped.

    Example: gatefold backfill ~/Music --into tags --write
    """
    session: Session = context.obj.open()
    _check_arguments(source, undo, write=write)
    if undo is not None:
        from pipelines.backfill.backfill import undo as take_back

        report = session.watch("backfill-undo", partial(take_back, session.workspace, undo))
        session.terminal.result(report.model_dump(), f"restored  {report.done:,}", *_left(report.details["left"]))
        return
    assert source is not None
    session.check_source(source)
    if write:
        session.check_release()
    session.connect()
    if not write:
        _preview(session, source, into)
        return
    from pipelines.backfill.backfill import backfill as fill

    job = partial(
        fill, session.settings, source, session.workspace, into=into.value, size=size, novelty=novelty
    )  # fmt: skip
    report = session.watch("backfill", job)
    session.terminal.result(report.model_dump(), *_written(report))


def _check_arguments(source: str | None, undo: str | None, *, write: bool) -> None:
    """Raises: InputError."""
    from gatefold.errors import InputError

    if (source is None) == (undo is None):
        raise InputError("backfill takes either a SOURCE or --undo RUN")
    if undo is not None and write:
        raise InputError("--write does not go with --undo, which writes by itself")


def _preview(session: Session, source: str, into: Into) -> None:
    from pipelines.backfill.backfill import preview

    with session.terminal.progress("looking at tags") as on_progress:
        plan = preview(source, session.workspace, into.value, on_progress)
    session.terminal.result(_plan_record(plan, into), *_planned(plan, into))


def _plan_record(plan: "BackfillPlan", into: Into) -> dict[str, Any]:
    return {
        "source": plan.source,
        "into": into.value,
        "songs": plan.songs,
        "covered": plan.covered,
        "groups": [{"album": one.album, "songs": [song.uri for song in one.songs]} for one in plan.groups],
        "left": [{"song_id": one.song_id, "uri": one.uri, "reason": one.reason} for one in plan.left],
    }


def _planned(plan: "BackfillPlan", into: Into) -> list[str]:
    count = sum(len(one.songs) for one in plan.groups)
    lines = [f"{count:,} of {plan.songs:,} songs would get one of {len(plan.groups):,} new covers"]
    for one in plan.groups[:_SHOWN]:
        name = readable(one.songs[0].uri)
        lines.append(f"  {name}" + (f" and {len(one.songs) - 1:,} more of '{one.album}'" if one.songs[1:] else ""))
    if len(plan.groups) > _SHOWN:
        lines.append(f"  and {len(plan.groups) - _SHOWN:,} more; --json lists all")
    left = [{"uri": one.uri, "reason": one.reason} for one in plan.left]
    return [*lines, *_left(left), f"nothing was written; --into {into.value} --write does it"]


def _written(report: "Report") -> list[str]:
    details: dict[str, Any] = report.details
    if details["run"] is None:
        return ["nothing to do: no song without a cover", *_left(details["left"])]
    lines = [f"run      {details['run']}", f"written  {details['written']:,} of {details['songs']:,} songs"]
    if "manifest" in details:
        lines.append(f"manifest {readable(details['manifest'])}")
    return [*lines, *_left(details["left"]), f"gatefold backfill --undo {details['run']} takes it back"]


def _left(left: Any) -> list[str]:
    lines = [f"  left as it is: {readable(one['uri'])}: {one['reason']}" for one in left[:_SHOWN]]
    return [*lines, f"  and {len(left) - _SHOWN:,} more left; --json lists them"] if len(left) > _SHOWN else lines
