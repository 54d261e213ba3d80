"""Verbs for a workspace: status, rejects, releases, opt-outs.

`gatefold.cli.main` puts them on the command line. None but a retry needs Ray.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gatefold.cli.session import Session, readable, workspaces_elsewhere
from gatefold.cli.terminal import sparkline, table

if TYPE_CHECKING:
    from gatefold.storage.contents.releases import Release

release_app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")
rejects_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Songs and covers that could not be used: list them, or try them again.",
)
_NO_SUCH_REJECTS = "no such rejects; `gatefold rejects list` shows those there are"
_StageOption = Annotated[str | None, typer.Option("--stage", metavar="STAGE", help="Only of this stage.")]


@release_app.callback()
def release(context: typer.Context) -> None:
    """Bind encoder, index and generator together and make them what serves; or list, activate, roll back.

    Example: gatefold release rollback
    """
    if context.invoked_subcommand is None:
        session: Session = context.obj.open()
        session.terminal.result(session.run_stage("release").model_dump())


@release_app.command("list")
def list_releases(context: typer.Context) -> None:
    """All releases, the oldest first."""
    session: Session = context.obj.open()
    from gatefold.errors import BundleNotFound
    from gatefold.storage.contents import releases

    try:
        serving = releases.current(session.workspace).version
    except BundleNotFound:
        serving = None
    found = releases.list_releases(session.workspace)
    rows = [
        (
            "→" if one.version == serving else "",
            one.version,
            one.created_at,
            one.encoder.version,
            one.index.version,
            one.generator.version,
        )
        for one in found
    ]
    heads = ("", "release", "made", "encoder", "index", "generator")
    session.terminal.result({"current": serving, "releases": [one.model_dump() for one in found]}, table(heads, rows))


@release_app.command()
def activate(
    context: typer.Context, version: Annotated[str, typer.Argument(help="As `gatefold release list` shows it.")]
) -> None:
    """Make a release the one that serves."""
    from gatefold.storage.contents import releases

    session: Session = context.obj.open()
    _show_release(session, releases.activate(session.workspace, version))


@release_app.command()
def rollback(context: typer.Context) -> None:
    """Make the release serve again that served before."""
    from gatefold.storage.contents import releases

    session: Session = context.obj.open()
    _show_release(session, releases.rollback(session.workspace))


def _show_release(session: Session, active: "Release") -> None:
    session.terminal.result(
        active.model_dump(), f"release {active.version} serves now; an endpoint that runs goes over to it by itself"
    )


def opt_out(
    context: typer.Context,
    song_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[SONG_ID]...", help="Songs to withdraw; lists all when left out.")
    ] = None,
) -> None:
    """Withdraw songs for their artists: no search finds them any more, no new cover is made of them; or list them.

    It holds for every search from now on; an endpoint that runs follows within `serve.poll_interval_s`. The next
    `gatefold index` is built without them. To take one back, delete its object under `optouts/`, whose name
    is the SHA-256 of the song_id, and index again.

    Example: gatefold opt-out song-17 song-23
    """
    session: Session = context.obj.open()
    import pyarrow as pa
    import pyarrow.compute as pc

    from gatefold.errors import StageMissing
    from gatefold.storage.contents import optouts
    from gatefold.storage.contents.catalogues import read_tracks

    session.check_workspace()
    workspace = session.workspace
    made = [optouts.withdraw(workspace, song_id) for song_id in song_ids or []]
    shown = made if song_ids else sorted(optouts.read_all(workspace).values(), key=lambda one: (one.at, one.song_id))
    try:
        catalogued = read_tracks(workspace, ["song_id"])["song_id"]
    except StageMissing:
        catalogued = pa.chunked_array([], pa.string())
    named = pa.array([one.song_id for one in made], pa.string())
    unknown = named.filter(pc.invert(pc.is_in(named, value_set=catalogued.combine_chunks()))).to_pylist()
    session.terminal.result(
        {"optouts": [one.model_dump() for one in shown], "not_in_catalogue": unknown},
        table(("withdrawn", "song_id"), [(one.at, one.song_id) for one in shown]) if shown else "no opt-outs",
    )
    for song_id in unknown:
        session.terminal.note(
            f"'{song_id}' is withdrawn, but not in the catalogue; where it is a slip, delete "
            f"'{optouts.uri_of(workspace, song_id)}'"
        )


def status(context: typer.Context) -> None:
    """How far the workspace is: what is done, rejected, running, stale or missing, and which release serves.

    Example: gatefold status --json
    """
    session: Session = context.obj.open()
    from pipelines.status import status_of

    found = status_of(session.settings, session.workspace)
    rows = [
        (one.stage, one.state, one.done, one.total, one.rejected or None, one.version, sparkline(one.curve))
        for one in found.stages
    ]
    session.terminal.result(
        asdict(found),
        f"workspace  {readable(found.workspace)}",
        f"source     {readable(found.source) if found.source else '–'}",
        f"release    {found.release or '–'}\n",
        table(("stage", "state", "done", "of", "rejected", "version", "loss"), rows, right=("done", "of", "rejected")),
    )
    if near := workspaces_elsewhere(session.workspace):
        session.terminal.note(f"nothing is in this workspace{near}")


def _check_stage(stage: str | None) -> None:
    """Raises: InvalidSettings for a stage that rejects nothing."""
    from gatefold.errors import InvalidSettings
    from pipelines.extraction.stages import COVERS, EMBED, SPECTROGRAMS

    known = ("catalogue", SPECTROGRAMS, COVERS, EMBED)
    if stage not in (None, *known):
        raise InvalidSettings(f"--stage '{stage}': allowed: {', '.join(known)}")


@rejects_app.command("list")
def list_rejects(context: typer.Context, stage: _StageOption = None) -> None:
    """What was rejected and why, counted by stage and code, with an example of each.

    Example: gatefold rejects list --stage covers
    """
    session: Session = context.obj.open()
    from pipelines.extraction.rejects import count_rejects

    session.check_workspace()
    _check_stage(stage)
    groups = count_rejects(session.workspace, stage)
    rows = [(one.stage, one.code, one.count, one.example) for one in groups]
    shown = [table(("stage", "code", "count", "example"), rows, right=("count",))] if rows else ["no rejects"]
    session.terminal.result({"rejects": [asdict(one) for one in groups]}, *shown)


@rejects_app.command("retry")
def retry_rejects(
    context: typer.Context,
    stage: _StageOption = None,
    code: Annotated[str | None, typer.Option("--code", metavar="CODE", help="Only with this code.")] = None,
) -> None:
    """Try rejected songs again, after their files or the settings were corrected.

    Songs of the same stage that are still to be done run along.

    Example: gatefold rejects retry --code audio_too_long --set audio.max_duration_s=3600
    """
    session: Session = context.obj.open()
    _check_stage(stage)
    from pipelines.extraction.rejects import count_rejects, remove_rejects

    stages = list(
        dict.fromkeys(one.stage for one in count_rejects(session.workspace, stage) if code in (None, one.code))
    )
    if stages:
        session.connect()
    retried = {}
    reports = []
    for one in stages:
        retried[one] = remove_rejects(session.workspace, one, code)
        reports.append(session.rebuild_catalogue() if one == "catalogue" else session.run_stage(one))
    session.terminal.result(
        {"retried": retried, "stages": [report.model_dump() for report in reports]},
        *([f"{one}: {count:,} tried again" for one, count in retried.items()] or [_NO_SUCH_REJECTS]),
    )
