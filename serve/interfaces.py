"""Interfaces of the encoder, the retriever and the generator that the API calls, and the data passed between them.

Interfaces only. In production they are Ray deployments behind handles (serve.deployments.handles); in a test they
are a few lines each. Everything here crosses process boundaries as plain data: numbers, strings, bytes, numpy arrays.

Shape legend: N = neighbours, n = new covers, S = pixels a side, D = width of the joint space.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gatefold.config import AudioSettings, CoverSettings
from gatefold.errors import UnknownTrack
from gatefold.generator.interface import GenerationRequest
from gatefold.generator.originality import NewCover, Refused
from gatefold.index.interface import ALL, Filters, IndexedTrack
from gatefold.records import Match

Vector = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SongEmbedding:
    """A song's embedding, and what was decoded for it."""

    embedding: Vector
    """float32 [D], of unit length"""
    duration_s: float
    window_starts_s: list[float]
    spectrogram_png: bytes | None


@dataclass(frozen=True)
class Query:
    """A search by a song's embedding."""

    embedding: Vector
    """float32 [D], of unit length"""
    encoder: str
    """fingerprint of the encoder that made the embedding"""
    k: int
    filters: Filters = ALL


@dataclass(frozen=True)
class SongQuery:
    """A search by a song of the index."""

    song_id: str
    encoder: str
    """fingerprint of the encoder that made the index"""
    k: int
    filters: Filters = ALL

    def to_query(self, known: IndexedTrack) -> Query:
        """The search by this song's embedding. Raises: UnknownTrack where only its cover is known."""
        return Query(song_embedding(known), self.encoder, self.k, self.filters)


@dataclass(frozen=True)
class GenerationJob:
    """All that a generator needs: the same job gives the same covers, as long as the same sources are allowed."""

    song_embedding: Vector
    """float32 [D]"""
    song_id: str | None
    artist: str | None
    """of a song of the catalogue, whose own covers are no sources"""
    seeds: list[int]
    request: GenerationRequest
    source_song_ids: frozenset[str] | None
    """the sources to use among those that are allowed; all when None"""


@dataclass(frozen=True)
class GenerationResult:
    """A new cover for each seed, or why there is none; and the covers that were sources when generation began."""

    covers: tuple[NewCover | Refused, ...]
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class EncoderFacts:
    """The encoder that serves: its fingerprint, and the audio settings that it was trained with."""

    audio: AudioSettings
    fingerprint: str


@dataclass(frozen=True)
class IndexFacts:
    """The index that serves: how many covers it holds, and the width of their embeddings."""

    covers: int
    embed_dim: int


@dataclass(frozen=True)
class GeneratorFacts:
    """The generator that serves: its kind, and what a request may ask of it."""

    kind: str
    num_sources: int
    accepts: frozenset[str]
    """fields of a request that this kind knows"""
    novelty: float | None
    """its default; None for a kind without novelty"""
    sources: dict[str, list[str]]
    """`generator.sources`"""
    cover: CoverSettings
    """how the covers of the workspace are stored"""


class SongEncoding(Protocol):
    """The encoder, of songs and of new covers."""

    async def encode_song(self, data: bytes, name: str, spectrogram: bool) -> SongEmbedding:
        """The embedding of the song in these bytes. Raises: InputError where they cannot be decoded."""

    async def embed_covers(self, pixels: Pictures) -> Vector:
        """float32 [n, D], unit length.

        Args:
            pixels: uint8 [n, 3, S, S], RGB.
        """

    async def describe(self) -> EncoderFacts:
        """Facts of the encoder that serves."""


class CoverRetrieval(Protocol):
    """The index of covers."""

    async def search(self, query: Query | SongQuery) -> list[Match]:
        """At most k matches, the nearest first. Raises: WrongModel for another encoder's; UnknownTrack for a song that
        is not there or has no embedding."""

    async def track(self, song_id: str) -> IndexedTrack:
        """The track of this id, with its embeddings float32 [D]. Raises: UnknownTrack."""

    async def describe(self) -> IndexFacts:
        """Facts of the index that serves."""


class CoverGeneration(Protocol):
    """The generator."""

    def generate(self, job: GenerationJob) -> AsyncGenerator[float | GenerationResult, None]:
        """The share of steps done, 0.0 when it begins, then again and again; last the result.

        Closing the iterator early stops the generator within a step. Raises: NoSources; InputError.
        """

    async def describe(self) -> GeneratorFacts:
        """Facts of the generator that serves."""

    async def capacity(self) -> int:
        """Jobs that it can generate at once now."""


class Readiness(Protocol):
    """Whether requests can be answered."""

    async def check(self) -> None:
        """Raises: IndexNotReady, saying what is missing."""


@dataclass(frozen=True)
class ServedBundle:
    """One bundle of the release that is served."""

    version: str
    fingerprint: str


@dataclass(frozen=True)
class ServedRelease:
    """The release every stage was built from."""

    version: str
    encoder: ServedBundle
    index: ServedBundle
    generator: ServedBundle


@dataclass(frozen=True)
class ReleaseServices:
    """What the API calls for one release."""

    release: ServedRelease
    encoder: SongEncoding
    retriever: CoverRetrieval
    generator: CoverGeneration
    readiness: Readiness


def song_embedding(known: IndexedTrack) -> Vector:
    """float32 [D] of a track's song. Raises: UnknownTrack where only its cover is known."""
    if known.song_embedding is None:
        raise UnknownTrack(f"track '{known.track.song_id}' has no usable song in this release; upload the song instead")
    return known.song_embedding
