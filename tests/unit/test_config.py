"""Settings: defaults, then a file, then `--set`; and the messages for a wrong one."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from gatefold.config import AudioSettings, CoverSettings, Section, Settings, load
from gatefold.errors import InvalidSettings
from gatefold.renamed_settings import RENAMED


def sections(section: type[BaseModel] = Settings) -> list[type[BaseModel]]:
    """A section and all that lie inside it."""
    inner = [field.annotation for field in section.model_fields.values()]
    inside = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [section, *(deeper for kind in inside for deeper in sections(kind))]


def written(folder: Path, text: str) -> Path:
    path = folder / "gatefold.yaml"
    path.write_text(text)
    return path


def test_without_a_file_everything_has_its_default() -> None:
    assert load() == Settings()


def test_an_override_wins_over_the_file_which_wins_over_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, "audio: {n_mels: 64, windows: 5}\nworkspace: s3://bucket/music\n")
    settings = load(path, ["audio.n_mels=96"])
    assert (settings.audio.n_mels, settings.audio.windows, settings.audio.n_fft) == (96, 5, 1024)
    assert settings.workspace == "s3://bucket/music"


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# all as it comes\n")) == Settings()


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_override_values_are_read_as_yaml(text: str, value: bool) -> None:
    assert load(overrides=[f"train.use_gpu={text}"]).train.use_gpu is value


def test_an_override_may_hold_equal_signs_and_null() -> None:
    settings = load(overrides=["workspace=s3://bucket/a=b", "endpoint_url=null"])
    assert (settings.workspace, settings.endpoint_url) == ("s3://bucket/a=b", None)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("audio.n_mels=4", "audio.n_mels = 4: .*greater than or equal to 8"),
        ("audio.n_mells=80", "audio.n_mells = 80: there is no such setting; is audio.n_mels meant"),
        ("audio.f_max=9000", "f_max 9000.0 Hz lies above half the sample rate"),
        ("audio.f_min=8000", "f_min 8000.0 Hz must lie below f_max 8000.0 Hz"),
        ("audio.win_length=2048", "win_length 2048 must not exceed n_fft"),
        ("audio.hop_length=1100", "hop_length 1100 must not exceed win_length"),
        ("audio.window_s=0.05", "n_fft 1024 must not exceed window_length 800"),
        ("audio.max_duration_s=.inf", "audio.max_duration_s = inf: .*finite"),
        ("generator.transformer.heads=7", r"hidden \d+ must be a multiple of 4 and of heads, 7"),
        ("generator.transformer.hidden=34", "hidden 34 must be a multiple of 4"),
        ("split.test=0.95", "validation 0.1 and test 0.95 leave no artist to train on"),
        ("cover.size=61", r"cover.size 61 is no multiple of generator.transformer.patch_size \d"),
        ("encoder.loss=hinge", "encoder.loss = 'hinge': .*'infonce', 'triplet' or 'sigmoid'"),
        ("audio.n_mels", "'audio.n_mels' must read KEY=VALUE"),
        ("=3", "'=3' must read KEY=VALUE"),
        ("workspace.uri=x", "workspace = {'uri': 'x'}"),
        ("audio=3", "audio = 3"),
        ("audio.n_mels=[", r"'audio.n_mels=\['"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(override: str, words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        load(overrides=[override])


@pytest.mark.parametrize("text", ["audio: [", "- a list", "just words", "\x00", "audio: {n_mels: many}"])
def test_a_file_that_holds_no_settings_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidSettings):
        load(written(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gatefold.yaml"
    path.write_bytes(b"\xff\xfe\xfa audio")
    with pytest.raises(InvalidSettings, match=r"gatefold\.yaml"):
        load(path)


def test_a_file_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidSettings, match=r"n_mels.*;.*cover\.size"):
        load(overrides=["audio.n_mels=4", "cover.size=4"])


@pytest.mark.parametrize("section", sections())
def test_every_section_is_frozen_and_forbids_unknown_fields(section: type[BaseModel]) -> None:
    assert issubclass(section, Section)
    assert (section.model_config["frozen"], section.model_config["extra"]) == (True, "forbid")


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().audio.n_mels = 3  # type: ignore[misc]


def test_settings_travel_as_plain_values_and_come_back_equal() -> None:
    settings = load(overrides=["audio.n_mels=96", "train.use_gpu=true"])
    plain: dict[str, Any] = settings.model_dump()
    assert Settings.model_validate(plain) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_a_fingerprint_changes_with_any_setting_and_with_nothing_else() -> None:
    assert AudioSettings().fingerprint() == AudioSettings(n_mels=80).fingerprint()
    prints = {AudioSettings().fingerprint(), AudioSettings(n_mels=81).fingerprint(), CoverSettings().fingerprint()}
    assert len(prints) == 3
    assert all(len(one) == 12 and int(one, 16) >= 0 for one in prints)


def test_a_window_is_a_whole_number_of_samples_and_columns() -> None:
    audio = AudioSettings(sample_rate=16_000, hop_length=320, window_s=5.12)
    assert (audio.window_length, audio.frames) == (81_920, 256)


def test_a_backbone_has_a_place_that_every_worker_finds() -> None:
    for place in ("/models/clap", "file:///models/clap", "s3://bucket/clap"):
        assert load(overrides=[f"encoder.song_backbone={place}"]).encoder.song_backbone == place
    for place in ("models/clap", "laion/clap-htsat-unfused", "https://example.org/clap"):
        with pytest.raises(InvalidSettings, match=r"encoder.song_backbone = .* match pattern"):
            load(overrides=[f"encoder.song_backbone={place}"])


@pytest.mark.parametrize("name", ["steps", "neighbours", "guidance_scale"])
def test_a_setting_that_has_moved_says_where_it_stands_now(name: str, tmp_path: Path) -> None:
    said = f"generator.{name} is generator.transformer.{name} now"
    with pytest.raises(InvalidSettings, match=said):
        load(overrides=[f"generator.{name}=4"])
    (tmp_path / "old.yaml").write_text(f"generator:\n  {name}: 4\n")
    with pytest.raises(InvalidSettings, match=said):
        load(tmp_path / "old.yaml")


@pytest.mark.parametrize(("old", "new"), [pair for pair in RENAMED.items() if not pair[0].startswith("user_config.")])
def test_an_old_name_of_a_setting_is_answered_with_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    section, name = old.split(".")
    (tmp_path / "old.yaml").write_text(f"{section}:\n  {name}: 4\n")
    with pytest.raises(InvalidSettings, match=f"{old} is {new} now"):
        load(tmp_path / "old.yaml")
    with pytest.raises(InvalidSettings, match=f"{old} is {new} now"):
        load(overrides=[f"{old}=4"])
    settings: Any = Settings()
    for part in new.split("."):
        assert part in type(settings).model_fields, new
        settings = getattr(settings, part)


def test_covers_are_stored_as_large_as_encoder_or_generator_needs_them() -> None:
    assert load().stored_cover.size == 256
    assert load(overrides=["cover.size=128", "generator.size=64"]).stored_cover.size == 128


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("encoder.epoch=3", "encoder.epoch = 3: there is no such setting; is encoder.epochs meant?"),
        ("encodr.epochs=3", "encodr = {'epochs': 3}: there is no such setting; is encoder meant?"),
        ("generator.local_score.num_source=9", "is generator.local_score.num_sources meant?"),
        ("train.xyz=1", "train.xyz = 1: there is no such setting; there are reuse_models, num_workers"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_one_that_may_be_meant(override: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(said)):
        load(None, [override])
