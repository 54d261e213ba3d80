"""Calibration of the analytic generator's parameters on validation songs (`generator.kind: local-score`).

For half of the songs a small picture is generated with each candidate, and held against the real covers of the other
half in the cover tower's space. Candidates that no other beats in both distance and largest share make the curve that
`novelty` moves along; the default is the one of least distance, or as good as that and less of one source, whose median
largest share keeps within `originality.max_share`.
"""

import zlib
from collections.abc import Mapping
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from gatefold.config import Settings
from gatefold.evaluation.metrics import kernel_distance
from gatefold.generator.interface import GenerationRequest, Sources
from gatefold.generator.local_score.denoiser import COARSEST, Parameters
from gatefold.generator.local_score.pipeline import CurvePoint, LocalScorePipeline, build_local_pipeline
from gatefold.generator.sources import SourceRule, sources_of
from gatefold.images.pixels import resized
from gatefold.progress import NOTHING, OnProgress
from gatefold.storage import objects
from gatefold.storage.bundles import open_bundle
from gatefold.storage.contents import optouts
from gatefold.storage.contents.cover_pixels import pixels_in_process
from gatefold.storage.models.encoders import load_encoder
from gatefold.workspace import Workspace
from pipelines.index_access import open_index
from pipelines.row_mapper import map_rows
from pipelines.training.conditions import index_in_process
from pipelines.training.training_data import validation_ids
from pipelines.versions import Versions, check_unchanged

_NARROWEST = 13
CANDIDATES = (
    Parameters(0.8, _NARROWEST, 0.03, 0.18),
    *(Parameters(widest, _NARROWEST, 0.03, capacity) for capacity, widest in product((0.13, 0.09), (0.8, 0.6))),
    Parameters(0.6, _NARROWEST, 0.03, 0.06),
    Parameters(0.45, _NARROWEST, 0.05, 0.06),
)
"""from the closest to single covers to the most novel; narrower windows gain nothing where a source may hold more"""
UNMEASURED = Parameters(0.6, _NARROWEST, 0.03, 0.18)
"""where there are too few validation songs to choose by"""
_FEWEST = 8
"""songs that a distance is worth anything for"""
_AS_GOOD = 0.02
"""kernel distances that differ by no more are as good as each other: on fifty songs their standard error is larger"""
_SONGS_PER_TASK = 4


def calibrate(
    settings: Settings, workspace: Workspace, versions: Versions, on_progress: OnProgress
) -> tuple[LocalScorePipeline, dict[str, object]]:
    """The pipeline with its curve, and how it was chosen."""
    index_uri = objects.join(workspace.indexes, versions.index)
    encoder_uri = objects.join(workspace.encoders, versions.encoder)
    ids = validation_ids(settings, workspace)
    check_unchanged(settings, workspace, versions)
    asked = ids[::2][: settings.generator.local_score.calibration_songs]
    curve, default = [CurvePoint(UNMEASURED, 0.0, 0.0)], 0
    if len(asked) >= _FEWEST:
        rule = SourceRule(settings.generator.sources, optouts.song_ids(workspace))
        task = partial(_measure, settings, workspace, encoder_uri, index_uri, rule)

        def of_songs(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
            on_progress(done // len(CANDIDATES), total, facts)

        rows = map_rows(pa.table({"song_id": asked}), task, _SONGS_PER_TASK, of_songs)
        reference = open_index(index_uri).cover_embeddings(ids[1::2])
        measured = [_point(rows, number, reference) for number in range(len(CANDIDATES))]
        curve = curve_of(measured)
        default = default_of(curve, settings.originality.max_share)
    pipeline = build_local_pipeline(
        curve,
        default,
        num_sources=settings.generator.local_score.num_sources,
        size=settings.generator.size,
        encoder_fingerprint=open_bundle(index_uri, "index").lineage["encoder"],
    )
    shown = [{"largest_share": p.largest_share, "kid": p.kid, **vars(p.parameters)} for p in curve]
    return pipeline, {"songs": len(asked), "calibration": shown, "default": default}


def curve_of(measured: list[CurvePoint]) -> list[CurvePoint]:
    """Points that no other beats in both distance and largest share, by falling largest share."""
    best: list[CurvePoint] = []
    for point in sorted(measured, key=lambda p: (p.largest_share, p.kid)):
        if not best or point.kid < best[-1].kid:
            best.append(point)
    return best[::-1]


def default_of(curve: list[CurvePoint], max_share: float) -> int:
    """Of the points within `max_share`, the best by distance, and of those as good the one of the smallest share; the
    most novel one where none is within."""
    within = [number for number, point in enumerate(curve) if point.largest_share <= max_share]
    if not within:
        return len(curve) - 1
    best = min(curve[number].kid for number in within)
    return min((n for n in within if curve[n].kid <= best + _AS_GOOD), key=lambda n: curve[n].largest_share)


def _measure(
    settings: Settings, workspace: Workspace, encoder_uri: str, index_uri: str, rule: SourceRule, songs: pa.Table
) -> pa.Table:
    """For each song and candidate, the largest share of one source and the picture's embedding."""
    torch.set_num_threads(1)
    encoder, index = load_encoder(encoder_uri), index_in_process(index_uri)
    ids = songs["song_id"].to_pylist()
    count = settings.generator.local_score.num_sources
    stored = settings.stored_cover
    covers = pixels_in_process(workspace.covers(stored), stored, settings.generator.cache_bytes)
    rows: list[dict[str, object]] = []
    for song_id, matches in zip(ids, sources_of(index, ids, count, rule), strict=True):
        names = [match.track.song_id for match in matches]
        pixels = covers.read(names)
        kept = [match for match in matches if match.track.song_id in pixels]
        sources = Sources(
            tuple(match.track.song_id for match in kept),
            np.array([match.score for match in kept], np.float32),
            resized(np.stack([pixels[match.track.song_id] for match in kept]), min(COARSEST, settings.generator.size)),
        )
        pictures, shares = zip(*(_generate(settings, song_id, sources, one) for one in CANDIDATES), strict=True)
        embeddings = encoder.embed_covers(np.stack(pictures))
        for number, (share, embedding) in enumerate(zip(shares, embeddings, strict=True)):
            rows.append({"candidate": number, "largest_share": share, "embedding": embedding})
    return pa.Table.from_pylist(rows)


def _generate(
    settings: Settings, song_id: str, sources: Sources, parameters: Parameters
) -> tuple[npt.NDArray[np.uint8], float]:
    size = int(sources.pixels.shape[-1])
    pipeline = build_local_pipeline(
        [CurvePoint(parameters, 0.0, 0.0)], 0, num_sources=len(sources.song_ids), size=size, encoder_fingerprint=""
    )
    seed = settings.generator.seed + zlib.crc32(song_id.encode())
    nothing = np.zeros(0, np.float32)
    (one,) = pipeline.generate(nothing, sources, seeds=[seed], request=GenerationRequest(), on_step=lambda *_: None)
    assert one.attribution is not None
    return one.pixels, one.attribution.shares[0].share


def _point(rows: pa.Table, number: int, reference: npt.NDArray[np.float32]) -> CurvePoint:
    own = rows.filter(pa.compute.equal(rows["candidate"], number))
    embeddings = np.stack(own["embedding"].to_numpy(zero_copy_only=False))
    scale = np.sqrt(reference.shape[1])
    share = float(np.median(own["largest_share"].to_numpy()))
    distance = kernel_distance(embeddings * scale, reference * scale)
    return CurvePoint(CANDIDATES[number], round(share, 4), round(distance, 5))
