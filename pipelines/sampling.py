"""What a song costs: the spectrogram stage's own work on songs drawn at random, done here on one core, and measured.

Computing and waiting for the store are measured apart, because a worker computes one song while it waits for others,
and because the wall clock of this machine also counts what other programs take.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gatefold.audio import Song, listen
from gatefold.config import AudioSettings, Settings
from gatefold.errors import InputError, NotFound
from gatefold.storage import objects, tables
from pipelines.manifests import SUFFIXES, read_manifest
from pipelines.report import OnProgress, silent
from pipelines.scanning import list_songs
from pipelines.spectrograms import spectrogram_rows

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
    songs = read_manifest(uri) if uri.lower().endswith(SUFFIXES) else list_songs(uri)
    rows = random.Random(SEED).sample(range(songs.num_rows), min(size, songs.num_rows))
    drawn = songs.select(["song_id", "audio_uri"]).take(rows).to_pylist()
    return Sample(uri, songs.num_rows, [(row["song_id"], row["audio_uri"]) for row in drawn])


def measure(sample: Sample, settings: Settings, on_progress: OnProgress = silent) -> list[SongCost]:
    """The cost of every song of the sample, in its order; a song that cannot be used has one too.

    Raises: StorageUnavailable; StorageDenied.
    """
    torch.set_num_threads(1)  # as in a worker
    base = objects.parent(sample.source)
    _hear(sample.tracks[0], base, settings.audio)  # what is loaded or compiled once is no song's cost
    costs: list[SongCost] = []
    size = settings.batch.rows_per_block
    for start in range(0, len(sample.tracks), size):
        heard = []
        for track in sample.tracks[start : start + size]:
            heard.append(_hear(track, base, settings.audio))
            on_progress(len(costs) + len(heard), len(sample.tracks))
        costs += _with_encoding(heard, settings.audio)
    return costs


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
        before = self.read_bytes
        with self._waiting():
            data = self._source.read_at(offset, length)
        self.requests += self.read_bytes > before
        return data

    @property
    def read_bytes(self) -> int:
        return self._source.bytes_read

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.wait_s += max(0.0, time.perf_counter() - wall - (time.thread_time() - cpu))


@dataclass
class _Heard:
    """A song listened to, and what that took."""

    song_id: str
    song: Song | None = None
    reject: str | None = None
    source: _Metered | None = None
    cpu_s: float = 0.0
    wall_s: float = 0.0


def _hear(track: tuple[str, str], base: str, audio: AudioSettings) -> _Heard:
    song_id, uri = track
    heard = _Heard(song_id)
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        heard.source = _Metered(objects.resolve(uri, base))
        heard.song = listen(heard.source, audio, name=f"song '{song_id}'")
    except (InputError, NotFound) as error:
        heard.reject = error.code
    heard.wall_s, heard.cpu_s = time.perf_counter() - wall, time.thread_time() - cpu
    return heard


def _with_encoding(block: Sequence[_Heard], audio: AudioSettings) -> list[SongCost]:
    """The costs of a block's songs, each with its windows' share of what encoding the block takes and gives."""
    wall, cpu = time.perf_counter(), time.thread_time()
    songs = [(heard.song_id, heard.song) for heard in block if heard.song is not None]
    written = len(tables.encode_part(spectrogram_rows(songs, audio))) if songs else 0
    wall_s, cpu_s = time.perf_counter() - wall, time.thread_time() - cpu
    windows = [0 if heard.song is None else len(heard.song.starts_s) for heard in block]
    shares = [count / max(1, sum(windows)) for count in windows]
    return [_cost_of(heard, share, written, wall_s, cpu_s) for heard, share in zip(block, shares, strict=True)]


def _cost_of(heard: _Heard, share: float, written_bytes: int, wall_s: float, cpu_s: float) -> SongCost:
    source = heard.source
    return SongCost(
        cpu_s=heard.cpu_s + share * cpu_s,
        wait_s=source.wait_s if source else 0.0,
        wall_s=heard.wall_s + share * wall_s,
        requests=source.requests if source else 1,
        read_bytes=source.read_bytes if source else 0,
        object_bytes=source.size if source else 0,
        written_bytes=share * written_bytes,
        reject=heard.reject,
    )
