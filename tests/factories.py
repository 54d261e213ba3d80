"""What tests of several floors make by hand: small settings, sounds whose content is known, tables of unit vectors."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import soundfile

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, GeneratorSettings, IndexSettings
from gatefold.covers import decode_cover, encode_picture
from gatefold.generator import build_transformer
from gatefold.records import embedding_schema
from gatefold.retrieval import CoverIndex, unit_columns
from gatefold.storage import objects, releases
from gatefold.storage.bundles import Bundle
from gatefold.storage.indexes import publish_index
from gatefold.storage.models import build_pipeline, publish_encoder, publish_generator
from gatefold.storage.releases import Part, Release
from gatefold.towers import DualEncoder
from gatefold.tuning import build_tuned
from gatefold.workspace import Workspace

MUSIC = Path(__file__).parent / "data" / "music"
CLIPS = sorted(path for path in MUSIC.iterdir() if path.suffix != ".csv")
"""Seventeen real songs in seven kinds of file; ATTRIBUTION.csv says whose they are."""

AUDIO = AudioSettings(
    sample_rate=8_000, n_fft=256, win_length=256, hop_length=80, n_mels=16, f_max=4_000, window_s=0.64
)
"""Small ears: log_mel [W, 16, 64]."""
COVER = CoverSettings(size=16)
ENCODER = EncoderSettings(embed_dim=8, width=16, dropout=0.0)
GENERATOR = GeneratorSettings(patch_size=4, hidden=32, layers=1, heads=2, neighbours=2, num_inference_steps=3)

Samples = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]


def tone(duration_s: float, rate: int = 16_000, *, hertz: float = 440.0, level: float = 0.5) -> Samples:
    """A sine, float32 [N], of amplitude `level`."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(duration_s * rate)) / rate)).astype(np.float32)


def encoded(samples: Samples, rate: int = 16_000, *, format: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file of mono [N] or interleaved [N, channels] samples, in any format that libsndfile writes."""
    sink = io.BytesIO()
    soundfile.write(sink, samples, rate, format=format, subtype=subtype)
    return sink.getvalue()


def unit_vectors(count: int, width: int, seed: int = 0) -> Vectors:
    """float32 [count, width], each of unit length, in directions drawn at random."""
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


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


def publish_small_release(workspace: Workspace, tracks: int = 12, number: int = 1) -> Release:
    """A release of untrained models, active, over the tracks of `indexed_tracks` with covers drawn at random: "r1" of
    "e1", "i1" and "g1", or with whatever number."""
    e, i, g, r = (f"{kind}{number}" for kind in "eigr")
    encoder = DualEncoder(ENCODER, AUDIO, COVER).eval()
    ears = publish_encoder(f"{workspace.encoders}/{e}", encoder, version=e, lineage={}, details={})
    pixels = np.random.default_rng(0).integers(0, 256, (tracks, 3, COVER.size, COVER.size), np.uint8)
    pictures = [encode_picture(picture, 64, "png") for picture in pixels]
    seen = np.stack([decode_cover(picture, COVER) for picture in pictures])
    songs = unit_vectors(tracks, ENCODER.embed_dim, seed=1)
    table = indexed_tracks(encoder.embed_covers(seen), songs=songs)
    uris = [f"{workspace.uri}/pictures/{row}.png" for row in range(tracks)]
    for uri, picture in zip(uris, pictures, strict=True):
        objects.put(uri, picture)
    table = table.set_column(table.column_names.index("cover_uri"), "cover_uri", pa.array(uris))
    built = build_tuned(*unit_columns(table), IndexSettings())
    index = CoverIndex(table, ears.fingerprint, built.vectors)
    eyes = publish_index(f"{workspace.indexes}/{i}", index, table, built.figures, version=i, lineage={})
    pipeline = build_pipeline(
        build_transformer(GENERATOR, COVER, ENCODER.embed_dim),
        neighbours=GENERATOR.neighbours,
        num_inference_steps=GENERATOR.num_inference_steps,
        guidance_scale=2.0,
        encoder_fingerprint=ears.fingerprint,
    )
    hand = publish_generator(f"{workspace.generators}/{g}", pipeline, version=g, lineage={}, details={})
    encoder_part, index_part, generator_part = (_part(workspace, bundle) for bundle in (ears, eyes, hand))
    release = Release(
        version=r,
        created_at="2024-01-01T00:00:00+00:00",
        encoder=encoder_part,
        index=index_part,
        generator=generator_part,
    )
    releases.publish(workspace, release)
    return releases.activate(workspace, release.version)


def _part(workspace: Workspace, bundle: Bundle) -> Part:
    uri = objects.relative(bundle.uri, workspace.uri)
    return Part(uri=uri, version=bundle.version, fingerprint=bundle.fingerprint)
