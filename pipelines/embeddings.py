"""Both sides of every song into the joint space, by actors that load the encoder once."""

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gatefold.config import Settings
from gatefold.records import embedding_schema
from gatefold.storage import objects, tables
from gatefold.storage.catalogues import read_tracks
from gatefold.storage.models import load_encoder
from gatefold.towers import DualEncoder
from gatefold.workspace import Workspace
from pipelines.blocks import BlockMapper, Made, Stage, map_tracks
from pipelines.pairs import read_windows
from pipelines.report import OnProgress, Report, silent
from pipelines.versions import versions_of

STAGE = "embed"


def embed_catalogue(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Rows of `embedding_schema` for every song with a spectrogram or a cover."""
    version = versions_of(settings, workspace).encoder
    stage = Stage(STAGE, workspace.embeddings(version), workspace)
    tracks = read_tracks(workspace, ["song_id"])
    folders = (workspace.spectrograms(settings.audio), workspace.covers(settings.cover))
    sides = [tables.read_table(folder, ["song_id"])["song_id"] for folder in folders if tables.has_parts(folder)]
    known = pa.chunked_array([chunk for side in sides for chunk in side.chunks], pa.string())
    usable = tracks.filter(pc.is_in(tracks["song_id"], value_set=known.combine_chunks()))
    make_mapper = partial(_make_mapper, settings, workspace, objects.join(workspace.encoders, version))
    return map_tracks(stage, usable, make_mapper, settings.batch, on_progress=on_progress)


def _make_mapper(settings: Settings, workspace: Workspace, encoder_uri: str) -> BlockMapper:
    torch.set_num_threads(1)
    return partial(_embed_block, load_encoder(encoder_uri), settings, workspace)


def _embed_block(encoder: DualEncoder, settings: Settings, workspace: Workspace, tracks: pa.Table) -> Made:
    ids = tracks["song_id"].to_pylist()
    windows = read_windows(settings, workspace, ids)
    songs = {song_id: encoder.embed_song(log_mel) for song_id, log_mel in windows.items()}
    covers = _embedded_covers(encoder, settings, workspace, ids)
    schema = embedding_schema(encoder.settings.embed_dim)
    columns = [pa.array(ids, pa.string()), _vectors(songs, ids, schema), _vectors(covers, ids, schema)]
    return Made(pa.Table.from_arrays(columns, names=schema.names[:-1]))


def _embedded_covers(
    encoder: DualEncoder, settings: Settings, workspace: Workspace, ids: list[str]
) -> dict[str, npt.NDArray[np.float32]]:
    folder = workspace.covers(settings.cover)
    if not tables.has_parts(folder):
        return {}
    rows = tables.read_rows(folder, ids, ["song_id", "pixels"])
    if not rows.num_rows:
        return {}
    return dict(zip(rows["song_id"].to_pylist(), encoder.embed_covers(tables.tensors(rows["pixels"])), strict=True))


def _vectors(embedded: dict[str, npt.NDArray[np.float32]], ids: list[str], schema: pa.Schema) -> pa.Array:
    return pa.array([embedded.get(song_id) for song_id in ids], schema.field("song_embedding").type)
