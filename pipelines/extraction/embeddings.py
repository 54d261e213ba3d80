"""Embedding of songs and covers into the joint space, over the whole catalogue.

Actors load the encoder once, each on a GPU where the cluster has any.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from gatefold.config import Settings
from gatefold.encoder.towers import DualEncoder
from gatefold.progress import OnProgress, silent
from gatefold.records import embedding_schema
from gatefold.storage import objects
from gatefold.storage.contents.cover_pixels import read_pixels
from gatefold.storage.models.encoders import load_encoder
from gatefold.workspace import Workspace
from pipelines.devices import gpus, granted_device
from pipelines.extraction.blocks import BlockMapper, BlockResult, map_tracks
from pipelines.extraction.stages import embedding_stage, embedding_tracks
from pipelines.report import Report
from pipelines.training.training_data import read_windows
from pipelines.versions import versions_of


def embed_catalogue(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Rows of `embedding_schema` for every song with a spectrogram or pixels of its present files."""
    version = versions_of(settings, workspace).encoder
    stage, read_tracks = embedding_stage(settings, workspace, version), partial(embedding_tracks, settings, workspace)
    make_mapper = partial(_make_mapper, settings, workspace, objects.join(workspace.encoders, version))
    return map_tracks(
        stage, read_tracks, make_mapper, settings.batch, on_progress=on_progress, num_gpus=min(1, gpus())
    )


def _make_mapper(settings: Settings, workspace: Workspace, encoder_uri: str) -> BlockMapper:
    torch.set_num_threads(1)
    return partial(_embed_block, load_encoder(encoder_uri, granted_device()), settings, workspace)


def _embed_block(encoder: DualEncoder, settings: Settings, workspace: Workspace, tracks: pa.Table) -> BlockResult:
    ids = tracks["song_id"].to_pylist()
    song_ids, cover_ids = (tracks.filter(tracks[side])["song_id"].to_pylist() for side in ("has_song", "has_cover"))
    windows = read_windows(settings, workspace, song_ids) if song_ids else {}
    songs = dict(zip(windows, encoder.embed_songs(list(windows.values())), strict=True))
    covers = _embedded_covers(encoder, settings, workspace, cover_ids) if cover_ids else {}
    schema = embedding_schema(encoder.settings.embed_dim)
    columns = [pa.array(ids, pa.string()), _vectors(songs, ids, schema), _vectors(covers, ids, schema)]
    return BlockResult(pa.Table.from_arrays(columns, names=schema.names[:-1]))


def _embedded_covers(
    encoder: DualEncoder, settings: Settings, workspace: Workspace, ids: list[str]
) -> dict[str, npt.NDArray[np.float32]]:
    pixels = read_pixels(workspace.covers(settings.stored_cover), ids, settings.cover.size)
    return dict(zip(pixels, encoder.embed_covers(np.stack(list(pixels.values()))), strict=True)) if pixels else {}


def _vectors(embedded: dict[str, npt.NDArray[np.float32]], ids: list[str], schema: pa.Schema) -> pa.Array:
    return pa.array([embedded.get(song_id) for song_id in ids], schema.field("song_embedding").type)
