"""Checkpoints in a folder: found, distinguished by what is in them, checked before much is done for them."""

from pathlib import Path

import pytest

from gatefold.config import AudioSettings
from gatefold.errors import InvalidSettings
from gatefold.storage.models.pretrained_towers import by_content, check_song_backbone
from tests.checkpoints import write_checkpoint
from tests.factories import ENCODER
from tests.sounds import AUDIO


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "clap", "clap")


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def fingerprint(folder: Path | str) -> str:
    return by_content(ENCODER.model_copy(update={"song_backbone": str(folder)})).fingerprint()


def test_a_backbone_is_known_by_its_content_wherever_it_lies(clap: Path, tmp_path: Path) -> None:
    assert by_content(ENCODER) == ENCODER
    assert fingerprint(clap) == fingerprint(clap.as_uri()) == fingerprint(copied(clap, tmp_path / "elsewhere"))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_change_to_any_of_its_files_makes_it_another(clap: Path, tmp_path: Path, file: str) -> None:
    before = fingerprint(clap)
    folder = copied(clap, tmp_path / "changed")
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert fingerprint(folder) != before
    (folder / file).write_bytes(data)
    (folder / "README.md").write_text("how it was trained")
    assert fingerprint(folder) == before


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=f"there is no checkpoint of a backbone at '{tmp_path}'"):
        fingerprint(tmp_path)


def test_audio_settings_are_checked_without_reading_weights(clap: Path, tmp_path: Path) -> None:
    folder = copied(clap, tmp_path / "light")
    (folder / "model.safetensors").unlink()
    settings = ENCODER.model_copy(update={"song_backbone": str(folder)})
    check_song_backbone(settings, AUDIO)
    check_song_backbone(ENCODER, AudioSettings())
    with pytest.raises(InvalidSettings, match=r"--set audio.sample_rate=8000"):
        check_song_backbone(settings, AudioSettings())
