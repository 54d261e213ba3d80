"""A loaded release: its encoder, index and generator in one process, for search and generation.

This is what the command line and the examples use; the endpoint spreads the same models over replicas.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import GeneratorSettings, OriginalitySettings
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import NotFound, UnknownTrack
from gatefold.generator.interface import GenerationRequest, OnStep
from gatefold.generator.originality import NewCover, Refused
from gatefold.generator.records import cover_record
from gatefold.generator.sources import SourceRule, chosen
from gatefold.index.interface import ALL, Filters
from gatefold.index.retrieval import CoverIndex
from gatefold.records import LogMelWindows, Match
from gatefold.storage import objects
from gatefold.storage.contents import optouts, releases
from gatefold.storage.contents.releases import Release
from gatefold.storage.models.encoders import load_encoder
from gatefold.storage.models.indexes import load_index
from gatefold.workspace import Workspace

if TYPE_CHECKING:  # takes seconds to import, and a search does without
    from gatefold.storage.models.generators import LoadedGenerator
    from gatefold.storage.models.new_covers import NewCovers


@dataclass(frozen=True)
class EncodedSong:
    """A song and its embedding; `song` is None, and `song_id` is not, for one of the catalogue."""

    name: str
    """of the file without its ending, or the song_id"""
    embedding: npt.NDArray[np.float32]
    """[D], unit length"""
    song: LogMelWindows | None = None
    song_id: str | None = None
    artist: str | None = None


@dataclass(frozen=True)
class GeneratedForSong:
    """What was generated for a song, one entry for each seed, and the covers it was generated from."""

    covers: list[NewCover | Refused]
    sources: list[Match]
    record: dict[str, Any]
    """all that replays it, fit for JSON"""

    @property
    def new(self) -> list[NewCover]:
        """Those that kept within all limits, in the order of the seeds."""
        return [cover for cover in self.covers if isinstance(cover, NewCover)]


class LoadedRelease:
    """Encoder, index and, once it is needed, generator of a release.

    Args:
        generator, originality: settings of what runs here, not of what was trained: memory and limits.
        device: where to compute, as torch names it.
    """

    def __init__(
        self,
        workspace: Workspace,
        release: Release,
        generator: GeneratorSettings | None = None,
        originality: OriginalitySettings | None = None,
        *,
        device: str = "cpu",
    ) -> None:
        self.release = release
        self._workspace = workspace
        self._cache_bytes = (generator or GeneratorSettings()).cache_bytes
        self._limits = originality or OriginalitySettings()
        self._device = device
        self.encoder: DualEncoder = load_encoder(self._uri(release.encoder), self._device)
        self.index: CoverIndex = load_index(self._uri(release.index), device=device)
        self._withdrawn = optouts.song_ids(workspace)
        self._loaded: tuple[LoadedGenerator, NewCovers] | None = None

    def encode_song(self, song: str) -> EncodedSong:
        """Args:
            song: a path, a `file://` or `s3://` URI, or a song_id of the catalogue; a file comes first.

        Raises: NotFound when it is none of these; InputError for a file that cannot be decoded.
        """
        uri = objects.resolve(song)
        if not objects.exists(uri):
            path = objects.local_path(uri)
            there = "is a folder" if path is not None and path.is_dir() else "does not exist"
            elsewhere = f"'{song}' is neither a file ('{uri}' {there}) nor"
            return self._from_catalogue(song, elsewhere)
        name = objects.name(uri)
        encoded = extract_log_mel(objects.open_source(uri), self.encoder.audio, name=f"song '{name}'")
        return EncodedSong(PurePosixPath(name).stem, self.encoder.embed_song(encoded.log_mel), song=encoded)

    def encode_song_id(self, song_id: str) -> EncodedSong:
        """A song of the catalogue, whatever files there are. Raises: NotFound."""
        return self._from_catalogue(song_id, f"'{song_id}' is not")

    def search(self, encoded: EncodedSong, k: int, filters: Filters = ALL) -> list[Match]:
        """The k nearest covers, best first; none of a song that was withdrawn."""
        present = replace(filters, exclude_song_ids=filters.exclude_song_ids | self._withdrawn)
        return self._nearest(encoded.embedding[None], k, present)[0]

    def generate(
        self,
        encoded: EncodedSong,
        *,
        seeds: Sequence[int],
        request: GenerationRequest | None = None,
        source_song_ids: Collection[str] | None = None,
        on_step: OnStep = lambda _done, _steps: None,
    ) -> GeneratedForSong:
        """A new cover for each seed, from the nearest covers that may be sources, or why there is none.

        Args:
            source_song_ids: the sources to use among these; all when None.

        Raises: NoSources; InputError for a request that the generator cannot fulfil.
        """
        request = request or GenerationRequest()
        loaded, new_covers = self._generator()
        rule = SourceRule(loaded.sources, self._withdrawn)
        found = self.search(encoded, loaded.model.num_sources, rule.filters(encoded.song_id, encoded.artist))
        matches = chosen(found, source_song_ids)
        ids = [match.track.song_id for match in matches]
        embeddings = None if loaded.model.reads_pixels else self.index.cover_embeddings(ids)
        covers = new_covers.generate(
            encoded.embedding, matches, embeddings, seeds=seeds, request=request, on_step=on_step
        )
        record = {
            "song": encoded.name,
            "song_embedding": encoded.embedding.tolist(),
            "release": self.release.model_dump(),
            "generator": loaded.model.kind,
            "seeds": list(seeds),
            "neighbours": [{"song_id": match.track.song_id, "score": match.score} for match in matches],
            "settings": {name: value for name, value in asdict(request).items() if value is not None},
            "covers": [cover_record(cover) for cover in covers],
        }
        return GeneratedForSong(covers, matches, record)

    def _from_catalogue(self, song_id: str, unknown: str) -> EncodedSong:
        if song_id in self._withdrawn:
            raise NotFound(f"song '{song_id}' was withdrawn; see `gatefold opt-out`")
        try:
            known = self.index.get(song_id)
        except UnknownTrack as error:
            raise NotFound(f"{unknown} a song_id of release '{self.release.version}'") from error
        if known.song_embedding is None:
            raise NotFound(f"track '{song_id}' has no embedding; see `gatefold rejects list --stage spectrograms`")
        return EncodedSong(song_id, known.song_embedding, song_id=song_id, artist=known.track.artist)

    def _nearest(self, embeddings: npt.NDArray[np.float32], k: int, filters: Filters) -> list[list[Match]]:
        return self.index.search(embeddings, k, encoder_fingerprint=self.encoder.fingerprint, filters=filters)

    def _generator(self) -> "tuple[LoadedGenerator, NewCovers]":
        if self._loaded is None:
            from gatefold.storage.models.generators import load_generator
            from gatefold.storage.models.new_covers import NewCovers

            def nearest(pixels: npt.NDArray[np.uint8], k: int) -> list[list[str]]:
                found = self._nearest(self.encoder.embed_covers(pixels), k, ALL)
                return [[match.track.song_id for match in matches] for matches in found]

            loaded = load_generator(self._uri(self.release.generator), self._device)
            new_covers = NewCovers(
                loaded,
                self._workspace,
                limits=self._limits,
                cache_bytes=self._cache_bytes,
                device=self._device,
                nearest=nearest,
                cover_uri=lambda song_id: self.index.get(song_id).cover_uri,
            )
            self._loaded = loaded, new_covers
        return self._loaded

    def _uri(self, part: releases.ReleasePart) -> str:
        return objects.join(self._workspace.uri, part.uri)


def load_active_release(
    workspace: Workspace,
    generator: GeneratorSettings | None = None,
    originality: OriginalitySettings | None = None,
    *,
    device: str = "cpu",
) -> LoadedRelease:
    """Of the release that serves. Raises: BundleNotFound where there is none."""
    return LoadedRelease(workspace, releases.current(workspace), generator, originality, device=device)
