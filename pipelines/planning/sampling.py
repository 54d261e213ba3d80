"""Measured cost of songs: the spectrogram stage's own work on a random sample, on one core.

Computing and waiting for the store are measured apart, because a worker computes one song while it waits for others,
and because the wall clock of this machine also counts what other programs take.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import AudioSettings, Settings
from gatefold.errors import DecoderCrashed, DecodingTimeout, GatefoldError, InputError, NotFound
from gatefold.isolation import Core, Isolated
from gatefold.progress import OnProgress, silent
from gatefold.records import LogMelWindows
from gatefold.storage import objects, tables
from pipelines.catalogue.manifests import is_manifest, read_manifest
from pipelines.catalogue.scanning import list_songs
from pipelines.extraction.extract_block import spectrogram_rows

SEED = 0


@dataclass(frozen=True)
class Sample:
    """Songs drawn from a manifest or a folder; their uris are as written there."""

    source: str
    """canonical uri"""
    songs_there: int
    tracks: list[tuple[str, str]]
    """song_id and audio_uri"""


@dataclass(frozen=True)
class SongCost:
    """What one song took, the encoding of its rows included."""

    cpu_s: float
    wait_s: float
    """seconds without work while the store answered"""
    wall_s: float
    requests: int
    """reads of the object"""
    read_bytes: int
    object_bytes: int
    """0 where it could not be opened"""
    written_bytes: float
    """its share of a compressed part; 0 for a reject"""
    reject: str | None
    """code, of a song that cannot be used"""


def draw_sample(source: str, size: int) -> Sample:
    """`size` songs, or all where there are fewer; the same source gives the same songs.

    Args:
        source: manifest (.parquet, .csv, .jsonl, .ndjson) or folder of audio, as the catalogue takes it.

    Raises: InvalidManifest; storage errors.
    """
    uri = objects.resolve(source)
    songs = read_manifest(uri) if is_manifest(uri) else list_songs(uri)
    rows = random.Random(SEED).sample(range(songs.num_rows), min(size, songs.num_rows))
    drawn = songs.select(["song_id", "audio_uri"]).take(rows).to_pylist()
    return Sample(uri, songs.num_rows, [(row["song_id"], row["audio_uri"]) for row in drawn])


def measure(sample: Sample, settings: Settings, on_progress: OnProgress = silent) -> list[SongCost]:
    """The cost of every song of the sample, in its order; a song that cannot be used has one too.

    Songs are decoded one after the other in a child process, as in a run, so that none can hang or end this one.

    Raises: StorageUnavailable; StorageDenied.
    """
    make_extractor = partial(_make_extractor, objects.parent(sample.source), settings.audio)
    with Isolated(make_extractor, timeout_s=settings.batch.song_timeout_s, in_flight=1) as child:
        for _ in child.map(sample.tracks[:1]):  # what is loaded or compiled once is no song's cost
            on_progress(0, len(sample.tracks))
        measured: list[_MeasuredSong] = []
        began = time.perf_counter()
        for _, outcome in child.map(sample.tracks):
            measured.append(
                outcome if isinstance(outcome, _MeasuredSong) else _lost(outcome, time.perf_counter() - began)
            )
            on_progress(len(measured), len(sample.tracks))
            began = time.perf_counter()
    size = settings.batch.rows_per_block
    blocks = [measured[start : start + size] for start in range(0, len(measured), size)]
    return [cost for block in blocks for cost in _with_encoding(block, settings.audio)]


def count_rejects(costs: Sequence[SongCost]) -> dict[str, int]:
    """By code, the most frequent first."""
    return dict(Counter(cost.reject for cost in costs if cost.reject).most_common())


class _Metered:
    """An object that is watched while it is read."""

    def __init__(self, uri: str) -> None:
        self.wait_s, self.requests = 0.0, 1
        with self._waiting():
            self._source = objects.open_source(uri)
        self.size = self._source.size

    def read_at(self, offset: int, length: int) -> bytes:
        before = self._source.bytes_read
        with self._waiting():
            data = self._source.read_at(offset, length)
        self.requests += self._source.bytes_read > before
        return data

    def reading(self) -> dict[str, Any]:
        """The fields of `_MeasuredSong` about reading."""
        return {
            "wait_s": self.wait_s,
            "requests": self.requests,
            "read_bytes": self._source.bytes_read,
            "object_bytes": self.size,
        }

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.wait_s += max(0.0, time.perf_counter() - wall - (time.thread_time() - cpu))


@dataclass(frozen=True)
class _MeasuredSong:
    """The outcome of a song, and what that took."""

    song_id: str
    outcome: LogMelWindows | GatefoldError
    cpu_s: float
    wall_s: float
    wait_s: float = 0.0
    requests: int = 0
    read_bytes: int = 0
    object_bytes: int = 0


def _make_extractor(base: str, audio: AudioSettings) -> "partial[_MeasuredSong]":
    torch.set_num_threads(1)  # as in a worker
    return partial(_measure_song, base, audio)


def _measure_song(base: str, audio: AudioSettings, track: tuple[str, str], _: Core) -> _MeasuredSong:
    song_id, uri = track
    source = None
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        source = _Metered(objects.resolve(uri, base))
        outcome: LogMelWindows | GatefoldError = extract_log_mel(source, audio, name=f"song '{song_id}'")
    except (InputError, NotFound) as error:
        outcome = error
    cpu_s, wall_s = time.thread_time() - cpu, time.perf_counter() - wall
    return _MeasuredSong(song_id, outcome, cpu_s, wall_s, **(source.reading() if source else {}))


def _lost(error: GatefoldError, seconds: float) -> _MeasuredSong:
    """Of a song that took its process with it, or all of its time. Raises: any other error."""
    if not isinstance(error, DecodingTimeout | DecoderCrashed):
        raise error
    return _MeasuredSong("", error, cpu_s=seconds, wall_s=seconds)


def _with_encoding(block: Sequence[_MeasuredSong], audio: AudioSettings) -> list[SongCost]:
    """The costs of a block's songs, each with its windows' share of what encoding the block takes and gives."""
    wall, cpu = time.perf_counter(), time.thread_time()
    songs = [(song.song_id, song.outcome) for song in block if isinstance(song.outcome, LogMelWindows)]
    written = len(tables.encode_part(spectrogram_rows(songs, audio))) if songs else 0
    wall_s, cpu_s = time.perf_counter() - wall, time.thread_time() - cpu
    windows = [len(song.outcome.starts_s) if isinstance(song.outcome, LogMelWindows) else 0 for song in block]
    shares = [count / max(1, sum(windows)) for count in windows]
    return [
        SongCost(
            cpu_s=song.cpu_s + share * cpu_s,
            wait_s=song.wait_s,
            wall_s=song.wall_s + share * wall_s,
            requests=song.requests,
            read_bytes=song.read_bytes,
            object_bytes=song.object_bytes,
            written_bytes=share * written,
            reject=None if isinstance(song.outcome, LogMelWindows) else song.outcome.code,
        )
        for song, share in zip(block, shares, strict=True)
    ]
