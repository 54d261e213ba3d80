"""A catalogue of small songs of which it is known what must become of them, and their extraction, slowed and noted.

The stage is the production one; of its decoding it is noted which song was decoded by which process of which worker,
and some songs do to their decoder, from within FFmpeg's own reads, what broken files do.
"""

import functools
import os
import re
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gatefold.config import AudioSettings, BatchSettings, Settings
from gatefold.progress import OnProgress, silent
from gatefold.ranged import Source
from gatefold.records import LogMelWindows
from gatefold.storage import objects, tables
from gatefold.storage.local import TEMPORARY
from gatefold.workspace import Workspace
from pipelines import cluster
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.extraction import extract_block
from pipelines.extraction.blocks import BlockMapper, map_tracks
from pipelines.extraction.rejects import read_rejects
from pipelines.extraction.stages import spectrogram_stage, spectrogram_tracks
from pipelines.report import Report
from tests.sounds import AUDIO, encoded, tone

SONGS, SONGS_PER_BLOCK = 128, 8
"""One in eight of them cannot be used, so that each of the sixteen blocks of a first run has a row and a reject."""
BLOCKS = SONGS // SONGS_PER_BLOCK
FORMATS = (("wav", "WAV", None), ("flac", "FLAC", None), ("ogg", "OGG", "VORBIS"), ("mp3", "MP3", "MPEG_LAYER_III"))
UNUSABLE = ("undecodable_audio", "empty_file", "silent_audio", "audio_too_short", "object_not_found")
HANGS, CRASHES, BLOATS = "hangs", "crashes", "bloats"
"""A song whose id begins so, does so to its decoder: it keeps the interpreter for ever, ends the process by SIGSEGV, or
as a machine does whose memory is full."""


@dataclass(frozen=True)
class Decoding:
    """One song that a child process of a worker began to decode."""

    song_id: str
    child: int
    worker: int


