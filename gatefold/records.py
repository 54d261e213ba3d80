"""Track, match, log-mel windows, and the schema of every table in a workspace.

Shape legend: W = windows, M = mel bands, F = frames, S = pixels a side, D = width of the joint space, K = neighbours.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from gatefold.config import AudioSettings, CoverSettings, SplitSettings
from gatefold.names import normal_name

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

TRACKS = pa.schema(
    [
        pa.field("song_id", pa.string(), nullable=False),
        pa.field("audio_uri", pa.string(), nullable=False),
        pa.field("cover_uri", pa.string()),
        pa.field("title", pa.string()),
        pa.field("artist", pa.string()),
        pa.field("album", pa.string()),
        pa.field("genre", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("audio_etag", pa.string()),
        pa.field("cover_etag", pa.string()),
    ]
)
"""The catalogue's own columns; what a manifest carries beyond them follows as it came.

An etag is the store's own mark of what an object holds at present; a cover inside an audio file has the audio's.
"""

MAY_BE_SOURCE = "may_be_source"
"""Column of a manifest, true or false: whether new covers may be made from this one. True for all where there is no
such column, false where it is empty."""

REJECTS = pa.schema(
    [
        pa.field("song_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
    ]
)
"""`etag` is that of the track when it was tried, `size_bytes` of the object, where it is known."""

ETAG = pa.field("etag", pa.string())
"""Last column of every table a stage makes of tracks: what its row was made of, empty where no store ever said."""


def spectrogram_schema(audio: AudioSettings) -> pa.Schema:
    """One row a window; log_mel is float16 [M, F], natural logarithm of mel power."""
    log_mel = pa.fixed_shape_tensor(pa.float16(), [audio.n_mels, audio.frames])
    return pa.schema(
        [("song_id", pa.string()), ("window", pa.int16()), ("start_s", pa.float32()), ("log_mel", log_mel), ETAG]
    )


def cover_schema(cover: CoverSettings) -> pa.Schema:
    """One row a song; pixels are uint8 [3, S, S], RGB."""
    pixels = pa.fixed_shape_tensor(pa.uint8(), [3, cover.size, cover.size])
    return pa.schema([("song_id", pa.string()), ("pixels", pixels), ETAG])


def embedding_schema(embed_dim: int) -> pa.Schema:
    """One row a song; each embedding is float32 [D] of unit length, or null where the song has no such side."""
    vector = pa.list_(pa.float32(), embed_dim)
    return pa.schema([("song_id", pa.string()), ("song_embedding", vector), ("cover_embedding", vector), ETAG])


def neighbour_schema(embed_dim: int, count: int) -> pa.Schema:
    """One row a song: its embedding float32 [D], and of its nearest covers by other artists, nearest first, the ids [K]
    and the embeddings float32 [K, D]."""
    vectors = [pa.fixed_shape_tensor(pa.float32(), shape) for shape in ([embed_dim], [count, embed_dim])]
    ids = pa.list_(pa.string())
    return pa.schema(
        [("song_id", pa.string()), ("song_embedding", vectors[0]), ("neighbour_ids", ids), ("neighbours", vectors[1])]
    )


@dataclass(frozen=True)
class LogMelWindows:
    """A song's windows as log-mel spectrograms."""

    duration_s: float
    starts_s: npt.NDArray[np.float32]
    """[W], where each window begins"""
    log_mel: npt.NDArray[np.float16]
    """[W, M, F], natural logarithm of mel power, about -14 to 8"""


class Track(BaseModel):
    """A song with its identity and metadata."""

    model_config = ConfigDict(frozen=True)

    song_id: str
    title: str | None = None
    artist: str | None = None
    album: str | None = None
    genre: str | None = None


class Match(BaseModel):
    """A track whose cover lies near a song; `score` is the cosine, at most 1."""

    model_config = ConfigDict(frozen=True)

    rank: int
    score: float
    track: Track


def split_of(shares: SplitSettings, *, artist: str | None, album: str | None, song_id: str) -> Split:
    """Which split this song belongs to: by a stable hash of its artist (else album, else id).

    Adding songs to a catalogue moves none from one split to another; only other shares do. No artist is in two splits
    (but where a manifest says so), which would let the encoder recognise artists instead of music. Names are compared
    by `names.normal_name`; one of white space alone is none.
    """
    names = (("artist", artist), ("album", album), ("song", song_id))
    known = (f"{kind}:{normal}" for kind, value in names if (normal := normal_name(value)))
    key = next(known, f"song:{song_id}")
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if point < shares.test:
        return "test"
    return "validation" if point < shares.test + shares.validation else "train"
