"""Descriptors: what they distinguish without training, and what they ignore."""

import math

import pytest
import torch
from torch import Tensor

from gatefold.encoder.features import describe_cover, describe_song, levels


def sound(seed: int = 0) -> Tensor:
    return torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 4


def stripes(turns: int, size: int = 32) -> Tensor:
    """A cover [1, 3, size, size] with so many upright stripes."""
    return torch.sin(torch.arange(size) * turns * 2 * torch.pi / size).expand(1, 3, size, size)


def test_levels_reach_from_what_is_inaudible_to_the_loudest_place() -> None:
    level = levels(torch.tensor([[[-13.8, 2.0], [-5.5, -0.5]]]))
    assert level == pytest.approx(torch.tensor([[[-2.0, 2.0], [-1.0, 1.0]]]), abs=1e-6)


def test_a_louder_recording_has_the_same_descriptors() -> None:
    assert torch.allclose(describe_song(levels(sound() + 3)), describe_song(levels(sound())), atol=1e-5)


def test_time_turned_round_changes_neither_timbre_nor_much_of_the_beat() -> None:
    level = levels(sound())
    plain, reversed_ = describe_song(level), describe_song(level.flip(2))
    assert torch.allclose(plain[:, :32], reversed_[:, :32], atol=1e-5)


@pytest.mark.parametrize("turns", [3, 6, 20])
def test_a_beat_is_found_at_its_own_tempo(turns: int) -> None:
    level = torch.zeros(1, 16, 64) + torch.sin(torch.arange(64) * turns * 2 * torch.pi / 64)
    tempi = describe_song(level)[:, 32 : 32 + 4 * 24].view(4, 24)
    assert ((tempi.argmax(1) - 23 * math.log(turns) / math.log(0.4 * 64)).abs() <= 1).all()


def test_what_comes_suddenly_is_distinguished_from_what_swells() -> None:
    swelling = torch.cat([torch.linspace(-1, 1, 32), torch.linspace(1, -1, 32)]).expand(1, 16, 64)
    sudden = torch.cat([torch.full((32,), -1.0), torch.full((32,), 1.0)]).expand(1, 16, 64)
    (much, how), (less, suddenly) = (
        describe_song(level)[0, 32 + 96 :][:16].view(2, 8) for level in (swelling, sudden)
    )
    assert (much > less + 0.01).all()
    assert (suddenly > how + 0.1).all()


def test_overtones_are_found_by_how_close_they_lie() -> None:
    level = torch.sin(torch.arange(64) * 9 * 2 * torch.pi / 64)[None, :, None].expand(1, 64, 64)
    assert int(describe_song(level)[0, -10:].argmax()) == round(9 * math.log(9) / math.log(0.4 * 64))


def test_a_higher_pitch_is_another_timbre() -> None:
    low, high = torch.full((1, 16, 64), -2.0), torch.full((1, 16, 64), -2.0)
    low[:, 2], high[:, 12] = 2.0, 2.0
    assert describe_song(low)[0, :16].argmax() == 2
    assert describe_song(high)[0, :16].argmax() == 12


def test_stripes_are_found_by_their_number_and_angle() -> None:
    scale = round(8 * math.log(5) / math.log(0.4 * 32))
    for cover, angle in ((stripes(5), 0), (stripes(5).mT, 6)):
        texture = describe_cover(cover)[0, 178 : 178 + 108].view(9, 12)
        assert divmod(int(texture.argmax()), 12) == (scale, angle)


def test_grain_is_distinguished_from_a_large_form() -> None:
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    form = torch.zeros(1, 3, 32, 32)
    form[..., 8:24, 8:24] = 1
    grain, edges = (describe_cover(cover)[0, -6:].view(2, 3) for cover in (noise, form))
    assert (grain[1] > edges[1] + 3).all()  # where least happens, nothing does beside a form
    assert (edges[0] > edges[1]).all()


def test_colours_are_counted() -> None:
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 32, 32)
    colours = describe_cover(red)[:, 114:178].view(4, 4, 4)
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