class KnownSongs:
    """Songs and their workspace in `folder`, and notes on what is decoded; `expected` is what must become of each."""

    def __init__(self, folder: Path, pace_s: float = 0.0, home: str | None = None) -> None:
        """`pace_s`: seconds that every song takes at least, of its worker's core. `home`: where else they lie."""
        self.folder, self.pace_s = folder, pace_s
        self.home = objects.resolve(home or str(folder))
        self.workspace = Workspace(objects.join(self.home, "workspace"))
        batch = BatchSettings(rows_per_block=4 * SONGS_PER_BLOCK, song_timeout_s=60.0, max_reject_share=0.5)
        self.settings = Settings(audio=AUDIO, batch=batch)
        self.target = self.workspace.spectrograms(AUDIO)
        self.rejects = self.workspace.rejects("spectrograms")
        self._notes = folder / "decoded"
        self._notes.mkdir(exist_ok=True)

    @functools.cached_property
    def songs(self) -> dict[str, bytes]:
        """By song_id."""
        return dict(_songs())

    @functools.cached_property
    def expected(self) -> dict[str, LogMelWindows | str]:
        """By song_id, its windows, or the code of the reject."""
        return dict(_outcomes())

    @property
    def manifest(self) -> str:
        return objects.join(self.home, "manifest.csv")

    def write(self, **hazards: str) -> None:
        """Songs, manifest and catalogue; then what is to be missing is deleted.

        Args:
            hazards: beside them, code of the reject by how the song's id begins.
        """
        for name, code in hazards.items():
            self.songs[f"{name}.wav"] = encoded(tone(2.0))
            self.expected[f"{name}.wav"] = code
        self.put()
        build_catalogue(self.settings, self.manifest, self.workspace)
        self.lose()

    def put(self) -> None:
        """Songs and manifest."""
        for song_id, data in self.songs.items():
            objects.put(objects.join(self.home, f"songs/{song_id}"), data)
        rows = [("song_id", "audio_uri"), *((song_id, f"songs/{song_id}") for song_id in self.songs)]
        objects.put(self.manifest, "".join(f"{song_id},{uri}\n" for song_id, uri in rows).encode())

    def lose(self) -> None:
        """What is to be missing, once the catalogue has it."""
        for song_id, code in self.expected.items():
            if code == "object_not_found":
                objects.delete(objects.join(self.home, f"songs/{song_id}"))

    def extract(self, on_progress: OnProgress = silent) -> Report:
        """The stage, in the Ray that this process is connected to."""
        stage = spectrogram_stage(self.settings, self.workspace)
        read_tracks = partial(spectrogram_tracks, self.workspace)
        make_mapper = partial(_make_mapper, self._notes, self.pace_s, self.settings.audio, self.settings.batch)
        return map_tracks(stage, read_tracks, make_mapper, self.settings.batch, on_progress=on_progress)

    def start_over(self) -> None:
        """As if it had never been extracted."""
        for folder in (self.target, self.rejects, self.workspace.runs):
            objects.delete_tree(folder)
        self.empty_decodings()

    # ---- what is there ----------------------------------------------------------------------------------------------

    def parts(self) -> int:
        return _count_parts(self.target)

    def part_sizes(self) -> list[int]:
        """Bytes of each, the smallest first."""
        return sorted(info.size_bytes for info in objects.list_objects(self.target) if info.uri.endswith(".parquet"))

    def reject_parts(self) -> int:
        return _count_parts(self.rejects)

    def noted(self) -> bool:
        """That all is done."""
        return objects.exists(objects.join(self.target, "_finished.json"))

    def finished(self) -> set[str]:
        """Songs whose rows or reject are there."""
        found: set[str] = set()
        for folder in (self.target, self.rejects):
            for uri in tables.parts(folder):
                found.update(tables.read_part(uri, ["song_id"])["song_id"].to_pylist())
        return found

    def decodings(self) -> list[Decoding]:
        """What was begun since this was last emptied, the earliest first."""
        notes = sorted(self._notes.iterdir(), key=lambda note: note.stat().st_mtime_ns)
        split = [note.name.split("!") for note in notes]
        return [Decoding(song_id, int(child), int(worker)) for song_id, child, worker, _ in split]

    def begun(self) -> int:
        """Decodings, counted quickly."""
        return sum(1 for _ in self._notes.iterdir())

    def workers(self) -> list[int]:
        """The processes that have decoded something since this was last emptied, the latest last."""
        return list(dict.fromkeys(reversed([found.worker for found in self.decodings()])))[::-1]

    def children(self) -> list[int]:
        """Those that they did it in, likewise."""
        return list(dict.fromkeys(reversed([found.child for found in self.decodings()])))[::-1]

    def empty_decodings(self) -> None:
        for note in self._notes.iterdir():
            note.unlink()

    def unusable(self) -> int:
        return sum(isinstance(outcome, str) for outcome in self.expected.values())

    def audit(self) -> None:
        """Asserts that every song has its windows or its reject, once, of what it is now; and that all know so."""
        assert not [info.uri for info in objects.list_objects(self.workspace.uri) if TEMPORARY in info.uri]
        rows = tables.read_table(self.target).to_pylist()
        rejects = read_rejects(self.workspace, "spectrograms").to_pylist()
        etags = spectrogram_tracks(self.workspace)
        current = dict(zip(etags["song_id"].to_pylist(), etags["etag"].to_pylist(), strict=True))
        assert {row["song_id"]: row["etag"] for row in rows + rejects} == current
        windows, refused = self._wanted()
        assert Counter((row["song_id"], row["window"]) for row in rows) == windows
        assert Counter((reject["song_id"], reject["code"]) for reject in rejects) == refused
        self._compare_windows(tables.read_table(self.target))
        assert self.noted()
        self.empty_decodings()
        again = self.extract()
        assert (again.done, again.skipped, again.rejected) == (0, len(self.expected), len(refused))
        assert self.decodings() == []

    def audit_so_far(self) -> None:
        """Asserts that what is there of a run that was killed is right, and there once."""
        windows, refused = self._wanted()
        rejects = read_rejects(self.workspace, "spectrograms").to_pylist()
        assert Counter((reject["song_id"], reject["code"]) for reject in rejects) <= refused
        found = Counter[tuple[str, int]]()
        for part in map(tables.read_part, tables.parts(self.target)):
            found.update(zip(part["song_id"].to_pylist(), part["window"].to_pylist(), strict=True))
            self._compare_windows(part)
        assert found <= windows

    def _wanted(self) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, str]]]:
        windows, refused = Counter[tuple[str, int]](), Counter[tuple[str, str]]()
        for song_id, outcome in self.expected.items():
            if isinstance(outcome, str):
                refused[song_id, outcome] += 1
            else:
                windows.update((song_id, window) for window in range(len(outcome.starts_s)))
        return windows, refused

    def _compare_windows(self, rows: pa.Table) -> None:
        columns = (rows["song_id"].to_pylist(), rows["window"].to_pylist(), tables.tensors(rows["log_mel"]))
        for song_id, window, log_mel in zip(*columns, strict=True):
            wanted = self.expected[song_id]
            assert isinstance(wanted, LogMelWindows)
            np.testing.assert_allclose(log_mel, wanted.log_mel[window], atol=0.02, err_msg=f"{song_id} {window}")


