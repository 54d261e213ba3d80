"""Which tracks a stage is for, of what their rows are made, and when all of them are done."""

from pathlib import Path

import pyarrow as pa
import pytest

from gatefold.config import Settings
from gatefold.errors import SchemaMismatch, StageMissing
from gatefold.records import TRACKS
from gatefold.storage import objects, tables
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.workspace import Workspace
from pipelines.extraction.compaction import Part
from pipelines.extraction.stages import (
    StageOutcome,
    cover_tracks,
    embedding_stage,
    embedding_tracks,
    forget,
    spectrogram_stage,
    spectrogram_tracks,
)

SETTINGS = Settings()
OUTCOME = StageOutcome(3, {"silent_audio": 1})


def catalogue(workspace: Workspace, fingerprint: str = "c1", **etags: str | None) -> None:
    """Three songs, the first two with covers; audio etags as given, cover etags `p`."""
    rows = [
        {
            "song_id": song_id,
            "audio_uri": f"file:///{song_id}.wav",
            "cover_uri": None if song_id == "c" else f"file:///{song_id}.png",
            "split": "train",
            "audio_etag": etags.get(song_id, "1"),
            "cover_etag": None if song_id == "c" else "p",
        }
        for song_id in "abc"
    ]
    catalogues.replace(workspace, Catalogue(fingerprint, 3, "file:///m.csv"), pa.Table.from_pylist(rows, TRACKS), 100)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(objects.resolve(str(tmp_path)))
    catalogue(made)
    return made


def etags(tracks: pa.Table) -> dict[str, str]:
    return dict(zip(tracks["song_id"].to_pylist(), tracks["etag"].to_pylist(), strict=True))


def write(folder: str, **rows: str) -> None:
    part = {"song_id": list(rows), "etag": list(rows.values())}
    tables.write_part(folder, "-".join(["p", *rows, *rows.values()]), pa.table(part))


def test_a_track_is_made_of_what_the_catalogue_saw_and_of_an_empty_etag_where_it_saw_none(workspace: Workspace) -> None:
    catalogue(workspace, a=None)
    assert etags(spectrogram_tracks(workspace)) == {"a": "", "b": "1", "c": "1"}
    assert etags(cover_tracks(workspace)) == {"a": "p", "b": "p"}


def test_a_catalogue_without_etags_is_refused(workspace: Workspace) -> None:
    tracks = catalogues.read_tracks(workspace).drop_columns(["audio_etag", "cover_etag"])
    catalogues.replace(workspace, Catalogue("old", 3, "file:///m.csv"), tracks, 100)
    with pytest.raises(SchemaMismatch, match=r"no part of .* has .*etag"):
        spectrogram_tracks(workspace)


def test_an_embedding_is_made_of_the_sides_that_are_there_in_their_present_state(workspace: Workspace) -> None:
    assert embedding_tracks(SETTINGS, workspace).num_rows == 0
    write(workspace.spectrograms(SETTINGS.audio), a="1", b="an older file", c="1")
    write(workspace.covers(SETTINGS.stored_cover), b="p")
    tracks = embedding_tracks(SETTINGS, workspace)
    assert etags(tracks) == {"a": "1|-", "b": "-|p", "c": "1|-"}
    assert (tracks["has_song"].to_pylist(), tracks["has_cover"].to_pylist()) == (
        [True, False, True],
        [False, True, False],
    )
    write(workspace.covers(SETTINGS.stored_cover), a="p")
    assert etags(embedding_tracks(SETTINGS, workspace))["a"] == "1|p"


def test_a_stage_is_finished_until_the_catalogue_changes(workspace: Workspace) -> None:
    stage = spectrogram_stage(SETTINGS, workspace)
    assert stage.finished() is None
    stage.finish(stage.begin(), OUTCOME, {})
    assert spectrogram_stage(SETTINGS, workspace).finished() == OUTCOME
    catalogue(workspace, "c2")
    assert spectrogram_stage(SETTINGS, workspace).finished() is None


def test_a_stage_that_begins_or_is_made_to_forget_is_not_finished(workspace: Workspace) -> None:
    stage = spectrogram_stage(SETTINGS, workspace)
    for unfinish in (lambda: forget(workspace, "spectrograms"), stage.begin):
        stage.finish(stage.begin(), OUTCOME, {})
        assert stage.finished() == OUTCOME
        unfinish()
        assert stage.finished() is None


def test_readers_find_the_parts_by_their_record_until_the_stage_begins_again(workspace: Workspace) -> None:
    stage = spectrogram_stage(SETTINGS, workspace)
    stage.finish(stage.begin(), OUTCOME, {"p1": Part(2, "a", "b"), "p2": Part(1, "c", "c")})
    assert tables.recorded(stage.target) == {"p1": ("a", "b"), "p2": ("c", "c")}
    stage.begin()
    assert tables.recorded(stage.target) is None


def test_the_embeddings_are_finished_until_a_part_is_added_on_either_side(workspace: Workspace) -> None:
    input_fingerprint = [embedding_stage(SETTINGS, workspace, "e").input_fingerprint]
    write(workspace.spectrograms(SETTINGS.audio), a="1")
    input_fingerprint.append(embedding_stage(SETTINGS, workspace, "e").input_fingerprint)
    write(workspace.covers(SETTINGS.stored_cover), a="p")
    input_fingerprint.append(embedding_stage(SETTINGS, workspace, "e").input_fingerprint)
    assert len(set(input_fingerprint)) == 3
    assert embedding_stage(SETTINGS, workspace, "e").input_fingerprint == input_fingerprint[-1]


def test_without_a_catalogue_the_verb_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="gatefold catalogue SOURCE"):
        spectrogram_stage(SETTINGS, Workspace(objects.resolve(str(tmp_path / "none"))))
