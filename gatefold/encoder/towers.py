"""Dual encoder: a song tower on log-mel windows and a cover tower on pixels, into one space of unit vectors.

Knows tensors and settings; nothing of files, losses or Ray. The paper's networks are not published in detail (Apolo &
Mendoza, HCII 2023); these are ours: small residual convolutional towers that train on a laptop. In the place
of either a backbone may be used.

Shape legend: B = batch, W = windows, M = mel bands, F = frames, S = pixels a side, C = channels, N = numbers of a
descriptor, D = width of the joint space.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings
from gatefold.encoder.backbones import Backbone
from gatefold.encoder.features import describe_cover, describe_song, levels
from gatefold.errors import WrongModel
from gatefold.images.likeness import one_thread
from gatefold.images.pixels import resized, to_model

_LEAST_SPREAD = 1e-3  # of a descriptor, in its own unit, which is about 1: one that never varies is not made to
_WINDOWS_ON_CPU, _WINDOWS_ON_GPU = 12, 1_024
"""windows encoded together: on a CPU what its cache holds, on a GPU what fills it"""
_OUTLIER = 4.0  # standard deviations beyond which a descriptor counts no more


class ResidualBlock(nn.Module):
    """x [B, C, H, W] -> [B, outputs, H / 2, W / 2], rounded up: half the resolution, then a residual refinement."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(8, outputs)  # per sample: a song's embedding must not depend on its batch
        self.refine = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
        self.mix = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.silu(self.norm(self.down(x)))
        refined: Tensor = self.mix(fn.silu(self.refine(x)))
        return x + refined


