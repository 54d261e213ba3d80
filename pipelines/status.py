"""Status of a workspace: for every stage what is done, rejected, its version, and whether it is stale.

It reads what the stages left behind and starts nothing; Ray is not needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from gatefold.config import Settings
from gatefold.errors import BundleNotFound
from gatefold.storage import leases, objects
from gatefold.storage.bundles import list_bundles, open_bundle
from gatefold.storage.contents import catalogues, optouts, releases
from gatefold.workspace import Workspace
from pipelines.extraction.compaction import present
from pipelines.extraction.rejects import read_rejects
from pipelines.extraction.stages import (
    Stage,
    cover_stage,
    cover_tracks,
    embedding_stage,
    embedding_tracks,
    spectrogram_stage,
    spectrogram_tracks,
)
from pipelines.report import read_report
from pipelines.versions import Versions, evaluation_of, versions_of

StageState = Literal["fresh", "running", "partly", "stale", "missing"]
"""fresh: nothing to do; running: a process is at it; partly: songs are left; stale: made of another catalogue or other
settings; missing: never"""


@dataclass(frozen=True)
class StageStatus:
    """Of one stage; `total` is None where its inputs cannot be known yet, `version` where it makes none.

    `curve` is the loss of a training from its beginning to its end; empty where none was finished.
    """

    stage: str
    state: StageState
    done: int
    total: int | None
    rejected: int
    version: str | None
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Status:
    """Of a workspace; `release` is the one that serves."""

    workspace: str
    source: str | None
    release: str | None
    stages: list[StageStatus]


def status_of(settings: Settings, workspace: Workspace) -> Status:
    """How far these settings are with the workspace's present catalogue."""
    catalogue = catalogues.current(workspace)
    try:
        release = releases.current(workspace).version
    except BundleNotFound:
        release = None
    if catalogue is None:
        nothing = StageStatus("catalogue", "missing", 0, None, 0, None)
        return Status(workspace.uri, None, release, [_or_running(workspace, nothing)])
    versions = versions_of(settings, workspace, optouts.digests(workspace))
    refused = len(read_rejects(workspace, "catalogue"))
    songs, covers = spectrogram_stage(settings, workspace), cover_stage(settings, workspace)
    embedded = embedding_stage(settings, workspace, versions.encoder)
    stages = [
        StageStatus("catalogue", "fresh", catalogue.rows, catalogue.rows, refused, catalogue.fingerprint),
        _rows(songs, partial(spectrogram_tracks, workspace), settings.audio.fingerprint()),
        _rows(covers, partial(cover_tracks, workspace), settings.stored_cover.fingerprint()),
        _bundle("train-encoder", "encoder", workspace.encoders, versions.encoder),
        _rows(embedded, partial(embedding_tracks, settings, workspace), versions.encoder),
        _bundle("index", "index", workspace.indexes, versions.index),
        _bundle("train-generator", "generator", workspace.generators, versions.generator),
        _evaluation(settings, workspace, versions),
        _release(release, versions),
    ]
    return Status(workspace.uri, catalogue.source, release, [_or_running(workspace, stage) for stage in stages])


def _or_running(workspace: Workspace, status: StageStatus) -> StageStatus:
    """The same; of a stage that is not fresh, whether a process is at it."""
    kind = status.stage.removeprefix("train-")
    trains = kind != status.stage and status.version is not None
    folder = workspace.bundle_lease(kind, str(status.version)) if trains else workspace.lease(status.stage)
    if status.state == "fresh" or not leases.is_held(folder):
        return status
    return replace(status, state="running")


def _rows(stage: Stage, read_tracks: Callable[[], pa.Table], version: str) -> StageStatus:
    if finished := stage.finished():
        rejected = sum(finished.rejected.values())
        return StageStatus(stage.name, "fresh", finished.songs - rejected, finished.songs, rejected, version)
    tracks = read_tracks()
    made, refused = (present(folder, tracks) for folder in (stage.target, stage.rejects))
    done, rejected = int(made.sum()), int((refused & ~made).sum())
    if 0 < tracks.num_rows <= done + rejected:
        state: StageState = "fresh"
    elif done:
        state = "partly"
    else:
        state = "missing" if read_report(stage.workspace, stage.name) is None else "stale"
    return StageStatus(stage.name, state, done, tracks.num_rows, rejected, version)


def _bundle(stage: str, kind: str, folder: str, version: str) -> StageStatus:
    try:
        details: Any = open_bundle(objects.join(folder, version), kind).details
    except BundleNotFound:
        return StageStatus(stage, "stale" if list_bundles(folder) else "missing", 0, 1, 0, version)
    return StageStatus(stage, "fresh", 1, 1, 0, version, tuple(loss for _, loss in details.get("curve", ())))


def _evaluation(settings: Settings, workspace: Workspace, versions: Versions) -> StageStatus:
    report = read_report(workspace, "evaluate")
    input_fingerprint = evaluation_of(settings, versions)
    fresh = report is not None and report.details.get("input_fingerprint") == input_fingerprint
    state: StageState = "fresh" if fresh else "missing" if report is None else "stale"
    return StageStatus("evaluate", state, int(fresh), 1, 0, versions.release)


def _release(current: str | None, versions: Versions) -> StageStatus:
    fresh = current == versions.release
    return StageStatus(
        "release", "fresh" if fresh else "missing" if current is None else "stale", int(fresh), 1, 0, versions.release
    )
