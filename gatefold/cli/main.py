"""The command line's verbs: each parses its arguments, calls one function and prints the result.

A verb imports what it needs when it runs, so `gatefold --help` is instant. Nothing is decided here that another program
could want to know; nothing imports this module.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatefold.cli.backfill_command import backfill
from gatefold.cli.export_commands import export, preflight
from gatefold.cli.generate_commands import SONG, adapt, generate, load_release
from gatefold.cli.key_commands import keys_app
from gatefold.cli.planning_commands import doctor, plan
from gatefold.cli.serve_command import Host, Open, Port, deploy_endpoint, keep_serving, prepare_keys, serve
from gatefold.cli.session import Command, Commands, Session, packaged, readable
from gatefold.cli.stopping import handle_signals
from gatefold.cli.terminal import Terminal, table
from gatefold.cli.workspace_commands import opt_out, rejects_app, release_app, status

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 misused, 3 done with rejects above the limit, 130 and 143 stopped. "
    "--workspace, --config, --set, --json and --verbose may stand before or after the verb.",
)
DEMO_FEWEST = 60
"""songs of a demo, the fewest that it is tested with"""
_STAGES, _USE, _MAINTAIN = "Stages, in their order", "Use", "Maintain"


@app.callback()
def gatefold(
    context: typer.Context,
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", metavar="URI", help="Folder or s3://bucket/prefix of all results [./workspace]."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML with settings that differ from the defaults.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, as in encoder.epochs=120; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout; all else on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray and Ray Serve log, on stderr.")] = False,
) -> None:
    """From songs to album covers: learn from a catalogue, then find the covers nearest to a song and make new ones.

    Begin with [bold]gatefold demo[/bold]. With songs of your own, [bold]gatefold run SOURCE[/bold] does all stages:

    catalogue → spectrograms, covers → train-encoder → embed → index → train-generator → evaluate → release

    Then [bold]search[/bold], [bold]generate[/bold] or [bold]serve[/bold].
    """
    context.obj = Command(workspace, config, overrides or [], Terminal(as_json=as_json, verbose=verbose))


@app.command(rich_help_panel=_USE)
def demo(
    context: typer.Context,
    serve: Annotated[bool, typer.Option(help="Serve at the end.")] = True,
    songs: Annotated[
        int | None,
        typer.Option(min=DEMO_FEWEST, show_default="1,200", help="Songs to compose; fewer are faster and teach less."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    is_open: Open = False,
) -> None:
    """Everything once, on songs composed here: catalogue, training, evaluation, examples, and the page in your browser.

    It goes into the workspace, so that all verbs find it there; one with songs of your own is refused.

    Example: gatefold demo --songs 300
    """
    if songs is not None:
        context.obj.overrides[:0] = [f"synthesis.songs={songs}", f"synthesis.artists={min(songs, max(8, songs // 5))}"]
    session: Session = context.obj.open()
    from gatefold.cli.demo_workspace import place_of_songs

    first_key = prepare_keys(session, host, is_open=is_open) if serve else None
    songs_uri = place_of_songs(session.workspace)
    session.connect()
    from pipelines.catalogue.synthesize import synthesize
    from pipelines.evaluation.examples import make_examples
    from pipelines.run import run_all

    settings, workspace = session.settings, session.workspace
    composed = session.watch("synthesize", partial(synthesize, settings, songs_uri))
    run_all(settings, str(composed.details["manifest"]), workspace, session.watch)
    session.watch("examples", partial(make_examples, settings, packaged("gatefold", "examples"), workspace))
    endpoint = deploy_endpoint(session, host, port, is_open=is_open) if serve else None
    _show_demo(session, endpoint.url if endpoint else None, first_key)
    if endpoint:
        keep_serving(session, endpoint)


def _show_demo(session: Session, url: str | None, first_key: str | None) -> None:
    from gatefold.cli.demo_workspace import workspace_option

    details = {report.stage: report.details for report in session.reports}
    measures: Any = details["evaluate"].get("table", [])  # none where too few songs are held out
    sheets = {stage: str(found["sheet"]) for stage, found in details.items() if "sheet" in found}
    report = f"{session.workspace.reports}/evaluate.json"
    session.terminal.result(
        {
            "stages": [report.model_dump() for report in session.reports],
            "evaluation": measures,
            "sheets": sheets,
            "report": report,
            "url": url,
            **({"first_key": first_key} if first_key else {}),
        },
        *_tables(measures),
        *([f"\nheld-out songs  {readable(sheets['evaluate'])}"] if "evaluate" in sheets else []),
        f"{'free clips':<15} {readable(sheets['examples'])}",
        f"{'report':<15} {readable(report)}",
        *([f"\n{url}"] if url else []),
    )
    session.terminal.note(f"\nwith a song of your own: gatefold {workspace_option(session.workspace)}search song.mp3")


def _tables(measures: Any) -> "list[Table]":
    from gatefold.evaluation.scorecard import measure_tables

    return [table(one.columns, one.rows, right=one.columns[1:]) for one in measure_tables(measures)]


@app.command(rich_help_panel=_STAGES)
def run(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(help="Manifest or folder of songs; the catalogue as it stands when left out.")
    ] = None,
) -> None:
    """All stages, one after the other; each does only what is stale.

    A catalogue that has changed trains its models anew; with train.reuse_models=true it goes on with those that serve.

    Example: gatefold --workspace s3://music/gatefold run s3://music/songs.parquet
    """
    session: Session = context.obj.open()
    session.check_source(source)
    session.connect()
    from pipelines.run import run_all

    reports = run_all(session.settings, source, session.workspace, session.watch)
    session.terminal.result({"stages": [report.model_dump() for report in reports]})


@app.command(rich_help_panel=_STAGES)
def catalogue(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Manifest (.parquet, .csv, .jsonl) or folder of songs, on disk or in S3.")
    ],
) -> None:
    """Which songs there are: read a manifest or scan a folder; again, it adds, updates and removes.

    Example: gatefold catalogue ~/Music
    """
    session: Session = context.obj.open()
    session.check_source(source)
    session.connect()
    session.terminal.result(session.build_catalogue(source).model_dump())


def _stage(verb: str, sentence: str, example: str) -> None:
    """Adds the command of a stage that needs nothing but settings and workspace."""

    def command(context: typer.Context) -> None:
        session: Session = context.obj.open()
        session.check_source(None)
        session.connect()
        session.terminal.result(session.run_stage(verb).model_dump())

    app.command(verb, rich_help_panel=_STAGES, help=f"{sentence}\n\nExample: gatefold {example}")(command)


_stage(
    "spectrograms",
    "Spectrograms of all songs: log-mel windows, each file read once.",
    "spectrograms --set audio.windows=5",
)
_stage(
    "covers",
    "Pixels of all covers: squares, each file read once.",
    "covers --set cover.size=128",
)
_stage(
    "train-encoder",
    "Train the two towers of the encoder, for songs and for covers; resumes.",
    "train-encoder --set train.use_gpu=true",
)
_stage(
    "embed",
    "Embeddings of all songs and covers of the catalogue.",
    "embed",
)
_stage(
    "index",
    "The index that finds the covers nearest to a song.",
    "index",
)
_stage(
    "train-generator",
    "Calibrate or train the generator of new covers; a training resumes.",
    "train-generator --set originality.max_share=0.15",
)


@app.command(rich_help_panel=_STAGES)
def evaluate(
    context: typer.Context,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="VERSION",
            help="An encoder of this workspace, in place of the release; repeatable.",
        ),
    ] = None,
    generators: Annotated[
        bool, typer.Option("--generators", help="Every generator of this workspace beside real covers.")
    ] = False,
) -> None:
    """Measure the release on songs of artists that were not in training: a table and a contact sheet.

    Example: gatefold evaluate --json
    """
    session: Session = context.obj.open()
    session.check_source(None)
    session.connect()
    if generators:
        _compare_generators(session)
        return
    if not compare:
        measured = session.run_stage("evaluate")
        session.terminal.result(measured.model_dump(), *_tables(measured.details.get("table", [])))
        return
    from gatefold.evaluation.scorecard import side_by_side
    from pipelines.evaluation.encoder_comparison import compare_encoders

    report = session.watch("compare", partial(compare_encoders, session.settings, session.workspace, compare))
    encoders: Any = report.details["encoders"]
    heads = [f"{encoder['loss']}\n{encoder['version']}" for encoder in encoders]
    compared = side_by_side(heads, [encoder["table"] for encoder in encoders])
    session.terminal.result(
        report.model_dump(),
        table(compared.columns, compared.rows, right=compared.columns[1:]),
        f"\n{report.details['held_out']} held-out songs by {report.details['artists']} artists; "
        "±: half the 95 % interval over artists",
    )


def _compare_generators(session: Session) -> None:
    from pipelines.evaluation.generator_comparison import compare_generators
    from pipelines.evaluation.generator_tables import readable_sections

    report = session.watch("compare-generators", partial(compare_generators, session.settings, session.workspace))
    shown: list[Any] = []
    for title, section in readable_sections(report.details).items():
        shown += [f"\n{title}", table(section.columns, section.rows, right=section.columns[1:])]
    session.terminal.result(report.model_dump(), *shown)


app.add_typer(release_app, name="release", rich_help_panel=_STAGES)


@app.command(rich_help_panel=_USE)
def search(
    context: typer.Context,
    song: Annotated[str, typer.Argument(help=SONG)],
    k: Annotated[int, typer.Option("-k", min=1, help="Covers to find.")] = 100,
) -> None:
    """The covers of the catalogue closest to a song.

    Example: gatefold search song.mp3 -k 10
    """
    session: Session = context.obj.open()
    with session.terminal.waiting("loading the encoder and the index"):
        loaded = load_release(session)
    encoded = loaded.encode_song(song)
    matches = loaded.search(encoded, k)
    rows = [(m.rank, f"{m.score:.3f}", m.track.title, m.track.artist, m.track.genre, m.track.song_id) for m in matches]
    session.terminal.result(
        {
            "song": song,
            "release": loaded.release.version,
            "encoder": loaded.encoder.fingerprint,
            "matches": [match.model_dump() for match in matches],
        },
        table(("rank", "score", "title", "artist", "genre", "song_id"), rows, right=("rank", "score")),
    )


app.command(rich_help_panel=_USE)(serve)
app.command(rich_help_panel=_USE)(generate)
app.command(rich_help_panel=_USE)(adapt)
app.command(rich_help_panel=_USE)(export)
app.command(rich_help_panel=_USE)(preflight)
app.command(rich_help_panel=_USE)(backfill)
app.command(rich_help_panel=_MAINTAIN)(status)
app.command(rich_help_panel=_MAINTAIN)(plan)
app.command(rich_help_panel=_MAINTAIN)(doctor)
app.add_typer(rejects_app, name="rejects", rich_help_panel=_MAINTAIN)
app.add_typer(keys_app, name="keys", rich_help_panel=_MAINTAIN)
app.command("opt-out", rich_help_panel=_MAINTAIN)(opt_out)


def main() -> None:
    """The console script."""
    handle_signals()
    app()
