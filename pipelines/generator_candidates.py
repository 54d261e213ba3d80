"""What makes covers of held-out songs, to be compared: real covers, the nearest cover itself, each published generator.

Others join by the same `Candidate`. A generator runs in actors of Ray Data, one core each, or one GPU each where
training has them; what is measured on the covers is decided elsewhere.

Shape legend: n = covers, N = sources of a song, S = pixels a side, D = width of the joint space.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
import torch

from gatefold.config import Settings
from gatefold.errors import StageMissing
from gatefold.generator.interface import CoverGenerator, Generated, Request, Sources
from gatefold.retrieval import CoverIndex, Filters
from gatefold.storage import tables
from gatefold.storage.bundles import list_bundles
from gatefold.storage.generators import load_generator
from gatefold.workspace import Workspace
from pipelines.generation_scores import largest_share
from pipelines.report import OnProgress, silent
from pipelines.rows import own_errors

NEAREST = 100
"""covers nearest to a song that likeness and genres are measured against, whatever a generator reads of them"""
_SONGS_PER_TASK = 4

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Nearest:
    """The covers nearest to a song that may be sources of new ones: song_ids and cosines [N], nearest first."""

    song_ids: tuple[str, ...]
    cosines: Vectors


@dataclass(frozen=True)
class Pictures:
    """Covers of several songs: pixels uint8 [n, 3, S, S], one for each song and seed that was asked for."""

    pixels: Pixels
    largest_shares: Sequence[float | None]
    """[n] of one source, where the model can say"""
    seconds: float | None = None
    """a cover, without reading its sources; None where nothing is generated"""


class Generate(Protocol):
    """Makes one cover for each song_id and seed; a song may come several times, with other seeds."""

    def __call__(self, song_ids: Sequence[str], seeds: Sequence[int], on_progress: OnProgress) -> Pictures: ...


@dataclass(frozen=True)
class Candidate:
    """Something that covers come from.

    Args:
        repeats: whether another seed gives another cover.
    """

    name: str
    generate: Generate
    repeats: bool = True


def nearest_of(index: CoverIndex, song_id: str, count: int) -> Nearest:
    """The covers nearest to a song that are neither its own nor its artist's.

    Raises: StageMissing when the song has no embedding, or there is no such cover.
    """
    known = index.get(song_id)
    if known.song_embedding is None:
        raise StageMissing(f"track '{song_id}' has no song embedding; see `gatefold rejects list`")
    artists = frozenset({known.track.artist} if known.track.artist else ())
    matches = index.search(
        known.song_embedding[None],
        count,
        encoder_fingerprint=index.encoder_fingerprint,
        filters=Filters(frozenset({song_id}), artists),
    )[0]
    if not matches:
        raise StageMissing(f"no cover by another artist than '{song_id}' has; add songs by others")
    return Nearest(
        tuple(match.track.song_id for match in matches), np.array([match.score for match in matches], np.float32)
    )


def read_covers(settings: Settings, workspace: Workspace, song_ids: Sequence[str]) -> Pixels:
    """The covers of these songs as the workspace has them, uint8 [n, 3, S, S], in this order; an id may come again.

    Raises: StageMissing naming a song without a cover.
    """
    wanted = sorted(set(song_ids))
    rows = tables.read_rows(workspace.covers(settings.cover), wanted, ["song_id", "pixels"], stage="covers")
    place_of = {song_id: place for place, song_id in enumerate(rows["song_id"].to_pylist())}
    missing = [song_id for song_id in wanted if song_id not in place_of]
    if missing:
        raise StageMissing(f"track '{missing[0]}' has no cover in '{workspace.uri}'; see `gatefold rejects list`")
    pixels: Pixels = tables.tensors(rows["pixels"])[[place_of[song_id] for song_id in song_ids]]
    return pixels


def real_covers(settings: Settings, workspace: Workspace) -> Candidate:
    """The songs' own covers."""

    def generate(song_ids: Sequence[str], seeds: Sequence[int], on_progress: OnProgress) -> Pictures:  # noqa: ARG001
        return Pictures(read_covers(settings, workspace, song_ids), [None] * len(song_ids))

    return Candidate("real covers", generate, repeats=False)


def nearest_covers(settings: Settings, workspace: Workspace, index: CoverIndex) -> Candidate:
    """The cover nearest to each song: what a search gives without any generation."""

    def generate(song_ids: Sequence[str], seeds: Sequence[int], on_progress: OnProgress) -> Pictures:  # noqa: ARG001
        ids = [nearest_of(index, song_id, 1).song_ids[0] for song_id in song_ids]
        return Pictures(read_covers(settings, workspace, ids), [1.0] * len(ids))

    return Candidate("nearest cover", generate, repeats=False)


