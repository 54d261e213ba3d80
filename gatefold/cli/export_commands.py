"""The verbs that make a cover ready for the stores, and check any file. `gatefold.cli.main` puts them on the command
line. They need no workspace and no Ray."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatefold.cli.session import Session
from gatefold.cli.terminal import table

if TYPE_CHECKING:
    from rich.table import Table

    from gatefold.export.disclosure import Disclosure
    from gatefold.export.export import Exported
    from gatefold.export.preflight import Check
    from gatefold.export.profiles import Format, Profile

_PROFILE = "spotify, apple, distrokid, bandcamp, social-9x16 or social-16x9."
_Profile = Annotated[str | None, typer.Option("--profile", metavar="NAME", help=_PROFILE)]


def export(
    context: typer.Context,
    picture: Annotated[Path, typer.Argument(help="A picture, as `gatefold generate` makes them.")],
    file: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="To write; its suffix is the format.")],
    profile: _Profile = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side, 16 to 3000, without a profile.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the release, exactly as it is delivered.")] = None,
    artist: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    layout: Annotated[str, typer.Option(help="auto, corner, band or poster.")] = "auto",
    letters: Annotated[
        bool, typer.Option("--letters/--no-letters", help="Set title and artist on the picture.")
    ] = True,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Of JPEG and WebP at most.")] = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            "--sources", metavar="JSON",
            help="Which covers it is made from: NAME.json of `gatefold generate`; else what lies beside it.",
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="local-score, transformer or diffusers, where nothing else says so."),
    ] = None,
    creator: Annotated[str | None, typer.Option(help="Whose cover it is; the artist's when absent.")] = None,
) -> None:
    """A cover as a store demands it: size, colours, bytes, title and artist, disclosure, content credentials.

    It is checked before it is written; FILE.json beside it has sources, shares and the preflight.

    Example: gatefold export covers/song-7.png --profile spotify --title Blue --artist Alma -o cover.jpg
    """
    session: Session = context.obj.open()
    from gatefold.export.credentials import load_signer
    from gatefold.export.export import Lettering, export_cover
    from gatefold.export.picture import read_picture

    format, settings = _format_of(file), session.settings
    destination = _destination(profile, size, format)
    opened, texts = read_picture(_bytes_of(picture), settings.cover)
    kind, disclosure = _origin(picture, texts, sources, generator)
    disclosure = replace(disclosure, credit=settings.export.credit, title=title, creator=creator or artist)
    lettering = Lettering(title, artist, layout) if letters and (title or artist) else None
    signer = load_signer(settings.export, os.environ)
    with session.terminal.waiting("exporting"):
        done = export_cover(
            opened, destination, disclosure, lettering=lettering, signer=signer, format=format, quality=quality
        )
    _result(session, file, done, {"generator": kind})


def preflight(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Any picture file.")],
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help=_PROFILE)],
    title: Annotated[str | None, typer.Option(help="As it stands on the picture.")] = None,
    artist: Annotated[str | None, typer.Option(help="Likewise.")] = None,
) -> None:
    """Check any picture file against what a store demands: each rule, what was found, what is allowed.

    Exits 1 where a rule is broken.

    Example: gatefold preflight cover.jpg --profile apple
    """
    session: Session = context.obj.open()
    from gatefold.export.preflight import NOT_MEASURED
    from gatefold.export.preflight import preflight as check
    from gatefold.export.profiles import profile_named

    checks = check(_bytes_of(file), profile_named(profile), title=title, artist=artist)
    passed = all(one.passed for one in checks)
    facts: dict[str, Any] = {"file": str(file.resolve()), "profile": profile, "passed": passed}
    facts |= {"preflight": [asdict(one) for one in checks], "not_measured": list(NOT_MEASURED)}
    session.terminal.result(facts, _table(checks), "\nfor you to judge: " + "; ".join(NOT_MEASURED))
    if not passed:
        raise typer.Exit(1)


def _origin(
    picture: Path, texts: dict[str, str], sources: Path | None, generator: str | None
) -> "tuple[str, Disclosure]":
    """The kind of generator, and what is to be said of the picture. Raises: InputError where the kind is not known."""
    from gatefold.errors import InputError
    from gatefold.export.disclosure import Disclosure, source_type_of
    from gatefold.export.provenance import manifest_beside, read_provenance

    known = read_provenance(picture, texts, sources or manifest_beside(picture))
    kind = generator or known.generator
    if kind is None:
        raise InputError(f"'{picture}': which kind of generator made it is not known, and the disclosure needs it; "
                         "name its JSON by --sources or the kind by --generator")  # fmt: skip
    return kind, Disclosure(source_type_of(kind), "", None, None, known.sources, known.seed, known.release)


def _result(session: Session, file: Path, done: "Exported", facts: dict[str, Any]) -> None:
    """Writes the file and its sidecar, and says what they are."""
    beside = file.with_name(file.name + ".json")
    facts = {**done.sidecar, **facts}
    _write(file, done.data)
    _write(beside, json.dumps(facts, ensure_ascii=False, indent=1).encode())
    shown = {"file": str(file.resolve()), "sidecar": str(beside.resolve()), **facts}
    session.terminal.result(shown, _table(done.checks), *_notes(facts), f"\n{file}\n{beside}")


def _destination(profile: str | None, size: int | None, format: "Format") -> "Profile":
    """Raises: InputError where it is neither a profile nor a size, or both."""
    from gatefold.errors import InputError
    from gatefold.export.profiles import plain, profile_named

    if profile is not None and size is None:
        return profile_named(profile)
    if size is not None and profile is None:
        return plain(size, format)
    raise InputError("give either --profile or --size")


def _format_of(file: Path) -> "Format":
    from gatefold.errors import InputError

    suffixes: dict[str, Format] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
    if file.suffix.lower() not in suffixes:
        raise InputError(f"output = '{file}' must end with {', '.join(suffixes)}, which is its format")
    return suffixes[file.suffix.lower()]


def _bytes_of(path: Path) -> bytes:
    from gatefold.errors import ObjectNotFound

    try:
        return path.read_bytes()
    except OSError as error:
        raise ObjectNotFound(f"'{path}' cannot be read: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    from gatefold.errors import InputError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"output = '{path}' cannot be written: {error.strerror}") from error


def _table(checks: "list[Check]") -> "Table":
    rows = [("✓" if one.passed else "✗", one.rule, one.found, one.allowed) for one in checks]
    return table(("", "rule", "found", "allowed"), rows)


def _notes(facts: dict[str, Any]) -> list[str]:
    """What an artist should know of the file before he delivers it."""
    notes = []
    if enlarged := facts["enlarged"]:
        side = enlarged["from"][0]
        notes.append(f"enlarged {enlarged['factor']} times from {side} pixels a side; made anew from the originals by "
                     "`gatefold generate --size 3000`")  # fmt: skip
    if not facts["content_credentials"]:
        notes.append("no content credentials: export.certificate_chain and export.private_key name none")
    return [f"note: {note}" for note in notes]
