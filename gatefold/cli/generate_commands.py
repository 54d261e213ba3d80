"""Verbs for new covers, and for a LoRA of a song's nearest covers. `gatefold.cli.main` puts them on the
command line."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatefold.cli.session import Session
from gatefold.errors import InvalidSettings

if TYPE_CHECKING:
    from gatefold.generator.interface import Generated, GenerationRequest
    from gatefold.storage.models.loaded_release import LoadedRelease

SONG = "A sound file, its s3:// URI, or a song_id of the catalogue."
BATCH = "Calls as JSON lines, as POST /v1/batches takes them; resumes."


def load_release(session: Session) -> "LoadedRelease":
    """The models of the release that serves. Raises: BundleNotFound where there is none."""
    from gatefold.storage.models.loaded_release import load_active_release

    settings = session.settings
    return load_active_release(session.workspace, settings.generator, settings.originality, device=settings.device)


def generate(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the pictures.")],
    song: Annotated[str | None, typer.Argument(help=SONG)] = None,
    batch: Annotated[Path | None, typer.Option("--batch", metavar="FILE", help=BATCH)] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Covers to generate.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the first cover; the same seed gives the same cover.")] = 0,
    size: Annotated[int, typer.Option(min=16, max=3000, help="Pixels a side.")] = 512,
    novelty: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="0 stays close to single covers, 1 mixes small parts of many."),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="SONG_ID", help="One of the nearest covers to make them from; repeatable."),
    ] = None,
    palette_from: Annotated[
        str | None, typer.Option("--palette-from", metavar="SONG_ID", help="One of the nearest, whose colours lead.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Denoising steps of a generator of kind transformer.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=30, help="Guidance of a generator of kind transformer or diffusers.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(min=0, max=1, help="How far a pre-trained model departs, for kind diffusers.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="VERSION", help="A LoRA of `gatefold adapt`, for kind diffusers.")
    ] = None,
) -> None:
    """New covers for a song, each with the covers it is made from; a manifest beside them has all that replays them.

    With --batch it answers a file of calls, searches among them: output.jsonl and errors.jsonl in the folder.

    Example: gatefold generate song.mp3 -n 4 --seed 7 -o covers
    """
    session: Session = context.obj.open()
    _refuse_file(folder)
    if batch is not None:
        _refuse_beside_batch(context, batch)
        _generate_batch(session, batch, folder)
        return
    if song is None:
        raise InvalidSettings("a song is missing: give a file, an s3:// URI or a song_id, or --batch FILE")
    from gatefold.generator.interface import GenerationRequest

    request = GenerationRequest(size, novelty, palette_from, steps, guidance, strength, adapter)
    _generate_for(session, song, folder, range(seed, seed + n), request, sources)


def _generate_for(
    session: Session, song: str, folder: Path, seeds: range, request: "GenerationRequest", sources: list[str] | None
) -> None:
    with session.terminal.waiting("loading the models"):
        loaded = load_release(session)
    from gatefold.generator.records import write_covers

    encoded = loaded.encode_song(song)
    with session.terminal.progress("generating") as on_step:
        made = loaded.generate(encoded, seeds=seeds, request=request, source_song_ids=sources, on_step=on_step)
    record = write_covers(folder, encoded.name, made.covers, made.record, partial(_png, session, made.record))
    shown = [str(folder / name) for name in record["pictures"]]
    refused = [f"seed {one['seed']}: none, since {one['detail']}" for one in record["covers"] if "refused" in one]
    session.terminal.result({**record, "folder": str(folder.resolve())}, *shown, *refused)


def _refuse_file(folder: Path) -> None:
    """Raises: InvalidSettings where the folder for the pictures is a file; before models are loaded."""
    if folder.exists() and not folder.is_dir():
        raise InvalidSettings(f"-o '{folder}' is a file; name a folder for the pictures")


def _refuse_beside_batch(context: typer.Context, batch: Path) -> None:
    """Raises: InvalidSettings for what the lines of a batch say themselves."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ("folder", "batch") and source is not None and source.name == "COMMANDLINE":
            raise InvalidSettings(f"--batch '{batch}' goes with -o alone, not with '{name}': its lines say that")


def _generate_batch(session: Session, file: Path, folder: Path) -> None:
    from serve.batches.batch_file import ERRORS, OUTPUT, check_file, run_file

    limits = session.settings.serve
    count = check_file(file, limits)
    with session.terminal.waiting("loading the models"):
        loaded = load_release(session)
    with session.terminal.progress("answering") as on_step:
        done = run_file(file, folder, loaded, limits, partial(_png, session), lambda number: on_step(number, count))
    shown = [f"{folder / OUTPUT}  {done.answered:,} answered, {done.done_before:,} before"]
    if done.failed:
        shown.append(f"{folder / ERRORS}  {done.failed:,} failed")
    session.terminal.result({**asdict(done), "lines": count, "folder": str(folder.resolve())}, *shown)


def _png(session: Session, record: dict[str, Any], generated: "Generated") -> bytes:
    """The same file as the endpoint gives for this cover."""
    from gatefold.export.disclosure import Disclosure, SourceShare, source_type_of
    from gatefold.export.export import picture_file

    shares = generated.attribution.shares if generated.attribution else ()
    disclosure = Disclosure(
        source_type_of(record["generator"]),
        session.settings.export.credit,
        sources=tuple(SourceShare(one.song_id, one.share) for one in shares),
    )
    side = generated.pixels.shape[-1]
    return picture_file(generated.pixels, (side, side), "png", 100, disclosure)


def adapt(
    context: typer.Context,
    song: Annotated[str, typer.Argument(help=SONG)],
) -> None:
    """Train a LoRA of the pre-trained model on the covers nearest to a song; resumes.

    A request for covers of generator.kind diffusers can name it by its version.

    Example: gatefold adapt song.mp3 --set generator.diffusers.model=/models/stable-diffusion-v1-5
    """
    session: Session = context.obj.open()
    session.check_release()
    session.connect()
    from pipelines.training.adapt import adapt as train

    report = session.watch("adapt", partial(train, session.settings, song, session.workspace))
    covers = report.details["covers"]
    session.terminal.result(
        report.model_dump(),
        f"adapter  {report.details['version']}",
        f"covers   {len(covers) if isinstance(covers, list) else 0}",
    )