def _count_parts(folder: str) -> int:
    """As quickly as it goes, for who waits for a moment that soon passes."""
    path = objects.local_path(folder)
    return len(tables.parts(folder)) if path is None else sum(1 for _ in path.glob("*.parquet"))


# ---- the songs ------------------------------------------------------------------------------------------------------


@functools.cache
def _songs() -> dict[str, bytes]:
    """By song_id."""
    return {f"s{number:03}.{suffix}": data for number, (suffix, data) in enumerate(map(_song, range(SONGS)))}


@functools.cache
def _outcomes() -> dict[str, LogMelWindows | str]:
    """By song_id what extraction in this process gives, or the code of its reject."""
    # only here: the drivers that tests start must not wait for torch
    from gatefold.audio.spectrograms import extract_log_mel

    numbered = enumerate(_songs().items())
    return {
        song_id: _unusable(number) or extract_log_mel(data, AUDIO, name=song_id)
        for number, (song_id, data) in numbered
    }


def _unusable(number: int) -> str | None:
    return UNUSABLE[number // 8 % len(UNUSABLE)] if number % 8 == 5 else None


def _song(number: int) -> tuple[str, bytes]:
    """Suffix and bytes: a tone of its own pitch and length, or what makes it unusable."""
    suffix, kind, subtype = FORMATS[number % len(FORMATS)]
    sound = tone(1.5 + number % 5 / 2, hertz=200 + 20 * number)
    unusable: dict[str, Callable[[], bytes]] = {
        "undecodable_audio": lambda: b"this is no song, but a text that says so\n" * 50,
        "empty_file": lambda: b"",
        "silent_audio": lambda: encoded(0 * sound, format=kind, subtype=subtype),
        "audio_too_short": lambda: encoded(sound[:1600], format=kind, subtype=subtype),
    }
    make = unusable.get(_unusable(number) or "")
    return suffix, make() if make else encoded(sound, format=kind, subtype=subtype)


# ---- in the worker and its child ------------------------------------------------------------------------------------


def _make_mapper(notes: Path, pace_s: float, audio: AudioSettings, batch: BatchSettings) -> BlockMapper:
    slowed = partial(_make_extractor, notes, pace_s)
    # in this worker, whose children make it
    extract_block._make_extractor = slowed  # type: ignore[assignment]  # a double
    return extract_block.make_mapper(audio, batch)


def _make_extractor(notes: Path, pace_s: float, *rest: Any) -> Callable[..., object]:
    from gatefold.audio import spectrograms  # in this child, as in production: nothing else here decodes anything

    spectrograms.extract_log_mel = partial(_extract_slowly, spectrograms.extract_log_mel, notes, pace_s)
    return extract_block._make_extractor(*rest)


def _extract_slowly(
    extract_log_mel: Callable[..., LogMelWindows],
    notes: Path,
    pace_s: float,
    source: Source,
    audio: AudioSettings,
    *,
    name: str,
) -> LogMelWindows:
    song_id = name.split("'")[1]
    (notes / f"{song_id}!{os.getpid()}!{os.getppid()}!{uuid.uuid4().hex}").touch()
    time.sleep(pace_s)
    deed = _DEEDS.get(song_id.partition(".")[0])
    return extract_log_mel(_Stumbling(source, deed) if deed else source, audio, name=name)


class _Stumbling:
    """A source over which a decoder, as it reads, comes to grief."""

    def __init__(self, source: Source, deed: Callable[[], object]) -> None:
        self.size, self._deed = source.size, deed

    def read_at(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        self._deed()
        raise AssertionError("it came to no grief")


_DEEDS: dict[str, Callable[[], object]] = {
    HANGS: lambda: re.match(r"(a+)+$", "a" * 64 + "b"),  # C that keeps the interpreter, for some thousand years
    CRASHES: partial(signal.raise_signal, signal.SIGSEGV),
    BLOATS: partial(signal.raise_signal, signal.SIGKILL),
}


def main() -> None:
    """A driver of its own: `… FOLDER PACE_S`, in the Ray at RAY_ADDRESS or one that it starts."""
    cluster.connect()
    KnownSongs(Path(sys.argv[1]), float(sys.argv[2])).extract()
