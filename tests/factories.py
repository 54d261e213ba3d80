"""What tests of several folders need: small settings, tables of unit vectors."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gatefold.config import CoverSettings, EncoderSettings, IndexSettings, TransformerSettings
from gatefold.encoder.towers import DualEncoder
from gatefold.generator.transformer import build_pipeline, build_transformer
from gatefold.images.likeness import WIDTH, IndependentFeatures
from gatefold.images.pixels import decode_cover, encode_picture, resized
from gatefold.index.retrieval import CoverIndex, unit_columns
from gatefold.index.tuning import build_tuned
from gatefold.records import cover_schema, embedding_schema, spectrogram_schema
from gatefold.storage import objects, tables
from gatefold.storage.bundles import Bundle
from gatefold.storage.contents import releases
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.storage.models.encoders import publish_encoder
from gatefold.storage.models.generators import publish_generator
from gatefold.storage.models.indexes import publish_index
from gatefold.workspace import Workspace
from tests.sounds import AUDIO

COVER = CoverSettings(size=16)
ENCODER = EncoderSettings(embed_dim=8, width=16, dropout=0.0)
GENERATOR = TransformerSettings(patch_size=4, hidden=32, layers=1, heads=2, neighbours=2, num_inference_steps=3)

Vectors = npt.NDArray[np.float32]


class CoarseColours(IndependentFeatures):
    """Stands for the network: the colours of 64 places and a constant, as wide as it, without its weights."""

    def __init__(self, device: str = "cpu") -> None:
        pass

    def features(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        colours = resized(pixels, 8).reshape(len(pixels), -1).astype(np.float32) / 64
        padding = np.zeros((len(pixels), WIDTH - colours.shape[1]), np.float32)
        padding[:, 0] = 1
        return np.concatenate([colours, padding], axis=1)


def unit_vectors(count: int, width: int, seed: int = 0) -> Vectors:
    """float32 [count, width], each of unit length, in directions drawn at random."""
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    lengths: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def indexed_tracks(covers: Vectors, *, without_cover: Sequence[int] = (), songs: Vectors | None = None) -> pa.Table:
    """The table an index is made of: tracks "s0", "s1", …, three to an artist, of two genres by turns.

    Args:
        covers: float32 [T, D].
        without_cover: rows that have no cover.
        songs: float32 [T, D]; none has a song embedding when None.
    """
    count, width = covers.shape
    sides = embedding_schema(width)
    columns = {
        "song_id": pa.array([f"s{row}" for row in range(count)]),
        "title": pa.array([f"title {row}" for row in range(count)]),
        "artist": pa.array([f"artist {row // 3}" for row in range(count)]),
        "album": pa.nulls(count, pa.string()),
        "genre": pa.array([("folk", "jazz")[row % 2] for row in range(count)]),
        "cover_uri": pa.array([None if row in without_cover else f"file:///{row}.png" for row in range(count)]),
    }
    has_cover = [None if row in without_cover else covers[row] for row in range(count)]
    for side, vectors in (("song", [None] * count if songs is None else list(songs)), ("cover", has_cover)):
        columns[f"{side}_embedding"] = pa.array(vectors, sides.field(f"{side}_embedding").type)
    return pa.table(columns)


def write_pairs(workspace: Workspace, windows: Mapping[str, int], seed: int = 0) -> None:
    """Spectrograms and covers, drawn at random, of songs that have so many windows."""
    draw = np.random.default_rng(seed)
    rows = [(song_id, window) for song_id, count in windows.items() for window in range(count)]
    log_mel = [draw.standard_normal((AUDIO.n_mels, AUDIO.frames)) for _ in rows]
    sounds = spectrogram_schema(AUDIO)
    columns = {
        "song_id": pa.array([song_id for song_id, _ in rows]),
        "window": pa.array([window for _, window in rows], pa.int16()),
        "start_s": pa.array([0.0] * len(rows), pa.float32()),
        "log_mel": tables.tensor_column(log_mel, sounds.field("log_mel").type),
        "etag": pa.nulls(len(rows), pa.string()),
    }
    tables.write_part(workspace.spectrograms(AUDIO), "part", pa.table(columns))
    pixels = [draw.integers(256, size=(3, COVER.size, COVER.size)) for _ in windows]
    columns = {
        "song_id": pa.array(list(windows)),
        "pixels": tables.tensor_column(pixels, cover_schema(COVER).field("pixels").type),
        "etag": pa.nulls(len(windows), pa.string()),
    }
    tables.write_part(workspace.covers(COVER), "part", pa.table(columns))


def publish_small_release(workspace: Workspace, tracks: int = 12, number: int = 1) -> Release:
    """A release of untrained models, active, over the tracks of `indexed_tracks` with covers drawn at random: "r1" of
    "e1", "i1" and "g1", or with whatever number."""
    e, i, g, r = (f"{kind}{number}" for kind in "eigr")
    encoder = DualEncoder(ENCODER, AUDIO, COVER).eval()
    encoder_bundle = publish_encoder(f"{workspace.encoders}/{e}", encoder, version=e, lineage={}, details={})
    pixels = np.random.default_rng(0).integers(0, 256, (tracks, 3, COVER.size, COVER.size), np.uint8)
    pictures = [encode_picture(picture, 64, "png") for picture in pixels]
    seen = np.stack([decode_cover(picture, COVER) for picture in pictures])
    songs = unit_vectors(tracks, ENCODER.embed_dim, seed=1)
    table = indexed_tracks(encoder.embed_covers(seen), songs=songs)
    stored = tables.tensor_column([seen], cover_schema(COVER).field("pixels").type)
    tables.write_part(workspace.covers(COVER), "part", pa.table({"song_id": table["song_id"], "pixels": stored}))
    uris = [f"{workspace.uri}/pictures/{row}.png" for row in range(tracks)]
    for uri, picture in zip(uris, pictures, strict=True):
        objects.put(uri, picture)
    table = table.set_column(table.column_names.index("cover_uri"), "cover_uri", pa.array(uris))
    built = build_tuned(*unit_columns(table), IndexSettings())
    index = CoverIndex(table, encoder_bundle.fingerprint, built.vectors)
    index_bundle = publish_index(f"{workspace.indexes}/{i}", index, table, built.stats, version=i, lineage={})
    pipeline = build_pipeline(
        build_transformer(GENERATOR, COVER, ENCODER.embed_dim),
        neighbours=GENERATOR.neighbours,
        num_inference_steps=GENERATOR.num_inference_steps,
        guidance_scale=2.0,
        encoder_fingerprint=encoder_bundle.fingerprint,
    )
    generator_bundle = publish_generator(
        f"{workspace.generators}/{g}", pipeline, version=g, lineage={}, details={}, cover=COVER, sources={}
    )
    bundles = (encoder_bundle, index_bundle, generator_bundle)
    encoder_part, index_part, generator_part = (_part(workspace, bundle) for bundle in bundles)
    release = Release(
        version=r,
        created_at="2024-01-01T00:00:00+00:00",
        encoder=encoder_part,
        index=index_part,
        generator=generator_part,
    )
    releases.publish(workspace, release)
    return releases.activate(workspace, release.version)


def _part(workspace: Workspace, bundle: Bundle) -> ReleasePart:
    uri = objects.relative(bundle.uri, workspace.uri)
    return ReleasePart(uri=uri, version=bundle.version, fingerprint=bundle.fingerprint)
