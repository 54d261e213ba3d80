"""Comparison of generators on the same held-out songs and seeds, in one table, and by genre as in the article.

Beside what the workspace has published stand real covers and the nearest cover itself; others, such as the article's
own generator, are given by the caller.

Shape legend: n = covers asked for, A = the first of them, one for each song that is measured, C = width of a space.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gatefold.config import Settings
from gatefold.errors import StageMissing
from gatefold.evaluation.metrics import Floats
from gatefold.evaluation.scorecard import Measure
from gatefold.images.likeness import IndependentFeatures, available, diversity, likeness
from gatefold.index.interface import Index
from gatefold.progress import NOTHING, OnProgress, silent
from gatefold.storage import leases, objects
from gatefold.storage.contents.cover_pixels import read_covers
from gatefold.storage.leases import Lease
from gatefold.storage.models.encoders import load_encoder
from gatefold.workspace import Workspace
from pipelines.evaluation.generation_scores import (
    SHUFFLED,
    Halves,
    Space,
    at_most,
    distance_measures,
    encoder_space,
    halves_of,
    independent_space,
    median_measure,
    rank_measure,
    share_measures,
)
from pipelines.evaluation.generator_candidates import (
    NEAREST,
    Candidate,
    Pictures,
    nearest_covers,
    nearest_of,
    published,
    real_covers,
    rule_of,
)
from pipelines.evaluation.generator_genres import genre_rows, genres_of
from pipelines.evaluation.generator_tables import as_markdown
from pipelines.evaluation.held_out import held_out_of
from pipelines.evaluation.independent_features import catalogue_sample, features_of
from pipelines.index_access import open_index
from pipelines.report import Report, while_held, write_report
from pipelines.versions import versions_of

STAGE, TABLE = "compare-generators", "generators.md"
_AGAIN, _COVERS = 32, 4
"""songs of which several covers are made, and how many of each"""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CoverPlan:
    """Which covers every candidate makes: song_ids and seeds [n]. First one for each song that is measured [A], then
    one for each other song of a genre, then more covers of some songs."""

    song_ids: list[str]
    seeds: list[int]
    asked: int
    """A"""
    again: dict[str, list[int]]
    """song_id: numbers of its several covers"""
    genres: dict[str, list[int]]
    """genre: numbers of its covers, one for each song"""


@dataclass(frozen=True)
class Known:
    """What all candidates are measured against, computed once."""

    plan: CoverPlan
    halves: Halves
    spaces: list[Space]
    reference: dict[str, Floats]
    """ending of a space: [B, C]"""
    real: Pixels
    """uint8 [1, 3, S, S], a real cover, for its size"""
    nearest: dict[str, tuple[str, ...]]
    """song_id: song_ids of its nearest covers"""
    independent: dict[str, Floats]
    """song_id: [1280] of its cover, of the nearest ones and of the catalogue's; empty without the extra `eval`"""


def compare_generators(
    settings: Settings,
    workspace: Workspace,
    on_progress: OnProgress = silent,
    *,
    others: Sequence[Candidate] = (),
    only: Sequence[str] = (),
) -> Report:
    """Kept as `reports/compare-generators.json` and `generators.md`.

    Its details have "candidates" (name, pixels a side, table), "genres", and how many songs, covers and artists.

    Args:
        others: candidates beside those of the workspace.
        only: names of the candidates that are measured, all when empty.

    Raises: TooFewSongs when too few test songs have both sides; StageMissing when no candidate has one of the names;
    RunInProgress.
    """
    with leases.hold(workspace.lease(STAGE)) as lease:
        return _compare(settings, workspace, others, only, lease, on_progress)