def published(settings: Settings, workspace: Workspace, index: CoverIndex) -> list[Candidate]:
    """Every generator of this workspace that was made for the encoder of the index, named by its kind, and by its
    version too where there are several of a kind."""
    found: list[tuple[str, str, str]] = []
    for bundle in list_bundles(workspace.generators):
        generator = _load(bundle.uri)
        if generator.encoder_fingerprint == index.encoder_fingerprint:
            found.append((generator.kind, bundle.version, bundle.uri))
    kinds = [kind for kind, _, _ in found]
    return [
        Candidate(
            kind if kinds.count(kind) == 1 else f"{kind} {version}",
            partial(_generate, settings, workspace, index, uri),
        )
        for kind, version, uri in sorted(found)
    ]


def _load(uri: str, device: str = "cpu") -> CoverGenerator:
    generator: Any = load_generator(uri, device)
    return cast(CoverGenerator, generator if hasattr(generator, "generate") else _ByEmbeddings(generator))


class _ByEmbeddings:
    """A pipeline that has `paint` alone, as a CoverGenerator."""

    kind = "transformer"

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.num_sources: int = pipeline.neighbours
        self.encoder_fingerprint: str = pipeline.encoder_fingerprint

    def generate(
        self,
        song_embedding: Vectors,
        sources: Sources,
        *,
        seeds: Sequence[int],
        request: Request,  # noqa: ARG002
        on_step: Any,
    ) -> list[Generated]:
        pixels = self._pipeline.paint(song_embedding, sources.embeddings, seeds=seeds, on_step=on_step)
        return [Generated(seed, cover) for seed, cover in zip(seeds, pixels, strict=True)]


def _generate(
    settings: Settings,
    workspace: Workspace,
    index: CoverIndex,
    uri: str,
    song_ids: Sequence[str],
    seeds: Sequence[int],
    on_progress: OnProgress = silent,
) -> Pictures:
    """By one published generator, its covers at its own size."""
    jobs = _jobs(index, song_ids, seeds, _load(uri).num_sources)
    workers = max(1, min(len(jobs), int(ray.cluster_resources().get("CPU", 1))))
    use_gpu = settings.train.use_gpu
    with own_errors():
        generated = ray.data.from_arrow(jobs).map_batches(
            _Generator,
            fn_constructor_args=(settings, workspace, uri, "cuda" if use_gpu else "cpu"),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=1 if use_gpu else workers),
            num_cpus=1,
            num_gpus=1 if use_gpu else 0,
        )
        rows: dict[int, dict[str, Any]] = {}
        for batch in generated.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            rows.update({row["place"]: row for row in batch.to_pylist()})
            on_progress(len(rows), len(song_ids))
    in_order = [rows[place] for place in range(len(song_ids))]
    pixels = np.stack([np.frombuffer(row["pixels"], np.uint8).reshape(3, row["size"], row["size"]) for row in in_order])
    return Pictures(pixels, [row["share"] for row in in_order], float(np.mean([row["seconds"] for row in in_order])))


def _jobs(index: CoverIndex, song_ids: Sequence[str], seeds: Sequence[int], count: int) -> list[pa.Table]:
    """A row for each song, with all its seeds and what its covers are made from."""
    places: dict[str, list[int]] = {}
    for place, song_id in enumerate(song_ids):
        places.setdefault(song_id, []).append(place)
    rows = []
    for song_id, of_song in places.items():
        nearest = nearest_of(index, song_id, count)
        rows.append(
            {
                "places": of_song,
                "seeds": [seeds[place] for place in of_song],
                "song": index.get(song_id).song_embedding,
                "source_ids": list(nearest.song_ids),
                "cosines": nearest.cosines,
                "embeddings": index.cover_embeddings(nearest.song_ids).ravel(),
            }
        )
    return [pa.Table.from_pylist(rows[at : at + _SONGS_PER_TASK]) for at in range(0, len(rows), _SONGS_PER_TASK)]


class _Generator:
    """A Ray Data actor with the generator loaded."""

    def __init__(self, settings: Settings, workspace: Workspace, uri: str, device: str) -> None:
        torch.set_num_threads(1)
        self._settings, self._workspace, self._generator = settings, workspace, _load(uri, device)

    def __call__(self, jobs: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([row for job in jobs.to_pylist() for row in self._covers(job)])

    def _covers(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        song = np.array(job["song"], np.float32)
        ids = job["source_ids"]
        sources = Sources(
            tuple(ids),
            np.array(job["cosines"], np.float32),
            read_covers(self._settings, self._workspace, ids),
            np.array(job["embeddings"], np.float32).reshape(len(ids), -1),
        )
        began = time.perf_counter()
        covers = self._generator.generate(
            song, sources, seeds=job["seeds"], request=Request(), on_step=lambda _done, _steps: None
        )
        seconds = (time.perf_counter() - began) / len(covers)
        return [
            {
                "place": place,
                "size": cover.pixels.shape[-1],
                "pixels": cover.pixels.tobytes(),
                "share": largest_share(cover),
                "seconds": seconds,
            }
            for place, cover in zip(job["places"], covers, strict=True)
        ]
