"""Generation of new covers of a song, in a process that has loaded a generator.

Reads the pixels of the sources, generates, and measures how close each picture comes to an existing cover. How the
sources were found is not known here.
"""

from collections.abc import Callable, Sequence

import numpy as np

from gatefold.config import OriginalitySettings
from gatefold.errors import NoSources
from gatefold.generator.interface import GenerationRequest, OnStep, Pixels, Sources, Vectors
from gatefold.generator.nearest_cover import NearestCover, load_features
from gatefold.generator.originality import NewCover, Refused, generate_original
from gatefold.records import Match
from gatefold.storage.contents.cover_pixels import CoverPixels
from gatefold.storage.models.generators import LoadedGenerator
from gatefold.workspace import Workspace


class NewCovers:
    """Args:
    loaded: the generator.
    limits: how close a new cover may come to an existing one.
    cache_bytes: pixels of covers that are kept in memory.
    device: where likeness is measured.
    nearest: song_ids of so many covers nearest to each of pixels uint8 [n, 3, S, S] in the cover tower's space.
    cover_uri: of a song_id's original file.
    """

    def __init__(
        self,
        loaded: LoadedGenerator,
        workspace: Workspace,
        *,
        limits: OriginalitySettings,
        cache_bytes: int,
        device: str,
        nearest: Callable[[Pixels, int], Sequence[Sequence[str]]],
        cover_uri: Callable[[str], str | None],
    ) -> None:
        self._model, self._limits = loaded.model, limits
        self._pixels = CoverPixels(workspace.covers(loaded.cover), loaded.cover, cache_bytes, cover_uri)
        self._measure = NearestCover(load_features(device), nearest, self._pixels.read, self._pixels.size)

    def generate(
        self,
        song_embedding: Vectors,
        matches: Sequence[Match],
        cover_embeddings: Vectors | None,
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[NewCover | Refused]:
        """A new cover for each seed, or why there is none.

        Args:
            song_embedding: float32 [D], unit length.
            matches: the sources, nearest first.
            cover_embeddings: float32 [N, D] of the matches, for a generator that reads embeddings.

        Raises: InputError for a request that this kind of generator cannot fulfil; NoSources where no match has pixels.
        """
        return generate_original(
            self._model,
            song_embedding,
            self._sources(matches, cover_embeddings),
            seeds=seeds,
            request=request,
            limits=self._limits,
            measure_likeness=self._measure,
            on_step=on_step,
        )

    def _sources(self, matches: Sequence[Match], cover_embeddings: Vectors | None) -> Sources:
        ids = [match.track.song_id for match in matches]
        scores = np.array([match.score for match in matches], np.float32)
        if not self._model.reads_pixels:
            assert cover_embeddings is not None
            return Sources(tuple(ids), scores, np.zeros((0, 3, 0, 0), np.uint8), cover_embeddings)
        pixels = self._pixels.read(ids)
        rows = [row for row, song_id in enumerate(ids) if song_id in pixels]
        if not rows:
            raise NoSources(f"none of the {len(ids)} covers nearest to this song has pixels; run `gatefold covers`")
        names = tuple(ids[row] for row in rows)
        return Sources(
            names,
            scores[rows],
            np.stack([pixels[name] for name in names]),
            open_original=lambda number, size: self._pixels.original(names[number], size),
        )
