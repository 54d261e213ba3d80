"""A stage over text files: what all stages over blocks share, without audio, models, or else what takes time."""

import hashlib
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa

from gatefold.config import BatchSettings
from gatefold.errors import ObjectNotFound, StorageUnavailable, UndecodableAudio
from gatefold.progress import OnProgress, silent
from gatefold.records import TRACKS
from gatefold.storage import objects, tables
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.workspace import Workspace
from pipelines.extraction.blocks import BlockMapper, BlockResult, map_tracks
from pipelines.extraction.rejects import read_rejects, reject_of
from pipelines.extraction.stages import Stage, spectrogram_tracks
from pipelines.report import Report

BAD, SLOW, LATE, AWAY, DEADLY, LAST = "bad", "slow", "late", "away", "deadly", "last"
"""What a file may say: that it is refused, that it takes a while, that the store hands it out at the second attempt, or
never, that its worker dies of it, once, that it is read when `TextStage.reported` is there. All else is usable."""
PATIENCE_S = 120.0


class TextStage:
    """A workspace in `folder` with a catalogue of text files, and the stage over it."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.folder = folder
        self.workspace = Workspace(objects.resolve(str(folder / "workspace")))
        self.settings = BatchSettings.model_validate({"rows_per_block": 8, "max_reject_share": 1.0} | settings)
        self.target = f"{self.workspace.uri}/words/1"
        self.reported = folder / "reported"
        for name in ("texts", "read"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, texts: Mapping[str, str]) -> None:
        """Makes these, by song_id, the catalogue; an etag is a digest of its text."""
        rows = []
        for song_id, text in texts.items():
            (self.folder / "texts" / song_id).write_text(text)
            etag = hashlib.sha256(text.encode()).hexdigest()[:8]
            uri = objects.resolve(str(self.folder / "texts" / song_id))
            rows.append({"song_id": song_id, "audio_uri": uri, "split": "train", "audio_etag": etag})
        tracks = pa.Table.from_pylist(rows, schema=TRACKS)
        fingerprint = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:16]
        catalogues.replace(self.workspace, Catalogue(fingerprint, len(rows), "file:///texts"), tracks, 1000)

    def stage(self) -> Stage:
        catalogue = catalogues.current(self.workspace)
        assert catalogue is not None
        return Stage("words", self.target, self.workspace, catalogue.fingerprint)

    def run(self, on_progress: OnProgress = silent) -> Report:
        tracks: Callable[[], pa.Table] = partial(spectrogram_tracks, self.workspace)
        make_mapper = partial(_make_mapper, str(self.folder))
        return map_tracks(self.stage(), tracks, make_mapper, self.settings, on_progress=on_progress)

    def rows(self) -> dict[str, list[str]]:
        """The texts of every song, one for each of its rows."""
        found: dict[str, list[str]] = {}
        if tables.parts(self.target):
            for row in tables.read_table(self.target).to_pylist():
                found.setdefault(row["song_id"], []).append(row["text"])
        return found

    def refused(self) -> list[str]:
        return sorted(read_rejects(self.workspace, "words")["song_id"].to_pylist())

    def parts(self) -> dict[str, list[str]]:
        """The songs of each part, by its name."""
        names = tables.parts(self.target)
        return {objects.name(uri): sorted(set(tables.read_part(uri)["song_id"].to_pylist())) for uri in names}

    def times_read(self) -> Counter[str]:
        """How often each song was read since this was last asked."""
        notes = list((self.folder / "read").iterdir())
        counts = Counter(note.name.partition("!")[0] for note in notes)
        for note in notes:
            note.unlink()
        return counts


def usable(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """What `TextStage.rows` must be when all is done: two rows a song."""
    return {song_id: [text, text] for song_id, text in texts.items() if text not in (BAD, AWAY)}


def _make_mapper(folder: str) -> BlockMapper:
    return partial(_read_block, Path(folder))


def _read_block(folder: Path, tracks: pa.Table) -> BlockResult:
    made = BlockResult(pa.table({"song_id": pa.array([], pa.string()), "text": pa.array([], pa.string())}))
    rows = []
    bytes_read = 0
    for song_id, uri in zip(tracks["song_id"].to_pylist(), tracks["audio_uri"].to_pylist(), strict=True):
        try:
            text = _read(folder, song_id, uri)
        except UndecodableAudio as error:
            made.rejects.append(reject_of(error, song_id, uri, "words"))
        except (StorageUnavailable, ObjectNotFound) as error:
            made.postponed[song_id] = error.message
        else:
            rows += [{"song_id": song_id, "text": text}] * 2
            bytes_read += len(text)
    return BlockResult(pa.Table.from_pylist(rows, schema=made.rows.schema), made.rejects, made.postponed, bytes_read)


def _read(folder: Path, song_id: str, uri: str) -> str:
    (folder / "read" / f"{song_id}!{uuid.uuid4().hex}").touch()
    text = objects.read(uri).decode()
    first_time = len(list((folder / "read").glob(f"{song_id}!*"))) == 1
    if text == SLOW:
        time.sleep(0.03)
    if text == LAST:
        _wait_for(folder / "reported")
    if text == AWAY or (text == LATE and first_time):
        raise StorageUnavailable(f"'{uri}': 503 SlowDown")
    if text == DEADLY and first_time:
        os._exit(1)
    if text == BAD:
        raise UndecodableAudio(f"song '{song_id}': no music")
    return text


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no '{path.name}' within {PATIENCE_S:.0f} s")
        time.sleep(0.02)
