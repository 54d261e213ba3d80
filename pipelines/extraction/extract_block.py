"""Extraction of a block: songs to rows of log-mel windows, in a worker.

A song is decoded in a child process of its worker, which may hang or crash over it and cost no other song; and while it
waits for the store, another of the same worker is decoded. Knows nothing of the catalogue, nor of Ray.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from gatefold.audio.decoder_process import MEMORY_BYTES, bounded, prepare
from gatefold.config import AudioSettings, BatchSettings
from gatefold.errors import GatefoldError, InputError, NotFound, StorageUnavailable, Unavailable
from gatefold.isolation import Core, Isolated, released
from gatefold.records import LogMelWindows, spectrogram_schema
from gatefold.storage import objects
from gatefold.storage.tables import tensor_column
from pipelines.extraction.blocks import BlockMapper, BlockResult
from pipelines.extraction.rejects import Reject, reject_of
from pipelines.extraction.stages import SPECTROGRAMS


def make_mapper(audio: AudioSettings, batch: BatchSettings) -> BlockMapper:
    """Tracks with `song_id` and `audio_uri` to rows, by a child process of the caller's, which starts when needed."""
    patience_s = batch.song_timeout_s / 2  # so that a slow store is known for what it is before the limit is reached
    extractors = Isolated(partial(_make_extractor, audio, patience_s), timeout_s=batch.song_timeout_s)
    return partial(_extract_block, extractors, audio)


def _extract_block(
    extractors: "Isolated[_Request, _Extracted]", audio: AudioSettings, tracks: pa.Table
) -> BlockResult:
    columns = (tracks[name].to_pylist() for name in ("song_id", "audio_uri"))
    requests = [_Request(song_id, uri) for song_id, uri in zip(*columns, strict=True)]
    songs: list[tuple[str, LogMelWindows]] = []
    rejects: list[Reject] = []
    postponed: dict[str, str] = {}
    bytes_read = 0
    for index, outcome in extractors.map(requests):
        request = requests[index]
        # else its process was lost over it, which could not say what it was at
        extracted = (
            outcome
            if isinstance(outcome, _Extracted)
            else _Extracted(type(outcome)(f"{request.name}: {outcome.message}"))
        )
        bytes_read += extracted.bytes_read
        if isinstance(extracted.outcome, LogMelWindows):
            songs.append((request.song_id, extracted.outcome))
        elif isinstance(extracted.outcome, InputError | NotFound):
            reject = reject_of(
                extracted.outcome, request.song_id, request.uri, SPECTROGRAMS, size_bytes=extracted.size_bytes
            )
            rejects.append(reject)
        elif isinstance(extracted.outcome, Unavailable):
            postponed[request.song_id] = extracted.outcome.message
        else:
            raise extracted.outcome
    return BlockResult(spectrogram_rows(sorted(songs, key=lambda song: song[0]), audio), rejects, postponed, bytes_read)


# ---- in the child ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    song_id: str
    uri: str

    @property
    def name(self) -> str:
        return f"song '{self.song_id}'"


@dataclass(frozen=True)
class _Extracted:
    """The outcome of a song, and what was read of it; both numbers are bytes."""

    outcome: LogMelWindows | GatefoldError
    size_bytes: int | None = None
    bytes_read: int = 0


class _YieldingSource:
    """A source whose reader lets other songs compute while it waits for the store, which it does not for ever."""

    def __init__(self, uri: str, core: Core, patience_s: float) -> None:
        self._core, self._patience_s, self._waited_s = core, patience_s, 0.0
        with self._waiting(uri):
            self._source = objects.open_source(uri)
        self.size = self._source.size

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    def read_at(self, offset: int, length: int) -> bytes:
        with self._waiting(self._source.uri):
            return self._source.read_at(offset, length)

    @contextmanager
    def _waiting(self, uri: str) -> Iterator[None]:
        """Raises: StorageUnavailable when the store, not the song, is what takes so long."""
        began = time.monotonic()
        with released(self._core):
            yield
        self._waited_s += time.monotonic() - began
        if self._waited_s > self._patience_s:
            raise StorageUnavailable(f"'{uri}': the store took {self._waited_s:.0f} s over it; try again")


def _make_extractor(audio: AudioSettings, patience_s: float) -> "partial[_Extracted]":
    from gatefold.audio.spectrograms import extract_log_mel

    prepare(MEMORY_BYTES)
    return partial(_extract, extract_log_mel, audio, patience_s)


def _extract(
    extract_log_mel: Callable[..., LogMelWindows],
    audio: AudioSettings,
    patience_s: float,
    request: _Request,
    core: Core,
) -> _Extracted:
    source = None
    try:
        with bounded(MEMORY_BYTES):
            source = _YieldingSource(request.uri, core, patience_s)
            outcome: LogMelWindows | GatefoldError = extract_log_mel(source, audio, name=request.name)
    except GatefoldError as error:
        outcome = error
    return _Extracted(outcome) if source is None else _Extracted(outcome, source.size, source.bytes_read)


# ---- the rows -------------------------------------------------------------------------------------------------------


def spectrogram_rows(songs: list[tuple[str, LogMelWindows]], audio: AudioSettings) -> pa.Table:
    """The rows of `spectrogram_schema`, without the column `etag`, which `blocks` adds, of songs by their song_id."""
    schema = spectrogram_schema(audio)
    windows = [(song_id, w, start_s) for song_id, song in songs for w, start_s in enumerate(song.starts_s)]
    ids, numbers, starts_s = zip(*windows, strict=True) if windows else ([], [], [])
    columns = [
        pa.array(ids, schema.field("song_id").type),
        pa.array(numbers, schema.field("window").type),
        pa.array(starts_s, schema.field("start_s").type),
        tensor_column([song.log_mel for _, song in songs], schema.field("log_mel").type),
    ]
    return pa.Table.from_arrays(columns, names=schema.names[:-1])
