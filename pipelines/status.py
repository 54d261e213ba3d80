"""How far a workspace is: for every stage what is done, what was rejected, which version it has, whether it is stale.

It reads what the stages left behind and starts nothing; Ray is not needed.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.config import Settings
from gatefold.errors import BundleNotFound
from gatefold.storage import catalogues, objects, releases, tables
from gatefold.storage.bundles import list_bundles, open_bundle
from gatefold.storage.catalogues import read_tracks
from gatefold.workspace import Workspace
from pipelines.quarantine import read_rejects
from pipelines.report import read_report
from pipelines.versions import Versions, versions_of

State = Literal["fresh", "partly", "stale", "missing"]
"""fresh: nothing to do; partly: songs are left; stale: made of another catalogue or other settings; missing: never"""


@dataclass(frozen=True)
class StageStatus:
    """Of one stage; `total` is None where its inputs cannot be known yet, `version` where it makes none."""

    stage: str
    state: State
    done: int
    total: int | None
    rejected: int
    version: str | None


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
        return Status(workspace.uri, None, release, [StageStatus("catalogue", "missing", 0, None, 0, None)])
    versions = versions_of(settings, workspace)
    tracks = read_tracks(workspace, ["song_id", "cover_uri"])
    heard = _ids(workspace.spectrograms(settings.audio))
    seen = _ids(workspace.covers(settings.cover))
    usable = pa.concat_arrays([heard, seen]).unique()
    covered = tracks.filter(pc.is_valid(tracks["cover_uri"]))["song_id"]
    songs = tracks["song_id"]
    refused = len(read_rejects(workspace, "catalogue"))
    embedded = _ids(workspace.embeddings(versions.encoder))
    stages = [
        StageStatus("catalogue", "fresh", catalogue.rows, catalogue.rows, refused, catalogue.fingerprint),
        _rows(workspace, "spectrograms", heard, songs, settings.audio.fingerprint()),
        _rows(workspace, "covers", seen, covered, settings.cover.fingerprint()),
        _bundle("train-encoder", "encoder", workspace.encoders, versions.encoder),
        _rows(workspace, "embed", embedded, songs.filter(pc.is_in(songs, value_set=usable)), versions.encoder),
        _bundle("index", "index", workspace.indexes, versions.index),
        _bundle("train-generator", "generator", workspace.generators, versions.generator),
        _evaluation(settings, workspace, versions),
        _release(release, versions),
    ]
    return Status(workspace.uri, catalogue.source, release, stages)


def _ids(folder: str) -> pa.Array:
    if not tables.has_parts(folder):
        return pa.array([], pa.string())
    return tables.read_table(folder, ["song_id"])["song_id"].unique()


def _rows(workspace: Workspace, stage: str, made: pa.Array, songs: pa.ChunkedArray, version: str) -> StageStatus:
    rejects = read_rejects(workspace, stage)["song_id"].unique()
    done, rejected = (pc.sum(pc.is_in(songs, value_set=ids)).as_py() or 0 for ids in (made, rejects))
    if done + rejected >= len(songs):
        state: State = "fresh"
    elif done:
        state = "partly"
    else:
        state = "missing" if read_report(workspace, stage) is None else "stale"
    return StageStatus(stage, state, done, len(songs), rejected, version)


def _bundle(stage: str, kind: str, folder: str, version: str) -> StageStatus:
    try:
        open_bundle(objects.join(folder, version), kind)
    except BundleNotFound:
        return StageStatus(stage, "stale" if list_bundles(folder) else "missing", 0, 1, 0, version)
    return StageStatus(stage, "fresh", 1, 1, 0, version)


def _evaluation(settings: Settings, workspace: Workspace, versions: Versions) -> StageStatus:
    report = read_report(workspace, "evaluate")
    made_of = {"release": versions.release, "settings": settings.evaluation.fingerprint()}
    fresh = report is not None and report.details.get("made_of") == made_of
    state: State = "fresh" if fresh else "missing" if report is None else "stale"
    return StageStatus("evaluate", state, int(fresh), 1, 0, versions.release)


def _release(current: str | None, versions: Versions) -> StageStatus:
    fresh = current == versions.release
    return StageStatus(
        "release", "fresh" if fresh else "missing" if current is None else "stale", int(fresh), 1, 0, versions.release
    )
