"""Songs to log-mel windows, over the whole catalogue."""

from functools import partial

import pyarrow as pa
import torch

from gatefold.audio import Song, listen
from gatefold.config import AudioSettings, Settings
from gatefold.errors import InputError, NotFound, Unavailable
from gatefold.records import spectrogram_schema
from gatefold.storage import objects
from gatefold.storage.tables import tensor_column
from gatefold.workspace import Workspace
from pipelines.blocks import BlockMapper, Made, map_tracks
from pipelines.quarantine import Reject, reject_of
from pipelines.report import OnProgress, Report, silent
from pipelines.stages import SPECTROGRAMS, spectrogram_stage, spectrogram_tracks


def extract_spectrograms(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Rows of `spectrogram_schema` for every song of the catalogue that can be heard, a reject for every other."""
    stage, read_tracks = spectrogram_stage(settings, workspace), partial(spectrogram_tracks, workspace)
    make_mapper = partial(_make_mapper, settings.audio)
    return map_tracks(stage, read_tracks, make_mapper, settings.batch, on_progress=on_progress)


def _make_mapper(audio: AudioSettings) -> BlockMapper:
    torch.set_num_threads(1)  # one worker a core; threads within would only fight
    return partial(_listen_to_block, audio)


def _listen_to_block(audio: AudioSettings, tracks: pa.Table) -> Made:
    songs: list[tuple[str, Song]] = []
    rejects: list[Reject] = []
    postponed: dict[str, str] = {}
    bytes_read = 0
    for song_id, uri in zip(tracks["song_id"].to_pylist(), tracks["audio_uri"].to_pylist(), strict=True):
        size_bytes = None
        try:
            data = objects.read(uri, max_bytes=audio.max_bytes)
            size_bytes = len(data)
            bytes_read += size_bytes
            songs.append((song_id, listen(data, audio, name=f"song '{song_id}'")))
        except (InputError, NotFound) as error:
            rejects.append(reject_of(error, song_id=song_id, uri=uri, stage=SPECTROGRAMS, size_bytes=size_bytes))
        except Unavailable as error:
            postponed[song_id] = error.message
    return Made(spectrogram_rows(songs, audio), rejects, postponed, bytes_read)


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
