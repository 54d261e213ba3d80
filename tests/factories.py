"""What tests of several floors make by hand: small settings, sounds whose content is known, tables of unit vectors."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import soundfile

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, GeneratorSettings
from gatefold.records import embedding_schema

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
