"""Versions are a digest of what goes in: the same in, the same version; anything else, another."""

from pathlib import Path

import pyarrow as pa
import pytest

from gatefold.config import Settings, load
from gatefold.errors import StageMissing
from gatefold.records import TRACKS
from gatefold.storage import catalogues, objects, tables
from gatefold.storage.catalogues import Catalogue
from gatefold.workspace import Workspace
from pipelines.versions import versions_of
from tests.checkpoints import write_checkpoint

SETTINGS = Settings()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(objects.resolve(str(tmp_path)))
    catalogues.replace(made, Catalogue("c1", 0, "file:///m.csv"), TRACKS.empty_table(), 100)
    return made


def test_the_same_catalogue_and_settings_have_the_same_versions(workspace: Workspace) -> None:
    assert versions_of(SETTINGS, workspace) == versions_of(Settings(), workspace)


def test_a_setting_changes_the_versions_behind_it_and_none_before(workspace: Workspace) -> None:
    before, after = (versions_of(s, workspace) for s in (SETTINGS, load(overrides=["generator.steps=7"])))
    assert (before.encoder, before.index) == (after.encoder, after.index)
    assert before.generator != after.generator
    assert before.release != after.release


def test_a_backbone_makes_another_encoder_when_its_files_change_and_not_when_they_move(
    workspace: Workspace, tmp_path: Path
) -> None:
    def encoder(folder: Path) -> str:
        return versions_of(load(overrides=[f"encoder.cover_backbone={folder}"]), workspace).encoder

    first = write_checkpoint(tmp_path / "first", "dinov2")
    moved = write_checkpoint(tmp_path / "moved", "dinov2")
    before = encoder(first)
    assert before == encoder(moved) != versions_of(SETTINGS, workspace).encoder
    write_checkpoint(moved, "dinov2", seed=1)
    assert encoder(moved) != before


def test_a_song_embedded_later_makes_another_index(workspace: Workspace) -> None:
    before = versions_of(SETTINGS, workspace)
    tables.write_part(workspace.embeddings(before.encoder), "retried", pa.table({"song_id": ["s1"]}))
    after = versions_of(SETTINGS, workspace)
    assert after.encoder == before.encoder
    assert after.index != before.index


def test_without_a_catalogue_the_verb_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="gatefold catalogue SOURCE"):
        versions_of(SETTINGS, Workspace(objects.resolve(str(tmp_path))))
