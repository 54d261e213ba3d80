"""Held-out songs: song and cover embeddings by an encoder, artists, genres and latents.

What is measured on them is decided elsewhere; how well an encoder was trained does not matter here, so the same songs
can be embedded by any, also by one that learned nothing.

Shape legend: Q = held-out songs, D = width of the joint space.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gatefold.config import Settings
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import SchemaMismatch, TooFewSongs
from gatefold.index.interface import Index
from gatefold.names import normal_name
from gatefold.progress import silent
from gatefold.storage import tables
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.storage.contents.cover_pixels import read_pixels
from gatefold.storage.models.encoders import build_encoder, load_encoder
from gatefold.synthetic.catalogue import GENRES, TRAIT_NAMES, log_odds_of_own
from gatefold.workspace import Workspace
from pipelines.devices import gpus, granted_device
from pipelines.row_mapper import map_rows
from pipelines.training.training_data import paired_ids, read_windows, sample

FEWEST = 4
"""held-out songs that are worth measuring on"""
_AT_ONCE = 128  # songs whose windows are in memory together
_SIDES = ("song_embedding", "cover_embedding")

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeldOut:
    """The test songs with both sides: ids, genres and artists [Q], song and cover embeddings float32 [Q, D]."""

    ids: list[str]
    genres: npt.NDArray[np.str_]
    """"" where it is not known"""
    artists: list[str]
    """the song itself where its artist is not known"""
    songs: Vectors
    covers: Vectors


def held_out_of(settings: Settings, workspace: Workspace, index: Index) -> HeldOut:
    """As the index has them, at most `evaluation.held_out`, spread over all.

    Raises: TooFewSongs when fewer than FEWEST test songs have both sides.
    """
    ids = sample(paired_ids(settings, workspace, "test"), settings.evaluation.held_out)
    if len(ids) < FEWEST:
        raise TooFewSongs(
            f"{len(ids)} test songs have both a spectrogram and a cover, at least {FEWEST} are needed to measure by; "
            "add artists, add covers to songs without one, or raise split.test"
        )
    return named(workspace, ids, index.song_embeddings(ids), index.cover_embeddings(ids))


def named(workspace: Workspace, ids: list[str], songs: Vectors, covers: Vectors) -> HeldOut:
    """These songs with what the catalogue says of them.

    Args:
        ids: Q song_ids, each in the catalogue.
        songs: embeddings float32 [Q, D], unit length.
        covers: embeddings float32 [Q, D], unit length.
    """
    tracks = read_tracks(workspace, ["song_id", "artist", "genre"])
    rows = tracks.filter(pc.is_in(tracks["song_id"], value_set=pa.array(ids, pa.string()))).to_pylist()
    known = {row["song_id"]: row for row in rows}
    artists = [normal_name(known[song_id]["artist"]) for song_id in ids]
    keys = [f"artist {name}" if name else f"song {song_id}" for song_id, name in zip(ids, artists, strict=True)]
    return HeldOut(ids, np.array([known[song_id]["genre"] or "" for song_id in ids]), keys, songs, covers)


def embed_pairs(
    settings: Settings, workspace: Workspace, encoder_uri: str, ids: list[str], *, as_begun: bool = False
) -> tuple[Vectors, Vectors]:
    """Song and cover embeddings [Q, D] of these songs, in their order, by tasks that have a GPU where the cluster has.

    Args:
        encoder_uri: of its bundle; `settings` are to read spectrograms and covers as it was trained on.
        as_begun: by the same towers as their training found them.
    """
    task = partial(_embed, settings, workspace, encoder_uri, as_begun)
    rows = map_rows(pa.table({"song_id": ids}), task, _AT_ONCE, silent, num_gpus=min(1, gpus()))
    rows = rows.take(pc.index_in(pa.array(ids), value_set=rows["song_id"].combine_chunks()))
    songs, covers = (tables.tensors(rows[side]) for side in _SIDES)
    return songs, covers


def _embed(settings: Settings, workspace: Workspace, encoder_uri: str, as_begun: bool, songs: pa.Table) -> pa.Table:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one song is too little for two, and where cores are shared they wait for each other
    try:
        encoder = _encoder(encoder_uri, as_begun, granted_device())
        ids = songs["song_id"].to_pylist()
        windows = read_windows(settings, workspace, ids)
        pixels = read_pixels(workspace.covers(settings.stored_cover), ids, settings.cover.size)
        song_embeddings = encoder.embed_songs([windows[song_id] for song_id in ids])
        cover_embeddings = encoder.embed_covers(np.stack([pixels[song_id] for song_id in ids]))
    finally:
        torch.set_num_threads(threads)
    kind = pa.fixed_shape_tensor(pa.float32(), [encoder.settings.embed_dim])
    columns = dict(
        zip(_SIDES, (tables.tensor_column([side], kind) for side in (song_embeddings, cover_embeddings)), strict=True)
    )
    return pa.table({"song_id": songs["song_id"], **columns})


@lru_cache(maxsize=2)
def _encoder(uri: str, as_begun: bool, device: str) -> DualEncoder:
    """Loaded once in each process, part after part."""
    encoder = load_encoder(uri, device)
    return untrained(encoder).to(device) if as_begun else encoder


def untrained(encoder: DualEncoder) -> DualEncoder:
    """The same towers as their training found them, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(encoder.settings.seed)
        return build_encoder(encoder.settings, encoder.audio, encoder.cover).eval().requires_grad_(False)


def ceiling_of(workspace: Workspace, held_out: HeldOut) -> npt.NDArray[np.float64] | None:
    """Similarity [Q, Q] of the best possible ranker; None but for a synthetic catalogue, whose manifest carries it."""
    names = [f"{kind}_{name}" for kind in ("latent", "seen") for name in TRAIT_NAMES]
    if not set(held_out.genres) <= {genre.name for genre in GENRES}:
        return None
    try:
        tracks = read_tracks(workspace, ["song_id", *names])
    except SchemaMismatch:  # the usual case: nobody knows the latents of songs that were not made up
        return None
    traits = np.stack([_floats(tracks[name]) for name in names], axis=1)
    latent, seen = traits[:, : len(TRAIT_NAMES)], traits[:, len(TRAIT_NAMES) :]
    asked = pc.index_in(pa.array(held_out.ids), value_set=tracks["song_id"].combine_chunks()).to_numpy()
    if not np.isfinite(traits[asked]).all():
        return None
    sigma = np.sqrt(np.nanmean((seen - latent) ** 2, axis=0))  # as drawn, whatever these settings say of synthesis
    return log_odds_of_own(latent[asked], seen[asked], held_out.genres, sigma)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
