"""Checkpoints of backbones as their authors publish them, but tiny and at random: the same classes, the same files.

They are written by `save_pretrained`, and loaded the way that any other would be.
"""

from pathlib import Path
from typing import Any

import torch
import transformers

from gatefold.config import AudioSettings
from tests.sounds import AUDIO

SONG_KINDS, COVER_KINDS = ("clap", "audio-spectrogram-transformer"), ("clip", "dinov2", "convnextv2")
BACKBONE_AUDIO = {
    "clap": AUDIO,
    "audio-spectrogram-transformer": AUDIO.model_copy(update={"win_length": 200, "f_min": 20.0}),
}
"""What each song backbone asks of `AudioSettings`."""

_SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
_TEXT = {**_SMALL, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}
_TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_PICTURE = {"image_size": 32, "patch_size": 8}


def write_checkpoint(folder: Path, kind: str, *, audio: AudioSettings = AUDIO, seed: int = 0) -> Path:
    """A checkpoint of this model type, with its preprocessor; its folder.

    Args:
        audio: settings of a song backbone's extractor, where it has such a setting.
    """
    torch.manual_seed(seed)
    make = {"clip": _clip, "dinov2": _dinov2, "convnextv2": _convnextv2}
    songs = {"clap": _clap, "audio-spectrogram-transformer": _ast}
    network, processor = songs[kind](audio) if kind in songs else make[kind]()
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _clap(audio: AudioSettings) -> tuple[Any, Any]:
    """Both towers, as they are published."""
    tower = {
        "num_mel_bins": audio.n_mels,
        "spec_size": 4 * audio.n_mels,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "window_size": 4,
    }
    config = transformers.ClapConfig(audio_config=tower, text_config=_TEXT, projection_dim=8)
    return transformers.ClapModel(config), transformers.ClapFeatureExtractor(
        feature_size=audio.n_mels,
        sampling_rate=audio.sample_rate,
        hop_length=audio.hop_length,
        max_length_s=audio.window_s,
        fft_window_size=audio.n_fft,
        frequency_min=audio.f_min,
        frequency_max=audio.f_max,
        truncation="rand_trunc",
    )


def _ast(audio: AudioSettings) -> tuple[Any, Any]:
    """With its classifier, as it is published."""
    size = {"max_length": audio.frames, "num_mel_bins": audio.n_mels}
    config = transformers.ASTConfig(**_TRANSFORMER, **size, patch_size=8)
    return transformers.ASTForAudioClassification(config), transformers.ASTFeatureExtractor(
        sampling_rate=audio.sample_rate, **size
    )


def _clip() -> tuple[Any, Any]:
    config = transformers.CLIPConfig(text_config=_TEXT, vision_config=_TRANSFORMER | _PICTURE, projection_dim=8)
    return transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)


def _dinov2() -> tuple[Any, Any]:
    """Published for larger pictures than its processor makes."""
    config = transformers.Dinov2Config(**_SMALL, image_size=48, patch_size=8)
    return transformers.Dinov2Model(config), transformers.BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=32)


def _convnextv2() -> tuple[Any, Any]:
    config = transformers.ConvNextV2Config(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1])
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32})
    return transformers.ConvNextV2ForImageClassification(config), processor