def _compare(
    settings: Settings,
    workspace: Workspace,
    others: Sequence[Candidate],
    only: Sequence[str],
    lease: Lease,
    on_progress: OnProgress,
) -> Report:
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    index = open_index(objects.join(workspace.indexes, versions.index))
    held_out = held_out_of(settings, workspace, index)
    halves = halves_of(held_out, settings.evaluation)
    candidates = _candidates(settings, workspace, index, others, only)
    known = _known(settings, workspace, index, objects.join(workspace.encoders, versions.encoder), halves)
    compared: list[dict[str, Any]] = []
    features: dict[str, dict[str, Floats]] = {}
    for number, candidate in enumerate(candidates):
        pictures = _pictures(candidate, known.plan, number, len(candidates), while_held(lease, on_progress))
        features[candidate.name], table = _measured(known, candidate, pictures)
        size = pictures.pixels.shape[-1]
        compared.append({"name": candidate.name, "size": size, "table": [measure.row() for measure in table]})
    details = {
        "asked": len(halves.asked),
        "reference": len(halves.reference),
        "artists": len(set(held_out.artists)),
        "catalogue": len(known.independent),
        "candidates": compared,
        "genres": genre_rows(known.plan.genres, features, _of_genres(index, known), known.plan.song_ids, known.nearest),
    }
    seconds = time.monotonic() - began
    report = Report(stage=STAGE, done=len(candidates), skipped=0, rejected=0, seconds=seconds, details=details)
    lease.check()
    objects.put(objects.join(workspace.reports, TABLE), as_markdown(report.details).encode())
    write_report(workspace, report)
    return report


def _candidates(
    settings: Settings, workspace: Workspace, index: Index, others: Sequence[Candidate], only: Sequence[str]
) -> list[Candidate]:
    own = [real_covers(settings, workspace), nearest_covers(settings, workspace, index)]
    every = [*own, *published(settings, workspace, index), *others]
    chosen = [candidate for candidate in every if not only or candidate.name in only]
    if not chosen:
        names = ", ".join(f"'{candidate.name}'" for candidate in every)
        raise StageMissing(f"no generator is named {', '.join(only)}; '{workspace.uri}' has {names}")
    return chosen


def plan_of(halves: Halves) -> CoverPlan:
    """The covers to make, each from a seed of its own that follows from `evaluation.seed`."""
    held_out = halves.held_out
    ids = [held_out.ids[place] for place in halves.asked]
    by_genre = genres_of(held_out)
    number_of = {song_id: number for number, song_id in enumerate(ids)}
    for song_id in (song_id for songs in by_genre.values() for song_id in songs):
        if song_id not in number_of:
            number_of[song_id] = len(ids)
            ids.append(song_id)
    again = {}
    for song_id in ids[: min(_AGAIN, len(halves.asked))]:
        again[song_id] = [number_of[song_id], *range(len(ids), len(ids) + _COVERS - 1)]
        ids += [song_id] * (_COVERS - 1)
    seeds = [halves.settings.seed + number for number in range(len(ids))]
    genres = {genre: [number_of[song_id] for song_id in songs] for genre, songs in by_genre.items()}
    return CoverPlan(ids, seeds, len(halves.asked), again, genres)


def _known(settings: Settings, workspace: Workspace, index: Index, encoder_uri: str, halves: Halves) -> Known:
    held_out, encoder = halves.held_out, load_encoder(encoder_uri)
    plan = plan_of(halves)
    rule = rule_of(settings, workspace)
    nearest = {song_id: nearest_of(index, song_id, NEAREST, rule).song_ids for song_id in dict.fromkeys(plan.song_ids)}
    references = [held_out.ids[place] for place in halves.reference]
    pixels = read_covers(settings, workspace, references)
    spaces = [encoder_space(encoder)]
    reference = {spaces[0].ending: held_out.covers[halves.reference]}
    independent: dict[str, Floats] = {}
    if available():
        needed = {*held_out.ids, *(song_id for ids in nearest.values() for song_id in ids)}
        independent = dict(features_of(settings, workspace, [*needed, *catalogue_sample(settings, workspace)]))
        network = IndependentFeatures()
        spaces.append(independent_space(network))
        reference[spaces[1].ending] = np.stack([independent[song_id] for song_id in references])
        if pixels.shape[-1] > encoder.cover.size:  # else a generator of smaller covers is judged by their size alone
            spaces.append(independent_space(network, encoder.cover.size))
            reference[spaces[2].ending] = spaces[2].embed(pixels)
    return Known(plan, halves, spaces, reference, pixels[:1], nearest, independent)


