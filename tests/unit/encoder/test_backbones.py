"""Networks that others have trained, as towers: what they are given, what learns, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from gatefold.audio.decoding import decode_windows
from gatefold.audio.spectrograms import log_mel
from gatefold.config import AudioSettings
from gatefold.encoder.backbones import (
    Backbone,
    BackboneSetting,
    Checkpoint,
    ImagePreprocessor,
    build_cover_backbone,
    build_song_backbone,
    check_audio_settings,
    load_pretrained,
    read_checkpoint,
)
from gatefold.errors import InvalidSettings
from gatefold.images.pixels import to_model
from tests.checkpoints import BACKBONE_AUDIO, COVER_KINDS, SONG_KINDS, write_checkpoint
from tests.factories import COVER, ENCODER
from tests.sounds import AUDIO, MUSIC

KINDS = (*SONG_KINDS, *COVER_KINDS)
FINE_TUNED = ENCODER.model_copy(update={"freeze_backbones": False})
CLAP_AUDIO = AudioSettings(
    sample_rate=48_000, n_fft=1024, hop_length=480, n_mels=64, f_min=50, f_max=14_000, window_s=10, windows=1
)
"""Those of laion/clap-htsat-unfused."""
AST_AUDIO = AudioSettings(n_fft=512, win_length=400, hop_length=160, n_mels=128, f_min=20, window_s=10.24, windows=1)
"""Those of MIT/ast-finetuned-audioset-10-10-0.4593."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_checkpoint(root / kind, kind) for kind in KINDS}


def setting_of(kind: str) -> BackboneSetting:
    return "song_backbone" if kind in SONG_KINDS else "cover_backbone"


def tower(folders: dict[str, Path], kind: str, *, frozen: bool = True) -> Backbone:
    settings = ENCODER if frozen else FINE_TUNED
    torch.manual_seed(1)
    network = load_pretrained(folders[kind], setting_of(kind), kind)
    if kind in SONG_KINDS:
        return build_song_backbone(*network, settings, BACKBONE_AUDIO[kind])
    return build_cover_backbone(*network, settings, COVER)


