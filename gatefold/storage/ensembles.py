"""The models of a release, loaded to work together in one process: a song in, its nearest covers and new ones out.

This is what the command line and the examples use; the endpoint spreads the same models over replicas.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gatefold.audio import listen
from gatefold.errors import NotFound, UnknownTrack
from gatefold.records import Match, Song
from gatefold.retrieval import ALL, CoverIndex, Filters
from gatefold.storage import objects, optouts, releases
from gatefold.storage.encoders import load_encoder
from gatefold.storage.indexes import load_index
from gatefold.storage.releases import Release
from gatefold.towers import DualEncoder
from gatefold.workspace import Workspace

if TYPE_CHECKING:
    from gatefold.generator.transformer import CoverPipeline


@dataclass(frozen=True)
class Heard:
    """A song as the encoder understands it; `song` is None, and `song_id` is not, for one of the catalogue."""

    name: str
    """of the file without its ending, or the song_id"""
    embedding: npt.NDArray[np.float32]
    """[D], unit length"""
    song: Song | None = None
    song_id: str | None = None
    artist: str | None = None


@dataclass(frozen=True)
class Painting:
    """New covers of one song, and the covers they took their style from."""

    pixels: npt.NDArray[np.uint8]
    """[n, 3, S, S], one for each seed"""
    neighbours: list[Match]
    record: dict[str, Any]
    """all that replays it, fit for JSON"""


class Ensemble:
    """Encoder, index and, once it is needed, generator of a release."""

    def __init__(self, workspace: Workspace, release: Release) -> None:
        self.release = release
        self._workspace = workspace
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder: DualEncoder = load_encoder(self._uri(release.encoder), self._device)
        self.index: CoverIndex = load_index(self._uri(release.index))
        self._withdrawn = optouts.song_ids(workspace)
        self._pipeline: CoverPipeline | None = None

    def hear(self, song: str) -> Heard:
        """Args:
            song: a path, a `file://` or `s3://` URI, or a song_id of the catalogue; a file comes first.

        Raises: NotFound when it is none of these; InputError for a file that cannot be heard.
        """
        uri = objects.resolve(song)
        if not objects.exists(uri):
            return self._recall(song, uri)
        name = objects.name(uri)
        heard = listen(objects.open_source(uri), self.encoder.audio, name=f"song '{name}'")
        return Heard(PurePosixPath(name).stem, self.encoder.embed_song(heard.log_mel), song=heard)

    def search(self, heard: Heard, k: int, filters: Filters = ALL) -> list[Match]:
        """The k nearest covers, best first; none of a song that was withdrawn."""
        present = replace(filters, exclude_song_ids=filters.exclude_song_ids | self._withdrawn)
        fingerprint = self.encoder.fingerprint
        return self.index.search(heard.embedding[None], k, encoder_fingerprint=fingerprint, filters=present)[0]

    def paint(
        self,
        heard: Heard,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Painting:
        """One new cover for each seed. A song of the catalogue takes nothing from its own cover or its artist's others.

        Args:
            num_inference_steps, guidance_scale: the generator's own when None.
        """
        pipeline = self._generator()
        own, artist = (frozenset({name} if name else ()) for name in (heard.song_id, heard.artist))
        neighbours = self.search(heard, pipeline.neighbours, Filters(own, artist))
        steps = pipeline.num_inference_steps if num_inference_steps is None else num_inference_steps
        guidance = pipeline.guidance_scale if guidance_scale is None else guidance_scale
        pixels = pipeline.paint(
            heard.embedding,
            self.index.cover_embeddings([match.track.song_id for match in neighbours]),
            seeds=seeds,
            num_inference_steps=steps,
            guidance_scale=guidance,
            on_step=on_step,
        )
        record = {
            "song": heard.name,
            "song_embedding": heard.embedding.tolist(),
            "release": self.release.model_dump(),
            "seeds": list(seeds),
            "neighbours": [{"song_id": match.track.song_id, "score": match.score} for match in neighbours],
            "settings": {"num_inference_steps": steps, "guidance_scale": guidance},
        }
        return Painting(pixels, neighbours, record)

    def _recall(self, song_id: str, uri: str) -> Heard:
        if song_id in self._withdrawn:
            raise NotFound(f"song '{song_id}' was withdrawn; see `gatefold opt-out`")
        try:
            known = self.index.get(song_id)
        except UnknownTrack as error:
            raise NotFound(
                f"'{song_id}' is neither a file ('{uri}' does not exist) "
                f"nor a song_id of release '{self.release.version}'"
            ) from error
        if known.song_embedding is None:
            raise NotFound(f"track '{song_id}' could not be heard; see `gatefold rejects list --stage spectrograms`")
        return Heard(song_id, known.song_embedding, song_id=song_id, artist=known.track.artist)

    def _generator(self) -> "CoverPipeline":
        if self._pipeline is None:
            from gatefold.storage.generators import load_generator  # takes seconds, and a search does without

            self._pipeline = load_generator(self._uri(self.release.generator), self._device)
        return self._pipeline

    def _uri(self, part: releases.Part) -> str:
        return objects.join(self._workspace.uri, part.uri)


def load_ensemble(workspace: Workspace) -> Ensemble:
    """Of the release that serves. Raises: BundleNotFound where there is none."""
    return Ensemble(workspace, releases.current(workspace))
