"""Examples: matches and a new cover for each of some songs outside the catalogue, and a contact sheet."""

import io
import json
import time
from pathlib import Path

from gatefold.audio.spectrograms import spectrogram_picture
from gatefold.config import Settings
from gatefold.errors import NotFound
from gatefold.generator.interface import GenerationRequest
from gatefold.generator.records import sources_text
from gatefold.images.contact_sheet import Pixels, SheetRow, draw_contact_sheet
from gatefold.images.pixels import decode_cover, encode_picture
from gatefold.progress import OnProgress, silent
from gatefold.records import Match
from gatefold.storage import leases, objects
from gatefold.storage.contents import releases
from gatefold.storage.contents.embedded_pictures import read_cover
from gatefold.storage.contents.releases import Release
from gatefold.storage.leases import Lease
from gatefold.storage.models.loaded_release import EncodedSong, GeneratedForSong, LoadedRelease
from gatefold.workspace import Workspace
from pipelines.report import Report, read_report, write_report

STAGE = "examples"
SHEET = "contact-sheet.png"
SEED = 7
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff")
_MATCHES, _NEAREST = 100, 10  # covers kept of each song, and shown on the sheet


def make_examples(
    settings: Settings, songs: Path, workspace: Workspace, on_progress: OnProgress = silent
) -> Report:
    """Writes `examples/<song>.png`, of the generator's own size, `examples/<song>.json` and a contact sheet, with the
    release that serves.

    Nothing is done where they were made with this release already, and are there. Raises: NotFound for a folder without
    songs; RunInProgress.
    """
    began = time.monotonic()
    release = releases.current(workspace)
    last = read_report(workspace, STAGE)
    made = last is not None and last.details.get("release") == release.version
    if last is not None and made and objects.exists(str(last.details["sheet"])):  # the folder may have been deleted
        return last.model_copy(update={"done": 0, "skipped": last.done, "seconds": time.monotonic() - began})
    paths = sorted(path for path in songs.iterdir() if path.suffix.lower() in SUFFIXES) if songs.is_dir() else []
    if not paths:
        raise NotFound(f"'{songs}' holds no songs; expected files ending in {', '.join(SUFFIXES)}")
    with leases.hold(workspace.lease(STAGE)) as lease:
        return _make(settings, paths, workspace, release, lease, on_progress)


def _make(
    settings: Settings, paths: list[Path], workspace: Workspace, release: Release, lease: Lease, on_progress: OnProgress
) -> Report:
    began = time.monotonic()
    folder = objects.join(workspace.uri, STAGE)
    loaded = LoadedRelease(workspace, release, settings.generator, settings.originality, device=settings.device)
    rows = []
    on_progress(0, len(paths))
    for done, path in enumerate(paths, start=1):
        lease.check()
        rows.append(_make_one(loaded, str(path), folder))
        on_progress(done, len(paths))
    png = io.BytesIO()
    draw_contact_sheet(rows).save(png, "PNG")
    sheet = objects.join(folder, SHEET)
    objects.put(sheet, png.getvalue())
    details = {"release": release.version, "folder": folder, "sheet": sheet}
    report = Report(
        stage=STAGE, done=len(paths), skipped=0, rejected=0, seconds=time.monotonic() - began, details=dict(details)
    )
    write_report(workspace, report)
    return report


def _make_one(loaded: LoadedRelease, path: str, folder: str) -> SheetRow:
    encoded = loaded.encode_song(path)
    matches = loaded.search(encoded, _MATCHES)
    generated = loaded.generate(encoded, seeds=[SEED], request=GenerationRequest())
    for cover in generated.new:
        texts = {"gatefold:sources": sources_text(cover.generated)}
        pixels = cover.generated.pixels
        png = encode_picture(pixels, pixels.shape[-1], "png", texts)
        objects.put(objects.join(folder, f"{encoded.name}.png"), png)
    record = {**generated.record, "matches": [match.model_dump() for match in matches]}
    objects.put(objects.join(folder, f"{encoded.name}.json"), json.dumps(record, ensure_ascii=False, indent=1).encode())
    return _row(loaded, encoded, matches[:_NEAREST], generated)


def _row(loaded: LoadedRelease, encoded: EncodedSong, matches: list[Match], generated: GeneratedForSong) -> SheetRow:
    assert encoded.song is not None  # it came from a file
    genres = [match.track.genre for match in matches if match.track.genre]
    nearest = max(set(genres), key=genres.count) if genres else ""
    return SheetRow(
        title=encoded.name.replace("_", " "),
        subtitle=f"mostly near {nearest}" if nearest else "",
        spectrogram=spectrogram_picture(encoded.song),
        nearest=[_picture(loaded, match) for match in matches],
        new=[cover.generated.pixels for cover in generated.new],
    )


def _picture(loaded: LoadedRelease, match: Match) -> Pixels:
    cover, uri = loaded.encoder.cover, loaded.index.get(match.track.song_id).cover_uri
    if uri is None:
        raise NotFound(f"track '{match.track.song_id}' has an embedded cover, but no cover_uri; build the index anew")
    return decode_cover(read_cover(uri, cover.max_bytes), cover)
