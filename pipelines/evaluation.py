"""How good the release would be, on artists that training never met: a table, a JSON report and a contact sheet.

Retrieval: does a song find its own cover among all held-out ones, and covers of its genre, and a cover its song; beside
what guessing, genres alone, the untrained encoder and, where it is known, the best possible ranker would reach.
Generation: do new covers look like covers, and do they fit their song; measured in the cover tower's space, beside
what real covers score (as good as it gets) and the same pictures when dealt to the wrong songs (as bad as it gets).
"""

import io
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
import torch

from gatefold import metrics
from gatefold.audio import spectrogram_picture
from gatefold.config import Settings
from gatefold.contact_sheet import Row, draw_contact_sheet
from gatefold.covers import to_pixels
from gatefold.errors import StageMissing
from gatefold.records import Song
from gatefold.retrieval import CoverIndex, Filters
from gatefold.scorecard import BY_COVER, ROUNDS, Measure, as_markdown, measure_genres, measure_retrieval
from gatefold.storage import objects, tables
from gatefold.storage.encoders import load_encoder
from gatefold.storage.generators import load_generator
from gatefold.storage.indexes import load_index
from gatefold.towers import DualEncoder
from gatefold.workspace import Workspace
from pipelines.conditions import Conditions, conditions_of
from pipelines.held_out import HeldOut, ceiling_of, embed_pairs, held_out_of, untrained
from pipelines.pairs import read_windows
from pipelines.report import OnProgress, Report, read_report, silent, write_report
from pipelines.versions import evaluation_of, versions_of

STAGE = "evaluate"
SHEET, TABLE = "contact-sheet.png", "evaluation.md"
_NEAREST, _NEW = 10, 3  # covers in a row of the sheet
_BATCH = 16  # pictures painted together

Pixels = npt.NDArray[np.uint8]


