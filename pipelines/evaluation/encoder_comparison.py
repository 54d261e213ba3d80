"""Comparison of a workspace's encoders on the same held-out songs, in one table.

Each embeds them anew, with the audio and cover settings it was trained with, so one that no release names can be
compared too.
"""

import time

import numpy as np
import pyarrow.compute as pc

from gatefold.config import Settings
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import BundleNotFound, TooFewSongs
from gatefold.evaluation.scorecard import Measure, measure_retrieval
from gatefold.progress import OnProgress, silent
from gatefold.storage import objects
from gatefold.storage.bundles import list_bundles
from gatefold.storage.models.encoders import load_encoder
from gatefold.workspace import Workspace
from pipelines.evaluation.held_out import FEWEST, HeldOut, ceiling_of, embed_pairs, named
from pipelines.report import Report, write_report
from pipelines.training.training_data import paired_ids, sample

STAGE = "compare"


def compare_encoders(
    settings: Settings, workspace: Workspace, versions: list[str], on_progress: OnProgress = silent
) -> Report:
    """Retrieval by each encoder, kept as `reports/compare.json`: `encoders` has version, loss and table, in this order.

    Raises: BundleNotFound for a version that the workspace has not, naming those it has; TooFewSongs when too few
    test songs have both sides for all of them.
    """
    began = time.monotonic()
    encoders = {version: _encoder(workspace, version) for version in versions}
    settings_of = {version: _with_inputs_of(encoder, settings) for version, encoder in encoders.items()}
    first, *others = (paired_ids(its, workspace, "test") for its in settings_of.values())
    for other in others:
        first = first.filter(pc.is_in(first, value_set=other))
    ids = sample(first, settings.evaluation.held_out)
    if len(ids) < FEWEST:
        raise TooFewSongs(f"{len(ids)} test songs have both sides for all encoders, at least {FEWEST} are needed")
    tables = {}
    for number, version in enumerate(encoders, 1):
        uri = objects.join(workspace.encoders, version)
        held_out = named(workspace, ids, *embed_pairs(settings_of[version], workspace, uri, ids))
        tables[version] = [measure.row() for measure in _measured(settings, workspace, held_out)]
        on_progress(number, len(encoders))
    compared = [
        {"version": version, "loss": encoder.settings.loss, "table": tables[version]}
        for version, encoder in encoders.items()
    ]
    report = Report(
        stage=STAGE,
        done=len(encoders),
        skipped=0,
        rejected=0,
        seconds=time.monotonic() - began,
        details={"held_out": len(ids), "artists": len(set(held_out.artists)), "encoders": compared},
    )
    write_report(workspace, report)
    return report


def _encoder(workspace: Workspace, version: str) -> DualEncoder:
    try:
        return load_encoder(objects.join(workspace.encoders, version))
    except BundleNotFound as error:
        known = ", ".join(objects.name(bundle.uri) for bundle in list_bundles(workspace.encoders)) or "none"
        raise BundleNotFound(f"no encoder '{version}' in '{workspace.uri}'; it has {known}") from error


def _with_inputs_of(encoder: DualEncoder, settings: Settings) -> Settings:
    return settings.model_copy(update={"audio": encoder.audio, "cover": encoder.cover})


def _measured(settings: Settings, workspace: Workspace, held_out: HeldOut) -> list[Measure]:
    ceiling = ceiling_of(workspace, held_out)
    baselines = {} if ceiling is None else {"ceiling": ceiling}
    similarity = np.asarray(held_out.songs @ held_out.covers.T)
    return measure_retrieval(
        similarity, held_out.genres, held_out.artists, baselines=baselines, seed=settings.evaluation.seed
    )
