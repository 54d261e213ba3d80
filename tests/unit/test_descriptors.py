"""Descriptors: what they tell apart without having learned anything, and what they do not hear or see."""

import pytest
import torch
from torch import Tensor

from gatefold.descriptors import describe_cover, describe_song, levels


def sound(seed: int = 0) -> Tensor:
    return torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 4


def stripes(turns: int, size: int = 32) -> Tensor:
    """A cover [1, 3, size, size] with so many upright stripes."""
    return torch.sin(torch.arange(size) * turns * 2 * torch.pi / size).expand(1, 3, size, size)


def test_levels_reach_from_what_cannot_be_heard_to_the_loudest_place() -> None:
    level = levels(torch.tensor([[[-13.8, 2.0], [-5.5, -0.5]]]))
    assert level == pytest.approx(torch.tensor([[[-2.0, 2.0], [-1.0, 1.0]]]), abs=1e-6)


def test_a_louder_recording_has_the_same_descriptors() -> None:
    assert torch.allclose(describe_song(levels(sound() + 3)), describe_song(levels(sound())), atol=1e-5)


def test_time_turned_round_changes_neither_timbre_nor_much_of_the_beat() -> None:
    level = levels(sound())
    plain, reversed_ = describe_song(level), describe_song(level.flip(2))
    assert torch.allclose(plain[:, :32], reversed_[:, :32], atol=1e-5)


def test_a_beat_is_found_at_its_own_frequency() -> None:
    level = torch.zeros(1, 16, 64) + torch.sin(torch.arange(64) * 6 * 2 * torch.pi / 64)
    beats = describe_song(level)[:, 32:].view(8, -1)
    assert (beats.argmax(1) == 6 - 1).all()


def test_a_higher_pitch_is_another_timbre() -> None:
    low, high = torch.full((1, 16, 64), -2.0), torch.full((1, 16, 64), -2.0)
    low[:, 2], high[:, 12] = 2.0, 2.0
    assert describe_song(low)[0, :16].argmax() == 2
    assert describe_song(high)[0, :16].argmax() == 12


def test_stripes_are_found_by_their_number_and_direction() -> None:
    patterns = [describe_cover(cover)[:, -25 * 13 :].view(25, 13) for cover in (stripes(5), stripes(5).mT)]
    assert divmod(int(patterns[0].argmax()), 13) == (0, 5)
    assert divmod(int(patterns[1].argmax()), 13) in ((5, 0), (25 - 5, 0))


def test_colours_are_counted() -> None:
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 32, 32)
    colours = describe_cover(red)[:, 192 + 6 : 192 + 6 + 64].view(4, 4, 4)
    assert divmod(int(colours.argmax()), 16) == (3, 0)


@pytest.mark.parametrize("size", [16, 24, 64, 100])
def test_covers_of_every_size_have_finite_descriptors_that_do_not_depend_on_their_batch(size: int) -> None:
    covers = torch.rand(3, 3, size, size) * 2 - 1
    described = describe_cover(covers)
    assert torch.isfinite(described).all()
    assert torch.allclose(described[1:2], describe_cover(covers[1:2]), atol=1e-5)
    assert torch.isfinite(describe_cover(torch.zeros(1, 3, size, size))).all()


def test_silence_has_finite_descriptors() -> None:
    assert torch.isfinite(describe_song(levels(torch.full((1, 16, 64), -13.8)))).all()
