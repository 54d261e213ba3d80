"""Evaluation of a release on held-out artists: a table, a JSON report and a contact sheet.

Retrieval: does a song find its own cover among all held-out ones, and covers of its genre, and a cover its song; beside
what guessing, genres alone, the untrained encoder and, where it is known, the best possible ranker would reach.
Generation: do new covers look like covers, and do they fit their song; in the cover tower's space and in features that
nothing here is trained with, beside what real covers score (as good as it gets) and the same pictures given to other
songs (as bad as it gets); and how close they come to single existing covers.
"""

import io
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gatefold.audio.spectrograms import spectrogram_picture
from gatefold.config import Settings
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import StageMissing
from gatefold.evaluation import metrics
from gatefold.evaluation.scorecard import (
    BY_COVER,
    ROUNDS,
    Measure,
    as_markdown,
    measure_genres,
    measure_retrieval,
    originality_as_markdown,
)
from gatefold.images.contact_sheet import SheetRow, draw_contact_sheet
from gatefold.images.likeness import IndependentFeatures, available, nearest_likeness
from gatefold.index.interface import Filters, Index
from gatefold.progress import OnProgress, silent
from gatefold.records import LogMelWindows
from gatefold.storage import leases, objects
from gatefold.storage.contents.cover_pixels import read_covers
from gatefold.storage.leases import Lease
from gatefold.storage.models.encoders import load_encoder
from gatefold.workspace import Workspace
from pipelines.evaluation.generation_scores import (
    Halves,
    Space,
    at_most,
    generation_measures,
    halves_of,
    independent_space,
    share_measures,
)
from pipelines.evaluation.generator_candidates import Pictures, generate_covers
from pipelines.evaluation.held_out import HeldOut, ceiling_of, embed_pairs, held_out_of
from pipelines.evaluation.independent_features import catalogue_sample, features_of
from pipelines.index_access import open_index
from pipelines.report import Report, read_report, while_held, write_report
from pipelines.training.training_data import read_windows
from pipelines.versions import Versions, evaluation_of, versions_of

STAGE = "evaluate"
SHEET, TABLE = "contact-sheet.png", "evaluation.md"
_NEAREST, _NEW = 10, 3  # covers in a row of the sheet
_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)

Pixels = npt.NDArray[np.uint8]


