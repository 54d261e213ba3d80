"""Versions are a digest of what goes in: the same in, the same version; anything else, another."""

from pathlib import Path

import pyarrow as pa
import pytest

from gatefold.config import Settings, load
from gatefold.errors import BundleNotFound, InvalidSettings, StageMissing
from gatefold.records import TRACKS
from gatefold.storage import bundles, objects, tables
from gatefold.storage.contents import catalogues, releases
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.workspace import Workspace
from pipelines.versions import versions_of
from tests.checkpoints import write_checkpoint

SETTINGS = Settings()
KEPT = load(overrides=["train.reuse_models=true"])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(objects.resolve(str(tmp_path)))
    set_catalogue(made, "c1")
    return made


def set_catalogue(workspace: Workspace, fingerprint: str) -> None:
    catalogues.replace(workspace, Catalogue(fingerprint, 0, "file:///m.csv"), TRACKS.empty_table(), 100)


def activate_models(workspace: Workspace) -> None:
    """A release of a catalogue that is no more; its encoder has the audio and cover settings of SETTINGS."""
    lineage = {"audio": SETTINGS.audio.fingerprint(), "cover": SETTINGS.cover.fingerprint()}
    uri = f"{workspace.encoders}/e1"
    bundles.publish(uri, {"a": b"1"}, kind="encoder", version="e1", lineage=lineage, details={})
    encoder, index, generator = (ReleasePart(uri=name, version=name, fingerprint=name) for name in ("e1", "i1", "g1"))
    at = "2026-11-23T00:00:00+00:00"
    release = Release(version="r1", created_at=at, encoder=encoder, index=index, generator=generator)
    releases.publish(workspace, release)
    releases.activate(workspace, "r1")


def test_the_same_catalogue_and_settings_have_the_same_versions(workspace: Workspace) -> None:
    assert versions_of(SETTINGS, workspace) == versions_of(Settings(), workspace)


def test_a_setting_changes_the_versions_behind_it_and_none_before(workspace: Workspace) -> None:
    before, after = (versions_of(s, workspace) for s in (SETTINGS, load(overrides=["originality.max_share=0.7"])))
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


def test_kept_models_are_those_of_the_active_release_whatever_becomes_of_the_catalogue(workspace: Workspace) -> None:
    activate_models(workspace)
    before = versions_of(KEPT, workspace)
    set_catalogue(workspace, "c2")
    after = versions_of(KEPT, workspace)
    assert (before.encoder, before.generator) == (after.encoder, after.generator) == ("e1", "g1")
    assert before.index != after.index
    assert before.release != after.release
    assert versions_of(SETTINGS, workspace).encoder != "e1"


def test_models_of_other_audio_or_cover_settings_are_not_kept(workspace: Workspace) -> None:
    activate_models(workspace)
    for override in ("audio.n_mels=64", "cover.size=32"):
        section = override.partition(".")[0]
        with pytest.raises(InvalidSettings, match=f"reuse_models: encoder 'e1' was trained .* settings of '{section}'"):
            versions_of(load(overrides=["train.reuse_models=true", override]), workspace)


def test_models_that_nobody_made_are_not_kept(workspace: Workspace) -> None:
    with pytest.raises(BundleNotFound, match="no active release; `gatefold run SOURCE` makes one"):
        versions_of(KEPT, workspace)


def test_without_a_catalogue_the_verb_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="gatefold catalogue SOURCE"):
        versions_of(SETTINGS, Workspace(objects.resolve(str(tmp_path))))