class FeatureNorm(nn.Module):
    """described [B, N] -> [B, N]: standardised by mean and deviation of the training data; unchanged before `fit`.

    So what differs between songs counts for more than what is large in all of them.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))

    def fit(self, described: Tensor) -> None:
        """Takes over mean and deviation of these descriptors.

        Args:
            described: [B, N].
        """
        self.mean.copy_(described.mean(0))
        self.spread.copy_(described.std(0, correction=0) + _LEAST_SPREAD)

    def forward(self, described: Tensor) -> Tensor:
        return ((described - self.mean) / self.spread).clamp(-_OUTLIER, _OUTLIER)


class Tower(nn.Module):
    """Residual blocks, statistics over what is left of the picture, descriptors beside them, a projection to [B, D].

    Args:
        rows: of the picture that is left, each with statistics of its own; where 1, they are taken over all places.
        described: numbers of the descriptors.
    """

    def __init__(
        self, channels: int, settings: EncoderSettings, *, stem: int, blocks: int, rows: int, described: int
    ) -> None:
        super().__init__()
        widths = [min(settings.width * 2**i, settings.width * 4) for i in range(blocks)]
        last = widths[-1]
        self.stem = nn.Conv2d(channels, settings.width // 2, stem, stride=2, padding=stem // 2)
        pairs = zip([settings.width // 2, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*[ResidualBlock(a, b) for a, b in pairs])
        self.usual = FeatureNorm(described)  # named as in published bundles
        self.describe = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(described, last), nn.SiLU())
        self.project = nn.Sequential(
            nn.LayerNorm(last * (2 * rows + 1)),
            nn.Dropout(settings.dropout),
            nn.Linear(last * (2 * rows + 1), last),
            nn.SiLU(),
            nn.Linear(last, settings.embed_dim),
        )
        self._rows = rows

    def features(self, x: Tensor, descriptors: Tensor) -> Tensor:
        """Features [B, D], not normalised.

        Args:
            x: [B, channels, height, width], the tower's input as a picture.
            descriptors: [B, N], not standardised.
        """
        x = self.blocks(fn.silu(self.stem(x)))
        x = x.flatten(2) if self._rows == 1 else x.flatten(1, 2)  # [B, C, H * W] or [B, C * H, W]
        spread = x.std(-1, correction=0)  # 0, and not NaN, where a small picture has but one place left
        projected: Tensor = self.project(torch.cat([x.mean(-1), spread, self.describe(self.usual(descriptors))], dim=1))
        return projected


class SongTower(Tower):
    """log_mel [B, M, F] -> features [B, D], not normalised. How loud a song was recorded does not count.

    Where in pitch something lies does: each place has the number of its band as a channel, and the remaining bands are
    not pooled.
    """

    _HALVINGS = 5

    def __init__(self, settings: EncoderSettings, audio: AudioSettings) -> None:
        described = describe_song(torch.zeros(1, audio.n_mels, audio.frames)).shape[1]
        rows = math.ceil(audio.n_mels / 2**self._HALVINGS)
        super().__init__(2, settings, stem=5, blocks=self._HALVINGS - 1, rows=rows, described=described)

    def forward(self, log_mel: Tensor) -> Tensor:
        level = levels(log_mel)
        band = torch.linspace(-1, 1, level.shape[1], device=level.device)[:, None].expand_as(level)
        with torch.autocast(level.device.type, enabled=False):
            descriptors = describe_song(level)
        return self.features(torch.stack([level, band], dim=1), descriptors)


class CoverTower(Tower):
    """pixels [B, 3, S, S] in [-1, 1] -> features [B, D], not normalised."""

    def __init__(self, settings: EncoderSettings, cover: CoverSettings) -> None:
        described = describe_cover(torch.zeros(1, 3, cover.size, cover.size)).shape[1]
        super().__init__(3, settings, stem=3, blocks=3, rows=1, described=described)

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, enabled=False):
            descriptors = describe_cover(pixels)
        return self.features(pixels, descriptors)


class DualEncoder(nn.Module):
    """Both towers, the temperature (for the sigmoid loss also a bias), and the audio and cover settings they were
    trained with.

    `fingerprint` names the published weights; it is empty until they are loaded from a bundle.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        audio: AudioSettings,
        cover: CoverSettings,
        *,
        song_backbone: Backbone | None = None,
        cover_backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.audio, self.cover = settings, audio, cover
        self.fingerprint = ""
        for name, given in (("song_backbone", song_backbone), ("cover_backbone", cover_backbone)):
            if (asked := getattr(settings, name)) and given is None:
                raise WrongModel(f"encoder.{name} is '{asked}', and this encoder was built without it")
        self.song_tower = song_backbone or SongTower(settings, audio)
        self.cover_tower = cover_backbone or CoverTower(settings, cover)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / settings.temperature)))
        # only where it is learned: a parameter without a gradient would make the workers of a distributed run wait
        odds_of_a_negative = math.log(settings.batch_size - 1)
        self.logit_bias = nn.Parameter(torch.tensor(-odds_of_a_negative)) if settings.loss == "sigmoid" else None

    def encode_song(self, log_mel: Tensor, *, normalize: bool = True) -> Tensor:
        """Embeddings [B, D], one a window.

        Args:
            log_mel: float [B, M, F], natural logarithm of mel power.
            normalize: to unit length.
        """
        features = self.song_tower(log_mel)
        return fn.normalize(features, dim=-1) if normalize else features

    def encode_cover(self, pixels: Tensor, *, normalize: bool = True) -> Tensor:
        """Embeddings [B, D].

        Args:
            pixels: float [B, 3, S, S] in [-1, 1].
            normalize: to unit length.
        """
        features = self.cover_tower(pixels)
        return fn.normalize(features, dim=-1) if normalize else features

    def forward(self, log_mel: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a loss takes: song and cover embeddings, logit scale and logit bias.

        Args:
            log_mel: float [B, M, F], natural logarithm of mel power.
            pixels: float [B, 3, S, S] in [-1, 1].

        Returns: [B, D] and [B, D], unit length; scale [], clamped to 100 as CLIP does; bias [], 0 without one.
        """
        scale = self.logit_scale.exp().clamp(max=100)
        bias = torch.zeros_like(scale) if self.logit_bias is None else self.logit_bias
        return self.encode_song(log_mel), self.encode_cover(pixels), scale, bias

    @torch.no_grad()
    def fit_feature_norm(self, log_mel: Tensor, pixels: Tensor) -> None:
        """Fits the descriptor norms of our own towers, before training.

        Args:
            log_mel: float [B, M, F], natural logarithm of mel power.
            pixels: float [B, 3, S, S] in [-1, 1].
        """
        if isinstance(self.song_tower, SongTower):
            self.song_tower.usual.fit(describe_song(levels(log_mel)))
        if isinstance(self.cover_tower, CoverTower):
            self.cover_tower.usual.fit(describe_cover(pixels))

    @torch.inference_mode()
    def embed_song(self, log_mel: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """A song's embedding float32 [D]: the mean of its windows', of unit length.

        Args:
            log_mel: float16 [W, M, F], natural logarithm of mel power.

        Raises: WrongModel for windows of another shape.
        """
        (embedding,) = self.embed_songs([log_mel])
        return np.asarray(embedding)

    @torch.inference_mode()
    def embed_songs(self, log_mels: Sequence[npt.NDArray[np.float16]]) -> npt.NDArray[np.float32]:
        """`embed_song` of several songs, float32 [B, D].

        Windows are encoded together whichever song they are of: on a GPU, one song is too little to fill it. On a CPU
        one thread encodes them: a sum that is split over others may round otherwise, and a song has the same embedding
        in every process, so that a seed gives the same pictures by command line and endpoint.

        Args:
            log_mels: B times float16 [W, M, F], each with its own W.

        Raises: WrongModel for windows of another shape.
        """
        mels, frames = self.audio.n_mels, self.audio.frames
        for log_mel in log_mels:
            if log_mel.ndim != 3 or not len(log_mel) or log_mel.shape[1:] != (mels, frames):
                raise WrongModel(f"log_mel of shape {log_mel.shape}, this encoder takes [windows, {mels}, {frames}]")
        if not log_mels:
            return np.zeros((0, self.settings.embed_dim), np.float32)
        windows = torch.from_numpy(np.concatenate(log_mels))
        at_once = _WINDOWS_ON_CPU if self._device.type == "cpu" else _WINDOWS_ON_GPU
        with one_thread():
            parts = [self.encode_song(some.to(self._device, torch.float32)) for some in torch.split(windows, at_once)]
        of_songs = torch.split(torch.cat(parts), [len(log_mel) for log_mel in log_mels])
        return torch.stack([fn.normalize(own.mean(0), dim=-1) for own in of_songs]).cpu().numpy()

    @torch.inference_mode()
    def embed_covers(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32 [B, D], unit length.

        Args:
            pixels: uint8 [B, 3, S, S], RGB; brought to `cover.size` first where S is another.

        Raises: WrongModel for pixels of another shape or type.
        """
        square = pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[2] == pixels.shape[3] > 0
        if not square or pixels.dtype != np.uint8:
            raise WrongModel(f"pixels {pixels.dtype} {list(pixels.shape)}: uint8 [covers, 3, side, side] is wanted")
        fitting = torch.from_numpy(resized(pixels, self.cover.size))
        return self.encode_cover(to_model(fitting.to(self._device))).cpu().numpy()

    @property
    def _device(self) -> torch.device:
        return self.logit_scale.device