def evaluate(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Measures on the test split, and writes `reports/evaluate.json`, `evaluation.md` and `contact-sheet.png`.

    Nothing is done where the last report is of the same release and the same evaluation settings.

    Raises: TooFewSongs when too few test songs have both sides; RunInProgress.
    """
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    last = read_report(workspace, STAGE)
    if last is not None and last.details.get("input_fingerprint") == evaluation_of(settings, versions):
        return last.model_copy(
            update={"done": 0, "skipped": last.done + last.skipped, "seconds": time.monotonic() - began}
        )
    with leases.hold(workspace.lease(STAGE)) as lease:
        return _measure(settings, workspace, versions, lease, on_progress)


def _measure(
    settings: Settings, workspace: Workspace, versions: Versions, lease: Lease, on_progress: OnProgress
) -> Report:
    began = time.monotonic()
    index = open_index(objects.join(workspace.indexes, versions.index))
    held_out = held_out_of(settings, workspace, index)
    halves = halves_of(held_out, settings.evaluation)
    asked = [held_out.ids[place] for place in halves.asked]
    sheet_ids = asked[: settings.evaluation.contact_sheet_rows]
    uri = objects.join(workspace.generators, versions.generator)
    wanted = asked + sheet_ids * (_NEW - 1)
    seeds = [settings.evaluation.seed + number for number in range(len(wanted))]
    generated = generate_covers(settings, workspace, index, uri, wanted, seeds, while_held(lease, on_progress))
    encoder_uri = objects.join(workspace.encoders, versions.encoder)
    table = _retrieval(settings, workspace, held_out, encoder_uri)
    judged = _judged(settings, workspace, halves, generated) if available() else None
    table += _generation(halves, load_encoder(encoder_uri), generated, judged)
    sheet = _draw_sheet(settings, workspace, index, sheet_ids, generated.pixels, len(asked))
    sheet_uri = objects.join(workspace.reports, SHEET)
    rows = [measure.row() for measure in table]
    originality = _originality(settings, generated, judged)
    details = {
        "input_fingerprint": evaluation_of(settings, versions),
        "held_out": len(held_out.ids),
        "generated": len(asked),
        "artists": len(set(held_out.artists)),
        "table": rows,
        "originality": originality,
        "genres": measure_genres(held_out.songs @ held_out.covers.T, held_out.genres),
        "sheet": sheet_uri,
    }
    lease.check()
    objects.put(sheet_uri, sheet)
    objects.put(objects.join(workspace.reports, TABLE), _as_text(rows, held_out, originality).encode())
    done, seconds = len(held_out.ids), time.monotonic() - began
    report = Report(stage=STAGE, done=done, skipped=0, rejected=0, seconds=seconds, details=details)
    write_report(workspace, report)
    return report


def _retrieval(settings: Settings, workspace: Workspace, held_out: HeldOut, encoder_uri: str) -> list[Measure]:
    songs, covers = embed_pairs(settings, workspace, encoder_uri, held_out.ids, as_begun=True)
    baselines: dict[str, metrics.Floats] = {"untrained": songs @ covers.T}
    ceiling = ceiling_of(workspace, held_out)
    if ceiling is not None:
        baselines["ceiling"] = ceiling
    similarity = held_out.songs @ held_out.covers.T
    seed = settings.evaluation.seed
    return measure_retrieval(similarity, held_out.genres, held_out.artists, baselines=baselines, seed=seed)


@dataclass(frozen=True)
class _Judged:
    """Covers in independent features, of width C."""

    space: Space
    generated: metrics.Floats
    """[n, C]"""
    catalogue: metrics.Floats
    """[N, C], of covers of the catalogue"""
    of_song: dict[str, metrics.Floats]
    """[C], of the covers of all held-out songs"""


def _judged(settings: Settings, workspace: Workspace, halves: Halves, generated: Pictures) -> _Judged:
    """Each cover is looked at once, for distances and likeness alike."""
    ids, chosen = halves.held_out.ids, catalogue_sample(settings, workspace)
    covers = features_of(settings, workspace, [*ids, *chosen])
    space = independent_space(IndependentFeatures())
    made = space.embed(at_most(generated.pixels, settings.stored_cover.size))
    return _Judged(space, made, np.stack([covers[song_id] for song_id in chosen]), covers)


def _generation(
    halves: Halves, encoder: DualEncoder, generated: Pictures, judged: _Judged | None
) -> list[Measure]:
    """Distances of the covers generated for the asked songs, in the encoder's space and in independent features."""
    count = len(halves.asked)
    independent = None
    if judged is not None:
        reference, real = (
            np.stack([judged.of_song[halves.held_out.ids[place]] for place in places])
            for places in (halves.reference, halves.asked)
        )
        independent = (judged.space, judged.generated[:count], reference, real)
    measures = generation_measures(halves, generated.pixels[:count], encoder=encoder, independent=independent)
    return measures + share_measures(halves, generated.largest_shares[:count])


def _originality(settings: Settings, generated: Pictures, judged: _Judged | None) -> dict[str, Any]:
    """How close the generated covers come to existing ones: quantiles of each measure, attempts, refusals."""
    known = generated.originality
    measured: dict[str, list[float]] = {
        name: [one[name] for one in known if one[name] is not None] for name in ("share", "region")
    }
    if judged is not None:
        measured["likeness"] = nearest_likeness(judged.generated, judged.catalogue).tolist()
    return {
        "limits": settings.originality.model_dump(),
        "quantiles": {
            name: {f"{q:g}": round(float(np.quantile(values, q)), 4) for q in _QUANTILES}
            for name, values in measured.items()
            if values
        },
        "attempts": dict(sorted(Counter(str(one["attempts"]) for one in known).items())),
        "refused": dict(sorted(Counter(one["refused"] for one in known if one["refused"]).items())),
    }


def _draw_sheet(
    settings: Settings, workspace: Workspace, index: Index, song_ids: list[str], generated: Pixels, asked: int
) -> bytes:
    known = {song_id: index.get(song_id) for song_id in song_ids}
    windows = read_windows(settings, workspace, song_ids)
    rows = []
    for number, song_id in enumerate(song_ids):
        track, embedding = known[song_id].track, known[song_id].song_embedding
        if embedding is None:
            raise StageMissing(f"track '{song_id}' has no song embedding")
        others = Filters(exclude_song_ids=frozenset({song_id}))
        matches = index.search(
            embedding[None], _NEAREST, encoder_fingerprint=index.encoder_fingerprint, filters=others
        )[0]
        nearest = read_covers(settings, workspace, [match.track.song_id for match in matches])
        again = [asked + turn * len(song_ids) + number for turn in range(_NEW - 1)]
        windows_of_song = LogMelWindows(0.0, np.zeros(0, np.float32), windows[song_id][:1])
        rows.append(
            SheetRow(
                title=track.title or song_id,
                subtitle=", ".join(part for part in (track.artist, track.genre) if part),
                spectrogram=spectrogram_picture(windows_of_song),
                nearest=list(nearest),
                new=[generated[place] for place in (number, *again)],
            )
        )
    png = io.BytesIO()
    draw_contact_sheet(rows).save(png, "PNG")
    return png.getvalue()


def _as_text(table: list[dict[str, Any]], held_out: HeldOut, originality: dict[str, Any]) -> str:
    count, artists = len(held_out.ids), len(set(held_out.artists))
    return (
        f"# Evaluation on {count} songs by {artists} artists that training never met\n\n"
        f"Each song looks for its own cover among all {count}, and for covers of its genre; the lines that say "
        f"'{BY_COVER[2:]}' are the other way round. 95 %: percentiles of {ROUNDS:,} bootstrap samples of the artists, "
        "each with all its songs. Chance and *by genre* (knows the genre, guesses among its covers) are exact "
        "expectations; *untrained* is the encoder before its first step; *ceiling* knows the latents that song and "
        "cover were made from, up to the noise that was drawn between them.\n"
        + as_markdown(table)
        + originality_as_markdown(originality)
    )
