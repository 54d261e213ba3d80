"""Backbones: networks that others have trained, each behind the interface of one of our towers.

Our log-mel windows and pixels are first converted to what the network was trained on; its pooled features are then
projected into the joint space, and that projection is learned. Knows torch and transformers. It reads a folder on this
machine's disk, safetensors only, and refuses to download, to run code that comes with a checkpoint, or to know of other
storage.

Shape legend: B = batch, M = mel bands, F = frames, S = pixels a side, D = width of the joint space.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as fn

from gatefold.audio.spectrograms import mel_bands, mel_power
from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, Section
from gatefold.errors import InvalidSettings

CONFIG, INPUTS = "config.json", "preprocessor_config.json"
"""The files in which a checkpoint says what its network is, and what it was trained to be given."""
WEIGHTS = (".safetensors", ".safetensors.index.json")
"""How the names of the others end."""
BackboneSetting = Literal["song_backbone", "cover_backbone"]

_AST = "audio-spectrogram-transformer"
_CLAP = "ClapAudioModelWithProjection"  # which finds its weights in a checkpoint of both of CLAP's towers too
_NETWORKS: dict[BackboneSetting, dict[str, str]] = {
    "song_backbone": {"clap": _CLAP, "clap_audio_model": _CLAP, _AST: "ASTModel"},
    "cover_backbone": {
        "clip": "CLIPVisionModel",
        "clip_vision_model": "CLIPVisionModel",
        "dinov2": "Dinov2Model",
        "convnextv2": "ConvNextV2Model",
    },
}
"""Model types that are allowed for each setting, with their class in transformers."""
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, torch's names
_DECIBEL_FLOOR = 1e-10  # mel power, of CLAP's logarithm
_KALDI_FLOOR = torch.finfo(torch.float32).eps
_PREEMPHASIS = 0.97
_WARPED_FROM = 384  # pixels a side from which ConvNeXt's processor no longer crops


class Checkpoint(Section):
    """What rebuilds a backbone but for its weights."""

    network: dict[str, Any]
    """its config.json"""
    inputs: dict[str, Any]
    """its preprocessor_config.json"""

    @property
    def kind(self) -> str:
        """The model type, as "clap"."""
        return str(self.network.get("model_type"))

    def asks(self, key: str) -> Any:
        """What it says of its inputs under this key. Raises: InvalidSettings when it does not."""
        try:
            return self.inputs[key]
        except KeyError as error:
            raise InvalidSettings(f"the {INPUTS} of backbone '{self.kind}' has no '{key}'; save it anew, "
                                  "with save_pretrained of its feature extractor or image processor") from error


Network = tuple[Checkpoint, nn.Module]
"""A checkpoint and its network, which is one tower of what the checkpoint may hold."""


class Backbone(nn.Module):
    """Pre-trained tower: x [B, M, F] of log-mel or [B, 3, S, S] of pixels -> features [B, D], not normalised.

    Frozen, it takes no gradient and stays as it is in training, without dropout; only the projection learns. Otherwise
    all of it learns, but for the statistics of batch norms, which would make a song depend on its batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        network: nn.Module,
        preprocess: nn.Module,
        example: Tensor,
        settings: EncoderSettings,
    ) -> None:
        """`preprocess` makes the tower's input into the network's; `example` is such an input, of one song or cover.

        Raises: InvalidSettings when the network does not take what its checkpoint says it does.
        """
        super().__init__()
        self.checkpoint, self.network, self.preprocess = checkpoint, network, preprocess
        self.frozen = settings.freeze_backbones
        for name, parameter in network.named_parameters():
            # a parameter that never has a gradient would make the workers of a distributed run wait
            parameter.requires_grad_(not self.frozen and not name.endswith("mask_token"))
        try:
            with torch.no_grad():
                width = network.eval()(preprocess(example)).pooler_output.shape[-1]
        except (RuntimeError, ValueError) as error:
            raise InvalidSettings(f"backbone '{checkpoint.kind}' does not take what its {INPUTS} describes ({error}); "
                                  f"its {CONFIG} must fit it") from error
        self.project = nn.Sequential(
            nn.LayerNorm(width),
            nn.Dropout(settings.dropout),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, settings.embed_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            given = self.preprocess(x.float())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled = self.network(given).pooler_output
        features: Tensor = self.project(pooled)
        return features

    def train(self, mode: bool = True) -> "Backbone":
        """Sets the mode of all but what is frozen and batch norms, which keep their statistics."""
        super().train(mode)
        for module in self.network.modules():
            if self.frozen or isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self


def read_checkpoint(folder: Path, setting: BackboneSetting, name: str) -> Checkpoint:
    """What the folder of a checkpoint says of itself; its weights are not read.

    Args:
        setting: the setting that names it, which says what kinds of networks are allowed.
        name: what error messages call it.

    Raises: InvalidSettings when it is no checkpoint, or one of a network that is not allowed.
    """
    try:
        network, inputs = (json.loads((folder / file).read_bytes()) for file in (CONFIG, INPUTS))
    except (OSError, ValueError) as error:
        raise InvalidSettings(
            f"encoder.{setting} '{name}' must be a folder with {CONFIG}, {INPUTS} and safetensors, as "
            f"save_pretrained writes them ({error})"
        ) from error
    checkpoint = Checkpoint(network=network, inputs=inputs)
    _check_kind(checkpoint, setting, f"'{name}'")
    return checkpoint


def load_pretrained(folder: Path, setting: BackboneSetting, name: str) -> Network:
    """The checkpoint of a folder, with its weights, float32.

    Args and errors are those of `read_checkpoint`; moreover, InvalidSettings without safetensors, or when they do not
    hold every weight.
    """
    checkpoint = read_checkpoint(folder, setting, name)
    if not any(folder.glob("*.safetensors")):
        raise InvalidSettings(
            f"encoder.{setting} '{name}' has no safetensors, and nothing else is read, pickles least of "
            "all; load the checkpoint where you trust it, and save it with save_pretrained"
        )
    try:
        with _quiet_transformers():
            whole, loading = _class_of(checkpoint, setting).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InvalidSettings(f"encoder.{setting} '{name}' cannot be loaded ({error}); save it anew") from error
    if missing := sorted(loading["missing_keys"]):
        raise InvalidSettings(
            f"encoder.{setting} '{name}' lacks {len(missing)} weights of a {type(whole).__name__}, as "
            f"'{missing[0]}'; save all of it"
        )
    own = json.loads(whole.config.to_json_string(use_diff=False))
    return checkpoint.model_copy(update={"network": own}), _tower_of(whole)


def rebuild(checkpoint: Checkpoint, setting: BackboneSetting) -> Network:
    """A checkpoint that was loaded before, with random weights. Raises: InvalidSettings for one that is not allowed."""
    _check_kind(checkpoint, setting, "of a bundle")
    network = _class_of(checkpoint, setting)
    return checkpoint, _tower_of(network(network.config_class.from_dict(checkpoint.network)))


def build_song_backbone(
    checkpoint: Checkpoint, network: nn.Module, settings: EncoderSettings, audio: AudioSettings
) -> Backbone:
    """log_mel [B, M, F] -> features [B, D]. Raises: InvalidSettings when it was trained on other spectrograms."""
    check_audio_settings(checkpoint, audio)
    adapter = KaldiFbankAdapter(checkpoint, audio) if checkpoint.kind == _AST else ClapSpectrogramAdapter()
    return Backbone(checkpoint, network, adapter, torch.zeros(1, audio.n_mels, audio.frames), settings)


def build_cover_backbone(
    checkpoint: Checkpoint, network: nn.Module, settings: EncoderSettings, cover: CoverSettings
) -> Backbone:
    """pixels [B, 3, S, S] in [-1, 1] -> features [B, D]."""
    return Backbone(
        checkpoint, network, ImagePreprocessor(checkpoint), torch.zeros(1, 3, cover.size, cover.size), settings
    )


def check_audio_settings(checkpoint: Checkpoint, audio: AudioSettings) -> None:
    """Raises: InvalidSettings when spectrograms of these settings are not of the kind that a network was trained on."""
    if checkpoint.kind == _AST:
        needed = _kaldi_settings(checkpoint)
    elif checkpoint.asks("truncation") != "rand_trunc":
        raise InvalidSettings("a CLAP with fusion encodes a song of any length at once, on another scale of mels; use "
                              f"one without, whose {INPUTS} has truncation rand_trunc, as clap-htsat-unfused")
    else:
        needed = _clap_settings(checkpoint)
    wrong = {setting: value for setting, value in needed.items() if not math.isclose(getattr(audio, setting), value)}
    if wrong:
        found = ", ".join(
            f"audio.{setting} {getattr(audio, setting):g} should be {value:g}" for setting, value in wrong.items()
        )
        remedy = " ".join(f"--set audio.{setting}={value:g}" for setting, value in wrong.items())
        raise InvalidSettings(f"song backbone '{checkpoint.kind}' was trained on other spectrograms: {found}; {remedy}")


class ClapSpectrogramAdapter(nn.Module):
    """log_mel [B, M, F] -> decibels [B, 1, F + 1, M], as ClapFeatureExtractor of "rand_trunc" gives them.

    An exact change of scale, but for two things: the 16 bits of a log_mel are right to 0.05 dB above -60 dB, and leave
    nothing below -84 dB; and the frame at the end of a window, which ours has not, repeats the one before. A song
    shorter than a window is followed by silence, where the extractor would repeat it.
    """

    def forward(self, log_mel: Tensor) -> Tensor:
        decibels = 10 * mel_power(log_mel).clamp(min=_DECIBEL_FLOOR).log10()
        return fn.pad(decibels, (0, 1), mode="replicate").transpose(1, 2)[:, None]


class KaldiFbankAdapter(nn.Module):
    """log_mel [B, M, F] -> standardised log filter banks [B, F, M], nearly those of ASTFeatureExtractor.

    Kaldi's bands lie on another scale of mels, narrower below 500 Hz and above 2.8 kHz, have unit height, and follow a
    pre-emphasis. So the power density between the centres of our bands is interpolated, emphasised, and summed under
    Kaldi's triangles, which sets levels right and smooths what is finer than our bands. The emphasis acts on the
    spectrum here, there on samples. Frames begin where the extractor's do to within 2.5 ms, and as there the last two
    of 1024 are empty. A song shorter than a window is followed by silence, where the extractor has zeros.
    """

    bands: Tensor

    def __init__(self, checkpoint: Checkpoint, audio: AudioSettings) -> None:
        super().__init__()
        self.register_buffer("bands", _to_kaldi_bands(audio), persistent=False)
        self._frames = audio.frames
        self._filled_frames = 1 + (audio.window_length - audio.win_length) // audio.hop_length
        standardised = checkpoint.inputs.get("do_normalize", True)
        self._mean: float = checkpoint.asks("mean") if standardised else 0.0
        self._spread: float = 2 * checkpoint.asks("std") if standardised else 1.0

    def forward(self, log_mel: Tensor) -> Tensor:
        # our frames are centred on their hop, Kaldi's begin there: half of 400 samples later is 1.25 of our frames
        power = mel_power(log_mel)[:, :, 1 : 1 + self._filled_frames].transpose(1, 2)
        banks = (power @ self.bands).clamp(min=_KALDI_FLOOR).log()
        padded = fn.pad(banks, (0, 0, 0, self._frames - self._filled_frames))
        return (padded - self._mean) / self._spread


class ImagePreprocessor(nn.Module):
    """pixels [B, 3, S, S] in [-1, 1] -> [B, 3, side, side], as the checkpoint's image processor makes them.

    Resized with antialiasing, cut to the middle where the processor does so, standardised. The processor rounds to 256
    levels after resizing, this does not.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        steps = ("do_resize", "do_rescale", "do_normalize")
        if off := [step for step in steps if not checkpoint.inputs.get(step, True)]:
            raise InvalidSettings(f"the image processor of backbone '{checkpoint.kind}' leaves out {', '.join(off)}; "
                                  f"set them to true in its {INPUTS}, with what its network was trained on")
        if checkpoint.asks("resample") not in _INTERPOLATIONS:
            raise InvalidSettings(f"the image processor of backbone '{checkpoint.kind}' has resample "
                                  f"{checkpoint.asks('resample')}; allowed: 2 (bilinear) and 3 (bicubic)")
        self._mode = _INTERPOLATIONS[checkpoint.asks("resample")]
        self._resized, self._side = _sizes(checkpoint)
        self.register_buffer("mean", torch.tensor(checkpoint.asks("image_mean"))[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.asks("image_std"))[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        square = (self._resized, self._resized)
        picture = (pixels + 1) / 2
        if picture.shape[2:] != square:
            picture = fn.interpolate(picture, square, mode=self._mode, antialias=True).clamp(0, 1)
        margin, side = (self._resized - self._side) // 2, self._side
        picture = picture[:, :, margin : margin + side, margin : margin + side]
        return (picture - self.mean) / self.std


def _clap_settings(checkpoint: Checkpoint) -> dict[str, float]:
    """What `AudioSettings` must say for CLAP."""
    return {
        "sample_rate": checkpoint.asks("sampling_rate"),
        "n_fft": checkpoint.asks("fft_window_size"),
        "win_length": checkpoint.asks("fft_window_size"),
        "hop_length": checkpoint.asks("hop_length"),
        "n_mels": checkpoint.asks("feature_size"),
        "f_min": checkpoint.asks("frequency_min"),
        "f_max": checkpoint.asks("frequency_max"),
        "window_s": checkpoint.asks("max_length_s"),
    }


def _kaldi_settings(checkpoint: Checkpoint) -> dict[str, float]:
    """What `AudioSettings` must say for AST, whose extractor has Kaldi's defaults: 25 ms every 10 ms, from 20 Hz on."""
    rate = checkpoint.asks("sampling_rate")
    hop_length, win_length = rate // 100, rate // 40
    return {
        "sample_rate": rate,
        "n_fft": 2 ** math.ceil(math.log2(win_length)),
        "win_length": win_length,
        "hop_length": hop_length,
        "n_mels": checkpoint.asks("num_mel_bins"),
        "f_min": 20.0,
        "f_max": rate / 2,
        "window_s": checkpoint.asks("max_length") * hop_length / rate,
    }


def _to_kaldi_bands(audio: AudioSettings) -> Tensor:
    """[M, M], from mel power in our bands to pre-emphasised power in Kaldi's."""
    from torchaudio.compliance.kaldi import get_mel_banks

    ours = mel_bands(audio)  # [frequencies, M]
    heights = ours / ours.amax(0)
    between = heights / heights.sum(1, keepdim=True).clamp(min=1e-9)  # density from its values at our bands' centres
    theirs, _ = get_mel_banks(audio.n_mels, audio.n_fft, float(audio.sample_rate), audio.f_min, 0.0, 100.0, -500.0, 1.0)
    angles = torch.linspace(0, math.pi, audio.n_fft // 2 + 1)
    emphasis = 1 + _PREEMPHASIS**2 - 2 * _PREEMPHASIS * angles.cos()
    return (between / ours.sum(0)).T @ (emphasis[:, None] * fn.pad(theirs, (0, 1)).T)


def _sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """Pixels a side that an image processor resizes a square to, and that it then leaves of it."""
    edge = _edge(checkpoint.asks("size"))
    if "crop_pct" in checkpoint.inputs:  # ConvNeXt's
        return (edge, edge) if edge >= _WARPED_FROM else (int(edge / checkpoint.asks("crop_pct")), edge)
    side = _edge(checkpoint.asks("crop_size")) if checkpoint.inputs.get("do_center_crop") else edge
    if side > edge:
        raise InvalidSettings(f"the image processor of backbone '{checkpoint.kind}' resizes to {edge} pixels a side "
                              f"and crops to {side}; the crop must not be larger")
    return edge, side


def _edge(size: int | dict[str, int]) -> int:
    return size if isinstance(size, int) else size.get("shortest_edge") or size["height"]


def _check_kind(checkpoint: Checkpoint, setting: BackboneSetting, name: str) -> None:
    if checkpoint.kind not in _NETWORKS[setting]:
        allowed = ", ".join(_NETWORKS[setting])
        raise InvalidSettings(f"encoder.{setting} {name} is a network of type '{checkpoint.kind}'; allowed: {allowed}")


def _class_of(checkpoint: Checkpoint, setting: BackboneSetting) -> Any:
    import transformers  # here, because it costs seconds that towers of our own need not pay

    return getattr(transformers, _NETWORKS[setting][checkpoint.kind])


def _tower_of(network: nn.Module) -> nn.Module:
    """Of a CLAP, what comes before the projection into its own joint space; others are towers already."""
    tower: nn.Module = getattr(network, "audio_model", network)
    return tower


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its bars, and without its report on weights, of which we make an error or nothing."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