def evaluate(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Measures on the test split, and writes `reports/evaluate.json`, `evaluation.md` and `contact-sheet.png`.

    Nothing is done where the last report is of the same release and the same evaluation settings.

    Raises: StageMissing when fewer than four test songs have both sides.
    """
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    made_of = evaluation_of(settings, versions)
    last = read_report(workspace, STAGE)
    if last is not None and last.details.get("made_of") == made_of:
        return last.model_copy(
            update={"done": 0, "skipped": last.done + last.skipped, "seconds": time.monotonic() - began}
        )
    index = load_index(objects.join(workspace.indexes, versions.index))
    held_out = held_out_of(settings, workspace, index)
    asked, reference = _halves(held_out, settings)
    sheet_ids = [held_out.ids[i] for i in asked[: settings.evaluation.sheet]]
    generator_uri = objects.join(workspace.generators, versions.generator)
    painted = _paint(
        settings, index, generator_uri, [held_out.ids[i] for i in asked] + sheet_ids * (_NEW - 1), on_progress
    )
    encoder = load_encoder(objects.join(workspace.encoders, versions.encoder))
    features = encoder.embed_covers(painted[: len(asked)])
    retrieval = _retrieval(settings, workspace, held_out, encoder)
    table = [measure.row() for measure in retrieval + _generation(held_out, asked, reference, features, settings)]
    sheet = _draw_sheet(settings, workspace, index, sheet_ids, painted, len(asked))
    sheet_uri = objects.join(workspace.reports, SHEET)
    objects.put(sheet_uri, sheet)
    objects.put(objects.join(workspace.reports, TABLE), _as_text(table, held_out).encode())
    report = Report(
        stage=STAGE,
        done=len(held_out.ids),
        skipped=0,
        rejected=0,
        seconds=time.monotonic() - began,
        details={
            "made_of": made_of,
            "held_out": len(held_out.ids),
            "painted": len(asked),
            "artists": len(set(held_out.artists)),
            "table": table,
            "genres": measure_genres(held_out.songs @ held_out.covers.T, held_out.genres),
            "sheet": sheet_uri,
        },
    )
    write_report(workspace, report)
    return report


def _halves(held_out: HeldOut, settings: Settings) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Songs to paint for, and others whose real covers are the reference: no picture is judged by its own original."""
    order = np.random.default_rng(settings.evaluation.seed).permutation(len(held_out.ids))
    half = len(order) // 2
    return order[:half][: settings.evaluation.covers], order[half:]


def _retrieval(settings: Settings, workspace: Workspace, held_out: HeldOut, encoder: DualEncoder) -> list[Measure]:
    songs, covers = embed_pairs(untrained(encoder), settings, workspace, held_out.ids)
    rivals: dict[str, metrics.Floats] = {"untrained": songs @ covers.T}
    ceiling = ceiling_of(workspace, held_out)
    if ceiling is not None:
        rivals["ceiling"] = ceiling
    similarity = held_out.songs @ held_out.covers.T
    seed = settings.evaluation.seed
    return measure_retrieval(similarity, held_out.genres, held_out.artists, rivals=rivals, seed=seed)


def _generation(
    held_out: HeldOut,
    asked: npt.NDArray[np.int64],
    reference: npt.NDArray[np.int64],
    features: npt.NDArray[np.float32],
    settings: Settings,
) -> list[Measure]:
    songs, real = held_out.songs[asked], held_out.covers[asked]
    dealt = np.roll(features, len(features) // 2, axis=0)  # every picture to another song
    scale = np.sqrt(features.shape[1])
    rows: list[Measure] = []
    distances = (("Fréchet distance", metrics.frechet_distance), ("KID", metrics.kernel_distance))
    for name, distance in distances:
        value, best = (distance(x * scale, held_out.covers[reference] * scale) for x in (features, real))
        rows.append(Measure(f"{name}, covers alone", value, beside={"real": best}))
        beside = metrics.joint_features(held_out.songs[reference], held_out.covers[reference])
        value, best, worst = (distance(metrics.joint_features(songs, x), beside) for x in (features, real, dealt))
        rows.append(Measure(f"{name}, songs with covers", value, beside={"real": best, "shuffled songs": worst}))
    rank, best, worst = (_rank_of_song(held_out, asked, x, settings) for x in (features, real, dealt))
    among = min(settings.evaluation.ranking, len(held_out.ids))
    rows.append(Measure(f"median rank of the song among {among}", rank, beside={"real": best, "shuffled songs": worst}))
    return rows


def _rank_of_song(
    held_out: HeldOut, asked: npt.NDArray[np.int64], features: npt.NDArray[np.float32], settings: Settings
) -> float:
    """Median rank, from 1, of each picture's song among others drawn at random, by the cover tower."""
    rng = np.random.default_rng(settings.evaluation.seed)
    ranks = []
    for own, feature in zip(asked, features, strict=True):
        others = rng.permutation(np.delete(np.arange(len(held_out.ids)), own))[: settings.evaluation.ranking - 1]
        ranks.append(1 + int((held_out.songs[others] @ feature >= held_out.songs[own] @ feature).sum()))
    return float(np.median(ranks))


def _paint(
    settings: Settings, index: CoverIndex, generator_uri: str, song_ids: list[str], on_progress: OnProgress
) -> Pixels:
    """One picture uint8 [3, S, S] for each entry, in order; an id that stands again is painted from another seed."""
    conditions: Conditions = conditions_of(index, song_ids, settings.generator.transformer.neighbours)
    places = range(0, len(song_ids), _BATCH)
    jobs = [
        pa.table(
            {
                "first": [at],
                "song": [conditions.song[at : at + _BATCH].ravel()],
                "neighbours": [conditions.neighbours[at : at + _BATCH].ravel()],
            }
        )
        for at in places
    ]
    workers = max(1, min(len(jobs), int(ray.cluster_resources().get("CPU", 1))))
    painted = ray.data.from_arrow(jobs).map_batches(
        _Painter,
        fn_constructor_args=(generator_uri, settings.evaluation.seed, conditions.neighbours.shape[1:]),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
        num_cpus=1,
    )
    pictures: dict[int, Pixels] = {}
    for batch in painted.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        pictures.update(zip(batch["place"].tolist(), batch["pixels"], strict=True))
        on_progress(len(pictures), len(song_ids))
    return np.stack([pictures[place] for place in range(len(song_ids))])


class _Painter:
    """A Ray Data actor with the generator loaded."""

    def __init__(self, generator_uri: str, seed: int, context_shape: tuple[int, int]) -> None:
        torch.set_num_threads(1)
        self._pipeline, self._seed, self._shape = load_generator(generator_uri), seed, context_shape

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        neighbours = torch.from_numpy(np.array(batch["neighbours"][0])).reshape(-1, *self._shape)
        song = torch.from_numpy(np.array(batch["song"][0])).reshape(len(neighbours), -1)
        places = np.arange(len(song)) + batch["first"][0]
        pictures = self._pipeline(song, neighbours, seeds=[self._seed + int(place) for place in places])
        return {"place": places, "pixels": to_pixels(pictures).numpy()}


def _draw_sheet(
    settings: Settings, workspace: Workspace, index: CoverIndex, song_ids: list[str], painted: Pixels, asked: int
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
        nearest = [match.track.song_id for match in matches]
        covers = tables.read_rows(workspace.covers(settings.cover), nearest, ["song_id", "pixels"])
        pixels = dict(zip(covers["song_id"].to_pylist(), tables.tensors(covers["pixels"]), strict=True))
        again = [asked + turn * len(song_ids) + number for turn in range(_NEW - 1)]
        heard = Song(0.0, np.zeros(0, np.float32), windows[song_id][:1])
        rows.append(
            Row(
                title=track.title or song_id,
                subtitle=", ".join(part for part in (track.artist, track.genre) if part),
                spectrogram=spectrogram_picture(heard),
                nearest=[pixels[s] for s in nearest],
                new=[painted[place] for place in (number, *again)],
            )
        )
    png = io.BytesIO()
    draw_contact_sheet(rows).save(png, "PNG")
    return png.getvalue()


def _as_text(table: list[dict[str, Any]], held_out: HeldOut) -> str:
    count, artists = len(held_out.ids), len(set(held_out.artists))
    return (
        f"# Evaluation on {count} songs by {artists} artists that training never met\n\n"
        f"Each song looks for its own cover among all {count}, and for covers of its genre; the lines that say "
        f"'{BY_COVER[2:]}' are the other way round. 95 %: percentiles of {ROUNDS:,} bootstrap samples of the artists, "
        "each with all its songs. Chance and *by genre* (knows the genre, guesses among its covers) are exact "
        "expectations; *untrained* is the encoder before its first step; *ceiling* knows the latents that song and "
        "cover were made from, up to the noise that was drawn between them.\n" + as_markdown(table)
    )