def batch(kind: str, size: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    if kind in SONG_KINDS:
        return torch.randn(size, AUDIO.n_mels, AUDIO.frames, generator=draw) * 3 - 5
    return torch.rand(size, 3, COVER.size, COVER.size, generator=draw) * 2 - 1


def edited(folder: Path, target: Path, file: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a checkpoint, one of its JSON files changed."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    content = json.loads((target / file).read_text())
    change(content)
    (target / file).write_text(json.dumps(content))
    return target


# ---- the networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_features_that_are_the_same_alone_and_in_a_batch(folders: dict[str, Path], kind: str) -> None:
    backbone, given = tower(folders, kind).eval(), batch(kind)
    with torch.inference_mode():
        together, alone = backbone(given), torch.cat([backbone(one[None]) for one in given])
    assert together.shape == (3, ENCODER.embed_dim)
    assert torch.allclose(together, alone, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_changes_features_a_little(folders: dict[str, Path], kind: str) -> None:
    backbone, given = tower(folders, kind).eval(), batch(kind)
    with torch.no_grad():
        exact = backbone(given)
        with torch.autocast("cpu", torch.bfloat16):
            halved = backbone(given).float()
    assert torch.allclose(exact, halved, atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_the_checkpoint(folders: dict[str, Path], kind: str) -> None:
    saved = transformers.AutoModel.from_pretrained(folders[kind]).state_dict()
    found = tower(folders, kind).network.state_dict()
    assert len(found) > 5
    for name, value in found.items():
        assert any(name in other and torch.equal(value, saved[other]) for other in saved), name


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_frozen_backbone_only_the_projection_learns(folders: dict[str, Path], kind: str) -> None:
    backbone = tower(folders, kind).train()
    backbone(batch(kind)).sum().backward()
    learning = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert learning == {f"project.{name}" for name, _ in backbone.project.named_parameters()}
    assert all(parameter.grad is None for parameter in backbone.network.parameters())
    assert all(parameter.grad is not None for parameter in backbone.project.parameters())
    assert backbone.project.training
    assert not any(module.training for module in backbone.network.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_that_is_not_frozen_learns_with_every_weight(folders: dict[str, Path], kind: str) -> None:
    """One that never had a gradient would make the workers of a distributed run wait for it."""
    backbone = tower(folders, kind, frozen=False).train()
    backbone(batch(kind)).square().sum().backward()
    waiting = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    still = [name for name, p in backbone.network.named_parameters() if not p.requires_grad]
    assert waiting == []
    assert still == (["embeddings.mask_token"] if kind == "dinov2" else [])
    assert sum(float(p.grad.abs().sum()) for p in backbone.network.parameters() if p.grad is not None) > 0


def test_training_leaves_the_statistics_of_batch_norms_alone(folders: dict[str, Path]) -> None:
    backbone = tower(folders, "clap", frozen=False).train()
    before = backbone.network.get_buffer("audio_encoder.batch_norm.running_mean").clone()
    backbone(batch("clap"))
    assert torch.equal(backbone.network.get_buffer("audio_encoder.batch_norm.running_mean"), before)


# ---- what they are given --------------------------------------------------------------------------------------------


def test_our_log_mel_on_claps_scale_is_what_its_extractor_makes_of_a_real_clip(tmp_path: Path) -> None:
    decoded = decode_windows((MUSIC / "10_house_cc0_cover.m4a").read_bytes(), CLAP_AUDIO, name="clip")
    folder = write_checkpoint(tmp_path / "clap", "clap", audio=CLAP_AUDIO)
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    theirs = torch.from_numpy(extractor(decoded.waveform[0], sampling_rate=decoded.rate)["input_features"][0])
    network = load_pretrained(folder, "song_backbone", "clap")
    log_power = torch.from_numpy(log_mel(decoded.waveform, decoded.rate, CLAP_AUDIO)).float()
    ours = build_song_backbone(*network, ENCODER, CLAP_AUDIO).preprocess(log_power)[0]
    assert ours.shape == theirs.shape == (1, 1001, 64)
    error = (ours - theirs)[:, :-1].abs()  # of decibels; ours has no last frame
    audible = theirs[:, :-1] > -60
    assert audible.float().mean() > 0.5
    assert error[audible].max() < 0.05  # which 16 bits cannot hold
    assert np.corrcoef(ours.flatten(), theirs.flatten())[0, 1] > 0.99


def test_our_log_mel_on_kaldis_bands_is_near_to_what_asts_extractor_makes_of_a_real_clip(tmp_path: Path) -> None:
    kind = "audio-spectrogram-transformer"
    decoded = decode_windows((MUSIC / "15_synth_cc0.wav").read_bytes(), AST_AUDIO, name="clip")
    folder = write_checkpoint(tmp_path / "ast", kind, audio=AST_AUDIO)
    extractor = transformers.ASTFeatureExtractor.from_pretrained(folder)
    theirs = torch.from_numpy(extractor(decoded.waveform[0], sampling_rate=decoded.rate)["input_values"][0])
    network = load_pretrained(folder, "song_backbone", kind)
    log_power = torch.from_numpy(log_mel(decoded.waveform, decoded.rate, AST_AUDIO)).float()
    ours = build_song_backbone(*network, ENCODER, AST_AUDIO).preprocess(log_power)[0]
    assert ours.shape == theirs.shape == (1024, 128)
    frames = (decoded.waveform.shape[1] - 400) // 160
    rising = theirs[:frames].std(0) > 0.01  # a band of Kaldi's that no frequency falls into is always as silent
    bands = zip(*(side[:frames, rising].T for side in (ours, theirs)), strict=True)
    assert np.median([np.corrcoef(mine, other)[0, 1] for mine, other in bands]) > 0.99
    assert (ours - theirs)[:frames].abs().mean() < 0.05  # of the deviations that the network is used to
    assert torch.equal(ours[-2:], theirs[-2:])


@pytest.mark.parametrize(
    ("kind", "processor"),
    [
        ("clip", lambda: transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24)),
        ("clip", lambda: transformers.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64, resample=2)),
        ("dinov2", lambda: transformers.BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=32)),
        ("convnextv2", lambda: transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32})),
        ("convnextv2", lambda: transformers.ConvNextImageProcessorPil(size={"shortest_edge": 384})),
    ],
)
def test_a_cover_is_prepared_as_the_checkpoints_image_processor_does_it(
    kind: str, processor: Callable[[], Any], tmp_path: Path, folders: dict[str, Path]
) -> None:
    def replaced(inputs: dict[str, Any]) -> None:
        inputs.clear()
        inputs.update(json.loads(processor().to_json_string()))

    folder = edited(folders[kind], tmp_path / "edited", "preprocessor_config.json", replaced)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC)
    theirs = torch.tensor(np.array(processor()(picture)["pixel_values"]))
    preprocess = ImagePreprocessor(read_checkpoint(folder, "cover_backbone", kind))
    ours = preprocess(to_model(torch.tensor(np.array(picture)).permute(2, 0, 1))[None])
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 0.03  # the processor rounds to 256 levels twice, at worst


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_other_audio_settings_are_refused_with_each_and_how_to_set_it(folders: dict[str, Path]) -> None:
    checkpoint = read_checkpoint(folders["clap"], "song_backbone", "clap")
    needed: dict[str, float] = {"sample_rate": 8000, "n_fft": 256, "win_length": 256, "hop_length": 80, "n_mels": 16}
    needed |= {"f_min": 30, "f_max": 4000, "window_s": 0.64}
    with pytest.raises(InvalidSettings) as refusal:
        check_audio_settings(checkpoint, AudioSettings(f_min=50))
    for setting, value in needed.items():
        assert (
            f"audio.{setting} {getattr(AudioSettings(f_min=50), setting):g} should be {value:g}"
            in refusal.value.message
        )
        assert f"--set audio.{setting}={value:g}" in refusal.value.message
    with pytest.raises(InvalidSettings) as refusal:
        check_audio_settings(checkpoint, AUDIO.model_copy(update={"hop_length": 40}))
    assert refusal.value.message.endswith(": audio.hop_length 40 should be 80; --set audio.hop_length=80")


