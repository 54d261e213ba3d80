"""Candidates of the comparison: real covers, the nearest cover itself, each published generator.

Others join by the same `Candidate`. A generator runs in actors of Ray Data, one core each, or one GPU each where
training has them; what is measured on the covers is decided elsewhere.

Shape legend: n = covers, N = sources of a song, S = pixels a side, D = width of the joint space.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
import torch

from gatefold.config import Settings
from gatefold.errors import BundleCorrupt, StageMissing
from gatefold.generator.interface import Generated, GenerationRequest, Sources
from gatefold.generator.originality import Refused, generate_original
from gatefold.generator.sources import ANY, SourceRule, sources_of
from gatefold.index.interface import Index
from gatefold.progress import OnProgress, silent
from gatefold.storage.bundles import list_bundles
from gatefold.storage.contents import optouts
from gatefold.storage.contents.cover_pixels import read_covers
from gatefold.storage.models.generators import load_generator
from gatefold.workspace import Workspace
from pipelines.row_mapper import reraise_domain_errors

logger = logging.getLogger(__name__)

NEAREST = 100
"""covers nearest to a song that likeness and genres are measured against, whatever a generator reads of them"""
_SONGS_PER_TASK = 4
_ORIGINALITY = ("share", "region", "attempts", "refused")

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
    originality: Sequence[dict[str, Any]] = ()
    """[n] share and region (largest of one source), attempts, refused (a code, or None); empty where it is not known"""


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


def nearest_of(index: Index, song_id: str, count: int, rule: SourceRule = ANY) -> Nearest:
    """The covers nearest to a song that may be sources of its new covers.

    Raises: UnknownTrack when the song has no embedding; StageMissing when there is no such cover.
    """
    (matches,) = sources_of(index, [song_id], count, rule)
    if not matches:
        raise StageMissing(f"no cover may be a source for '{song_id}'; add songs by others, or allow more covers")
    return Nearest(
        tuple(match.track.song_id for match in matches), np.array([match.score for match in matches], np.float32)
    )


def rule_of(settings: Settings, workspace: Workspace) -> SourceRule:
    """Which covers may be sources, by these settings and the opt-outs so far."""
    return SourceRule(settings.generator.sources, optouts.song_ids(workspace))


def real_covers(settings: Settings, workspace: Workspace) -> Candidate:
    """The songs' own covers."""

    def generate(song_ids: Sequence[str], seeds: Sequence[int], on_progress: OnProgress) -> Pictures:  # noqa: ARG001
        return Pictures(read_covers(settings, workspace, song_ids), [None] * len(song_ids))

    return Candidate("real covers", generate, repeats=False)


def nearest_covers(settings: Settings, workspace: Workspace, index: Index) -> Candidate:
    """The cover nearest to each song: what a search gives without any generation."""

    def generate(song_ids: Sequence[str], seeds: Sequence[int], on_progress: OnProgress) -> Pictures:  # noqa: ARG001
        rule = rule_of(settings, workspace)
        ids = [nearest_of(index, song_id, 1, rule).song_ids[0] for song_id in song_ids]
        return Pictures(read_covers(settings, workspace, ids), [1.0] * len(ids))

    return Candidate("nearest cover", generate, repeats=False)


def published(settings: Settings, workspace: Workspace, index: Index) -> list[Candidate]:
    """Every generator of this workspace that was made for the encoder of the index, named by its kind, and by its
    version too where there are several of a kind."""
    found: list[tuple[str, str, str]] = []
    for bundle in list_bundles(workspace.generators):
        try:
            generator = load_generator(bundle.uri).model
        except BundleCorrupt:  # of an earlier release, or a checkpoint that is no longer where it was
            logger.warning("generator '%s' cannot be loaded and is left out", bundle.uri)
            continue
        if generator.encoder_fingerprint == index.encoder_fingerprint:
            found.append((generator.kind, bundle.version, bundle.uri))
    kinds = [kind for kind, _, _ in found]
    return [
        Candidate(
            kind if kinds.count(kind) == 1 else f"{kind} {version}",
            partial(generate_covers, settings, workspace, index, uri),
        )
        for kind, version, uri in sorted(found)
    ]


def generate_covers(
    settings: Settings,
    workspace: Workspace,
    index: Index,
    uri: str,
    song_ids: Sequence[str],
    seeds: Sequence[int],
    on_progress: OnProgress = silent,
) -> Pictures:
    """By one published generator, its covers at its own size.

    Each is generated again where too much of it comes from one source, as for any user; one that would be refused is
    kept as it was at last, and counted.
    """
    rule = rule_of(settings, workspace)
    jobs = _jobs(index, song_ids, seeds, load_generator(uri).model.num_sources, rule)
    workers = max(1, min(len(jobs), int(ray.cluster_resources().get("CPU", 1))))
    use_gpu = settings.train.use_gpu
    with reraise_domain_errors():
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
    seconds = float(np.mean([row["seconds"] for row in in_order]))
    originality = [{name: row[name] for name in _ORIGINALITY} for row in in_order]
    return Pictures(pixels, [row["share"] for row in in_order], seconds, originality)


def _jobs(
    index: Index, song_ids: Sequence[str], seeds: Sequence[int], count: int, rule: SourceRule = ANY
) -> list[pa.Table]:
    """A row for each song, with all its seeds and what its covers are made from."""
    places: dict[str, list[int]] = {}
    for place, song_id in enumerate(song_ids):
        places.setdefault(song_id, []).append(place)
    rows = []
    for song_id, of_song in places.items():
        nearest = nearest_of(index, song_id, count, rule)
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
        self._settings, self._workspace = settings, workspace
        self._generator = load_generator(uri, device).model

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
        covers = generate_original(
            self._generator,
            song,
            sources,
            seeds=job["seeds"],
            request=GenerationRequest(),
            limits=self._settings.originality,
            measure_likeness=_unmeasured,
            on_step=lambda _done, _steps: None,
        )
        seconds = (time.perf_counter() - began) / len(covers)
        rows = []
        for place, cover in zip(job["places"], covers, strict=True):
            shares = cover.generated.attribution.shares if cover.generated.attribution else ()
            rows.append(
                {
                    "place": place,
                    "size": cover.generated.pixels.shape[-1],
                    "pixels": cover.generated.pixels.tobytes(),
                    "share": shares[0].share if shares else None,
                    "region": max(share.largest_region for share in shares) if shares else None,
                    "attempts": cover.attempt,
                    "refused": cover.code if isinstance(cover, Refused) else None,
                    "seconds": seconds,
                }
            )
        return rows


def _unmeasured(generated: Sequence[Generated]) -> list[None]:
    """Likeness to the catalogue is measured on all covers together, afterwards."""
    return [None] * len(generated)