def _pictures(candidate: Candidate, plan: CoverPlan, number: int, count: int, on_progress: OnProgress) -> Pictures:
    """All covers of the plan; of one that cannot repeat itself, none of a song twice."""
    n = len(plan.song_ids) if candidate.repeats else len(set(plan.song_ids))

    def within(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        on_progress(number * len(plan.song_ids) + done, len(plan.song_ids) * count, {"candidate": candidate.name})

    pictures = candidate.generate(plan.song_ids[:n], plan.seeds[:n], within)
    within(len(plan.song_ids), n)
    return pictures


def _measured(known: Known, candidate: Candidate, pictures: Pictures) -> tuple[dict[str, Floats], list[Measure]]:
    """Features [n, C] by ending of their space, scaled as it asks, and the rows of the table."""
    pixels, asked = at_most(pictures.pixels, known.real.shape[-1]), known.plan.asked
    features = {space.ending: space.embed(pixels) for space in known.spaces}
    rows: list[Measure] = []
    for space in known.spaces:
        found = features[space.ending][:asked]
        rows += distance_measures(known.halves, space, found, known.reference[space.ending])
    rows.append(rank_measure(known.halves, features[known.spaces[0].ending][:asked]))
    rows += share_measures(known.halves, pictures.largest_shares[:asked])
    if known.independent:
        rows += _likeness(known, candidate, features[known.spaces[1].ending])
    if pictures.seconds is not None:
        rows.append(Measure("seconds a cover, on one core or GPU", pictures.seconds))
    scaled = {space.ending: features[space.ending] * space.scale for space in known.spaces}
    return scaled, [one for row in rows for one in _apart(row)]


def _apart(row: Measure) -> list[Measure]:
    """A row, and what shuffled songs score as a row of its own: beside a value there stands another generator's."""
    rows = [Measure(row.measure, row.value, row.low, row.high)]
    if SHUFFLED in row.baseline_values:
        rows.append(Measure(f"{row.measure}, {SHUFFLED}", row.baseline_values[SHUFFLED]))
    return rows


def _likeness(known: Known, candidate: Candidate, features: Floats) -> list[Measure]:
    """To the nearest of the song's own sources, to the nearest of the catalogue but its own cover, and of the covers of
    one song to each other."""
    plan = known.plan
    place_of = {song_id: place for place, song_id in enumerate(known.independent)}
    alike = likeness(features[: plan.asked], np.stack(list(known.independent.values())))
    of_source, of_catalogue = np.zeros(plan.asked), np.zeros(plan.asked)
    for number, song_id in enumerate(plan.song_ids[: plan.asked]):
        alike[number, place_of[song_id]] = -1  # its own cover does not count
        of_source[number] = alike[number, [place_of[source] for source in known.nearest[song_id]]].max()
        of_catalogue[number] = alike[number].max()
    halves = known.halves
    rows = [
        median_measure(halves, f"likeness to the nearest of {NEAREST} sources, median", of_source),
        median_measure(halves, "likeness to the nearest cover of the catalogue, median", of_catalogue),
    ]
    if candidate.repeats:
        varied = np.array([diversity(features[numbers]) for numbers in plan.again.values()])
        name = f"diversity of {_COVERS} covers of a song, median"
        rows.append(median_measure(halves, name, varied, songs=halves.asked[: len(varied)]))
    return rows


def _of_genres(index: Index, known: Known) -> dict[str, dict[str, Floats]]:
    """By ending of a space and song_id: what `genre_rows` compares with."""
    ids = sorted({song_id for ids in known.nearest.values() for song_id in ids} | set(known.plan.song_ids))
    own, *rest = known.spaces
    found: dict[str, dict[str, Floats]] = {
        own.ending: dict(zip(ids, index.cover_embeddings(ids) * own.scale, strict=True))
    }
    for space in rest[:1]:
        found[space.ending] = {song_id: known.independent[song_id] * space.scale for song_id in ids}
    return found