def test_the_spectrograms_of_ast_are_kaldis() -> None:
    inputs = json.loads(transformers.ASTFeatureExtractor().to_json_string())
    checkpoint = Checkpoint(network={"model_type": "audio-spectrogram-transformer"}, inputs=inputs)
    check_audio_settings(checkpoint, AST_AUDIO)
    with pytest.raises(InvalidSettings, match=r"audio.win_length 1024 should be 400.*--set audio.window_s=10.24"):
        check_audio_settings(checkpoint, AudioSettings())


def test_a_network_of_another_type_is_refused_with_those_that_are_allowed(folders: dict[str, Path]) -> None:
    with pytest.raises(InvalidSettings, match=r"encoder.song_backbone 'x' .* 'dinov2'; allowed: clap, .*transformer$"):
        read_checkpoint(folders["dinov2"], "song_backbone", "x")
    with pytest.raises(InvalidSettings, match=r"encoder.cover_backbone 'x' .* 'clap'; allowed: clip, .*, convnextv2$"):
        read_checkpoint(folders["clap"], "cover_backbone", "x")


def test_weights_that_are_not_safetensors_are_refused_unread(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(folders["clip"], tmp_path / "pickled", "config.json", lambda _: None)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidSettings, match=r"encoder.cover_backbone 'x' has no safetensors"):
        load_pretrained(folder, "cover_backbone", "x")


def test_a_checkpoint_that_lacks_weights_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def deeper(config: dict[str, Any]) -> None:
        config["num_hidden_layers"] = 2

    folder = edited(folders["dinov2"], tmp_path / "deeper", "config.json", deeper)
    with pytest.raises(InvalidSettings, match=r"lacks \d+ weights of a Dinov2Model, as 'encoder.layer.1"):
        load_pretrained(folder, "cover_backbone", "x")


def test_code_that_comes_with_a_checkpoint_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(folders["dinov2"], tmp_path / "code", "config.json", lambda config: config.update(
        auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    ))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_pretrained(folder, "cover_backbone", "x")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "file", "change", "reason"),
    [
        ("clap", "preprocessor_config.json", {"truncation": "fusion"}, "CLAP with fusion"),
        ("audio-spectrogram-transformer", "preprocessor_config.json", {"mean": None}, "no 'mean'; save it anew"),
        ("clip", "preprocessor_config.json", {"resample": 1}, r"resample 1; allowed: 2 \(bilinear\) and 3"),
        ("clip", "preprocessor_config.json", {"do_normalize": False}, "leaves out do_normalize"),
        ("clip", "preprocessor_config.json", {"crop_size": 64}, "resizes to 32 pixels a side and crops to 64"),
        ("clip", "preprocessor_config.json", {"size": 24, "crop_size": 24}, "does not take what its preprocessor"),
    ],
)
def test_what_a_checkpoint_asks_that_we_cannot_give_is_said(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, change: dict[str, Any], reason: str
) -> None:
    def changed(content: dict[str, Any]) -> None:
        for key, value in change.items():
            if value is None:
                del content[key]
            else:
                content[key] = value

    folder = edited(folders[kind], tmp_path / "edited", file, changed)
    with pytest.raises(InvalidSettings, match=reason):
        tower({kind: folder}, kind)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_a_folder_that_is_no_checkpoint_is_refused(folders: dict[str, Path], tmp_path: Path, file: str) -> None:
    folder = edited(folders["clip"], tmp_path / "cut", file, lambda _: None)
    (folder / file).write_text("{")
    with pytest.raises(InvalidSettings, match=r"must be a folder with config.json, preprocessor_config.json and safe"):
        read_checkpoint(folder, "cover_backbone", "x")
    (folder / file).unlink()
    with pytest.raises(InvalidSettings, match=f"No such file.*{file}"):
        read_checkpoint(folder, "cover_backbone", "x")
