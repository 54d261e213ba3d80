"""A stage over the catalogue: where its rows and rejects go, which tracks it is for, whether it is finished.

Each track comes with an `etag`: what its row will be made of. A stage that ended well leaves a note of what it was made
of, so that the next run need not look at a single part to know that there is nothing to do.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.config import Settings
from gatefold.errors import ObjectNotFound
from gatefold.storage import objects, tables
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.workspace import Workspace
from pipelines.extraction.compaction import Part, present

SPECTROGRAMS, COVERS, EMBED = "spectrograms", "covers", "embed"
_NOTE, _RUN = "_finished.json", "_run.json"
"""names that readers of Parquet folders pass over"""
_ABSENT = "-"
"""in the place of an etag, for a side that has no row"""


@dataclass(frozen=True)
class StageOutcome:
    """Of a stage over the whole catalogue: its songs, and by code those that were rejected."""

    songs: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class Stage:
    """Where a stage's rows and rejects go; `input_fingerprint` changes whenever there may be something to do."""

    name: str
    target: str
    workspace: Workspace
    input_fingerprint: str

    @property
    def rejects(self) -> str:
        """URI of the table of this stage's rejects."""
        return self.workspace.rejects(self.name)

    @property
    def lease(self) -> str:
        """One for all targets of a stage, because they share its rejects."""
        return self.workspace.lease(self.name)

    def finished(self) -> StageOutcome | None:
        """What came out, when nothing has changed since all was done; else None."""
        note, run = _read(objects.join(self.target, _NOTE)), _read(_run_uri(self.workspace, self.name))
        if (
            note is None
            or run is None
            or (note["run"], note["input_fingerprint"]) != (run["run"], self.input_fingerprint)
        ):
            return None
        return StageOutcome(note["songs"], note["rejected"])

    def begin(self) -> str:
        """A name for this run of the stage; from here on no note but that of this run counts, of whatever target."""
        run = uuid.uuid4().hex
        tables.invalidate(self.target)
        objects.put(_run_uri(self.workspace, self.name), json.dumps({"run": run}).encode())
        return run

    def finish(self, run: str, outcome: StageOutcome, parts: Mapping[str, Part]) -> None:
        """Notes that all is done, and which parts of rows there are, by name."""
        tables.record(self.target, {name: (part.first, part.last) for name, part in parts.items()})
        note = {
            "run": run,
            "input_fingerprint": self.input_fingerprint,
            "songs": outcome.songs,
            "rejected": outcome.rejected,
        }
        objects.put(objects.join(self.target, _NOTE), json.dumps(note).encode())


def forget(workspace: Workspace, stage: str) -> None:
    """Lets a stage look at everything again when it runs next."""
    objects.delete(_run_uri(workspace, stage))


def spectrogram_stage(settings: Settings, workspace: Workspace) -> Stage:
    """The stage that makes log-mel windows of songs. Raises: StageMissing when there is no catalogue yet."""
    return Stage(SPECTROGRAMS, workspace.spectrograms(settings.audio), workspace, _fingerprint(workspace))


def spectrogram_tracks(workspace: Workspace) -> pa.Table:
    """song_id, audio_uri and etag of every track."""
    return _tracks(workspace, ["song_id", "audio_uri"], {"audio_etag": "etag"})


def cover_stage(settings: Settings, workspace: Workspace) -> Stage:
    """The stage that makes pixels of covers. Raises: StageMissing when there is no catalogue yet."""
    return Stage(COVERS, workspace.covers(settings.stored_cover), workspace, _fingerprint(workspace))


def cover_tracks(workspace: Workspace) -> pa.Table:
    """song_id, cover_uri and etag of every track that has a cover."""
    tracks = _tracks(workspace, ["song_id", "cover_uri"], {"cover_etag": "etag"})
    return tracks.filter(pc.is_valid(tracks["cover_uri"]))


def embedding_stage(settings: Settings, workspace: Workspace, encoder: str) -> Stage:
    """The stage that embeds songs and covers.

    Args:
        encoder: version of its bundle.

    Raises: StageMissing when there is no catalogue yet.
    """
    digest = hashlib.sha256(_fingerprint(workspace).encode())
    for folder in (workspace.spectrograms(settings.audio), workspace.covers(settings.stored_cover)):
        digest.update("\n".join(["", *tables.parts(folder)]).encode())
    return Stage(EMBED, workspace.embeddings(encoder), workspace, digest.hexdigest()[:16])


def embedding_tracks(settings: Settings, workspace: Workspace) -> pa.Table:
    """song_id, has_song, has_cover and etag of every track with a spectrogram or pixels of its present files."""
    tracks = _tracks(workspace, ["song_id"], {"audio_etag": "audio", "cover_etag": "cover"})
    sides = {"audio": workspace.spectrograms(settings.audio), "cover": workspace.covers(settings.stored_cover)}
    there = {side: pa.array(present(folder, tracks.rename_columns({side: "etag"}))) for side, folder in sides.items()}
    etags = [pc.if_else(there[side], tracks[side], _ABSENT) for side in sides]
    joined = pc.binary_join_element_wise(*etags, "|")
    columns = {"song_id": tracks["song_id"], "has_song": there["audio"], "has_cover": there["cover"], "etag": joined}
    return pa.table(columns).filter(pc.or_(there["audio"], there["cover"]))


def _tracks(workspace: Workspace, columns: list[str], etags: dict[str, str]) -> pa.Table:
    """Columns of the catalogue, then etags under other names; an etag that is not known is empty."""
    tracks = read_tracks(workspace, [*columns, *etags])
    for name in etags:
        filled = pc.fill_null(tracks[name].cast(pa.string()), "")
        tracks = tracks.set_column(tracks.column_names.index(name), name, filled)
    return tracks.rename_columns([*columns, *etags.values()])


def _fingerprint(workspace: Workspace) -> str:
    return catalogues.required(workspace).fingerprint


def _run_uri(workspace: Workspace, stage: str) -> str:
    return objects.join(workspace.rejects(stage), _RUN)


def _read(uri: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(objects.read(uri))
    except (ObjectNotFound, ValueError):  # a note that cannot be read is none
        return None
    return found
