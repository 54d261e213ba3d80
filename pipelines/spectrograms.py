"""Songs to log-mel windows, over the whole catalogue.

A song is decoded in a child process of its worker, which may hang or crash over it and cost no other song; and while it
waits for the store, another of the same worker is decoded.
"""

from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import torch

from gatefold.audio import Song, listen
from gatefold.config import AudioSettings, BatchSettings, Settings
from gatefold.errors import GatefoldError, InputError, NotFound, Unavailable
from gatefold.records import spectrogram_schema
from gatefold.storage import objects
from gatefold.storage.objects import ObjectSource
from gatefold.storage.tables import tensor_column
from gatefold.workspace import Workspace
from pipelines.blocks import BlockMapper, Made, map_tracks
from pipelines.isolation import Core, Isolated, released
from pipelines.quarantine import Reject, reject_of
from pipelines.report import OnProgress, Report, silent
from pipelines.stages import SPECTROGRAMS, spectrogram_stage, spectrogram_tracks


def extract_spectrograms(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Rows of `spectrogram_schema` for every song of the catalogue that can be heard, a reject for every other."""
    stage, read_tracks = spectrogram_stage(settings, workspace), partial(spectrogram_tracks, workspace)
    mapper = partial(make_mapper, settings.audio, settings.batch)
    return map_tracks(stage, read_tracks, mapper, settings.batch, on_progress=on_progress)


def make_mapper(audio: AudioSettings, batch: BatchSettings) -> BlockMapper:
    """Tracks with `song_id` and `audio_uri` to rows, by a child process of the caller's, which starts when needed."""
    listeners = Isolated(partial(_make_listener, audio), timeout_s=batch.song_timeout_s)
    return partial(_listen_to_block, listeners, audio)


def _listen_to_block(listeners: "Isolated[_Request, _Heard]", audio: AudioSettings, tracks: pa.Table) -> Made:
    columns = (tracks[name].to_pylist() for name in ("song_id", "audio_uri"))
    requests = [_Request(song_id, uri) for song_id, uri in zip(*columns, strict=True)]
    songs: list[tuple[str, Song]] = []
    rejects: list[Reject] = []
    postponed: dict[str, str] = {}
    bytes_read = 0
    for index, outcome in listeners.map(requests):
        request = requests[index]
        # else its process was lost over it, which could not say what it was at
        heard = outcome if isinstance(outcome, _Heard) else _Heard(type(outcome)(f"{request.name}: {outcome.message}"))
        bytes_read += heard.bytes_read
        if isinstance(heard.outcome, Song):
            songs.append((request.song_id, heard.outcome))
        elif isinstance(heard.outcome, InputError | NotFound):
            reject = reject_of(heard.outcome, request.song_id, request.uri, SPECTROGRAMS, size_bytes=heard.size_bytes)
            rejects.append(reject)
        elif isinstance(heard.outcome, Unavailable):
            postponed[request.song_id] = heard.outcome.message
        else:
            raise heard.outcome
    return Made(spectrogram_rows(sorted(songs, key=lambda song: song[0]), audio), rejects, postponed, bytes_read)


# ---- in the child ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    song_id: str
    uri: str

    @property
    def name(self) -> str:
        return f"song '{self.song_id}'"


@dataclass(frozen=True)
class _Heard:
    """What became of a song, and what was read of it; both numbers are bytes."""

    outcome: Song | GatefoldError
    size_bytes: int | None = None
    bytes_read: int = 0


class _YieldingSource:
    """A source whose readers let another song compute while they wait for the store."""

    def __init__(self, source: ObjectSource, core: Core) -> None:
        self.size = source.size
        self._source, self._core = source, core

    def read_at(self, offset: int, length: int) -> bytes:
        with released(self._core):
            return self._source.read_at(offset, length)


def _make_listener(audio: AudioSettings) -> "partial[_Heard]":
    torch.set_num_threads(1)  # one worker a core; threads within would only fight
    return partial(_listen_to, audio)


def _listen_to(audio: AudioSettings, request: _Request, core: Core) -> _Heard:
    source = None
    try:
        with released(core):
            source = objects.open_source(request.uri)
        outcome: Song | GatefoldError = listen(_YieldingSource(source, core), audio, name=request.name)
    except GatefoldError as error:
        outcome = error
    return _Heard(outcome) if source is None else _Heard(outcome, source.size, source.bytes_read)


# ---- the rows -------------------------------------------------------------------------------------------------------


def spectrogram_rows(songs: list[tuple[str, Song]], audio: AudioSettings) -> pa.Table:
    """The rows of `spectrogram_schema`, but for its last column, of songs by their song_id."""
    schema = spectrogram_schema(audio)
    windows = [
        (song_id, w, song.starts_s[w], song.log_mel[w]) for song_id, song in songs for w in range(len(song.starts_s))
    ]
    ids, numbers, starts, log_mel = zip(*windows, strict=True) if windows else ([], [], [], [])
    columns = [
        pa.array(ids, schema.field("song_id").type),
        pa.array(numbers, schema.field("window").type),
        pa.array(starts, schema.field("start_s").type),
        tensor_column(log_mel, schema.field("log_mel").type),
    ]
    return pa.Table.from_arrays(columns, names=schema.names[:-1])
