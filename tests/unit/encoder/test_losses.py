"""The losses against their definitions, written out pair by pair, values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gatefold.config import EncoderSettings
from gatefold.encoder.losses import gathered, genre_contrast, info_nce, loss_for, sigmoid, triplet


def pairs(count: int, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors of songs and covers [count, width], in double precision, that want gradients."""
    draw = torch.Generator().manual_seed(seed)
    both = torch.randn(2, count, width, generator=draw, dtype=torch.float64)
    song, cover = both / both.norm(dim=-1, keepdim=True)
    return song.clone().requires_grad_(), cover.clone().requires_grad_()


def naive_info_nce(song: Tensor, cover: Tensor, scale: float) -> Tensor:
    count, total = len(song), torch.zeros((), dtype=torch.float64)
    for i in range(count):
        own = torch.exp(scale * song[i] @ cover[i])
        among_covers = sum((torch.exp(scale * song[i] @ cover[j]) for j in range(count)), torch.zeros(()))
        among_songs = sum((torch.exp(scale * song[j] @ cover[i]) for j in range(count)), torch.zeros(()))
        total = total - torch.log(own / among_covers) - torch.log(own / among_songs)
    return total / (2 * count)


def naive_triplet(song: Tensor, cover: Tensor, margin: float) -> Tensor:
    count, total = len(song), torch.zeros((), dtype=torch.float64)
    for i in range(count):
        own = song[i] @ cover[i]
        others = [j for j in range(count) if j != i]
        for negatives in ([song[i] @ cover[j] for j in others], [song[j] @ cover[i] for j in others]):
            farther = [cosine for cosine in negatives if cosine < own]
            hardest = max(farther or negatives, key=Tensor.item)
            total = total + torch.clamp(margin - own + hardest, min=0)
    return total / (2 * count)


def naive_sigmoid(song: Tensor, cover: Tensor, scale: float, bias: float) -> Tensor:
    count, total = len(song), torch.zeros((), dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            together = 1 / (1 + torch.exp(-(scale * song[i] @ cover[j] + bias)))
            total = total - torch.log(together if i == j else 1 - together)
    return total / count


def naive_genre_contrast(song: Tensor, cover: Tensor, genre: list[int], temperature: float) -> Tensor:
    sides = [(side[i], genre[i]) for side in (song, cover) for i in range(len(genre)) if genre[i] >= 0]
    total = torch.zeros((), dtype=torch.float64)
    for place, (one, its_genre) in enumerate(sides):
        others = sides[:place] + sides[place + 1 :]
        all_of_them = sum((torch.exp(one @ other / temperature) for other, _ in others), torch.zeros(()))
        alike = [torch.exp(one @ other / temperature) for other, genre_of in others if genre_of == its_genre]
        total = total - sum((torch.log(other / all_of_them) for other in alike), torch.zeros(())) / len(alike)
    return total / len(sides)


def agree(fast: Callable[[Tensor, Tensor], Tensor], naive: Callable[[Tensor, Tensor], Tensor], count: int) -> None:
    results = []
    for loss in (fast, naive):
        song, cover = pairs(count)
        value = loss(song, cover)
        value.backward()  # type: ignore[no-untyped-call]
        results.append((value.detach(), song.grad, cover.grad))
    for one, other in zip(*results, strict=True):
        assert one is not None
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_infonce_is_its_definition_with_gradients(count: int, scale: float) -> None:
    agree(lambda s, c: info_nce(s, c, torch.tensor(scale)), lambda s, c: naive_info_nce(s, c, scale), count)


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
def test_triplet_is_its_definition_with_gradients(count: int, margin: float) -> None:
    agree(lambda s, c: triplet(s, c, margin), lambda s, c: naive_triplet(s, c, margin), count)


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (10.0, -4.0), (20.0, -10.0)])
def test_sigmoid_is_its_definition_with_gradients(count: int, scale: float, bias: float) -> None:
    agree(
        lambda s, c: sigmoid(s, c, torch.tensor(scale), torch.tensor(bias)),
        lambda s, c: naive_sigmoid(s, c, scale, bias),
        count,
    )


@pytest.mark.parametrize("genre", [[0, 0, 1, 1, 0, 2], [3, 3, 3, 3, 3, 3], [0, 1, 2, 3, 4, 5], [-1, 0, 1, -1, 0, 1]])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_contrast_of_genres_is_its_definition_with_gradients(genre: list[int], temperature: float) -> None:
    agree(
        lambda s, c: genre_contrast(s, c, torch.tensor(genre), temperature),
        lambda s, c: naive_genre_contrast(s, c, genre, temperature),
        len(genre),
    )


def test_pairs_of_no_known_genre_neither_cost_nor_teach() -> None:
    song, cover = pairs(4)
    value = genre_contrast(song, cover, torch.full((4,), -1), 0.1)
    value.backward()  # type: ignore[no-untyped-call]
    assert value == 0
    assert song.grad is not None
    assert not song.grad.any()


def test_the_contrast_of_genres_falls_as_those_of_a_genre_come_together() -> None:
    apart, together = torch.eye(4, dtype=torch.float64), torch.eye(2, dtype=torch.float64).repeat_interleave(2, 0)
    genre = torch.tensor([0, 0, 1, 1])
    assert genre_contrast(together, together, genre, 0.1) < genre_contrast(apart, apart, genre, 0.1)


def test_sigmoid_teaches_its_temperature_and_its_bias() -> None:
    song, cover = pairs(8)
    at = torch.tensor([2.0, -3.0], dtype=torch.float64, requires_grad=True)
    sigmoid(song, cover, at[0].exp(), at[1]).backward()  # type: ignore[no-untyped-call]
    assert at.grad is not None
    for number in (0, 1):
        step = torch.zeros(2, dtype=torch.float64)
        step[number] = 1e-6
        above, below = (sigmoid(song, cover, x[0].exp(), x[1]) for x in (at + step, at - step))
        assert at.grad[number].item() == pytest.approx(((above - below) / 2e-6).item(), rel=1e-4)


def test_sigmoid_stays_finite_where_a_pair_could_not_be_worse() -> None:
    song = torch.eye(4, dtype=torch.float64)
    assert sigmoid(song, -song, torch.tensor(1e4), torch.tensor(0.0)).item() == pytest.approx(1e4, rel=1e-3)


def test_triplet_takes_the_hardest_negative_that_is_farther_and_the_hardest_of_all_where_none_is() -> None:
    cosine = torch.tensor([[0.5, 0.9, 0.4], [0.8, 0.1, 0.7], [0.0, 0.2, 0.3]], dtype=torch.float64)
    cover = torch.eye(3, dtype=torch.float64)  # so that a song's row is its cosines
    by_song = [0.2 + 0.4 - 0.5, 0.2 + 0.8 - 0.1, 0.2 + 0.2 - 0.3]
    by_cover = [0.2 + 0.0 - 0.5, 0.2 + 0.9 - 0.1, 0.2 + 0.7 - 0.3]  # negatives 0.8 0.0, then 0.9 0.2, then 0.4 0.7
    expected = sum(max(cost, 0) for cost in by_song + by_cover) / 6
    assert triplet(cosine, cover, 0.2).item() == pytest.approx(expected)


def test_infonce_teaches_its_temperature() -> None:
    song, cover = pairs(8)
    log_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    value = info_nce(song, cover, log_scale.exp())
    value.backward()  # type: ignore[no-untyped-call]
    step = 1e-6
    above, below = (info_nce(song, cover, torch.tensor(2.0 + d, dtype=torch.float64).exp()) for d in (step, -step))
    assert log_scale.grad is not None
    assert log_scale.grad.item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-4)


def test_pairs_that_match_cost_nothing_and_chance_costs_the_logarithm_of_the_batch() -> None:
    perfect = torch.eye(8, dtype=torch.float64)
    assert info_nce(perfect, perfect, torch.tensor(100.0)).item() == pytest.approx(0, abs=1e-9)
    assert triplet(perfect, perfect, 0.2).item() == 0
    assert sigmoid(perfect, perfect, torch.tensor(100.0), torch.tensor(-50.0)).item() == pytest.approx(0, abs=1e-9)
    alike = torch.ones(8, 1, dtype=torch.float64)
    assert info_nce(alike, alike, torch.tensor(10.0)).item() == pytest.approx(torch.tensor(8.0).log().item())
    assert triplet(alike, alike, 0.2).item() == pytest.approx(0.2)


def test_settings_choose_the_loss_and_its_margin() -> None:
    song, cover = pairs(6)
    scale, bias = torch.tensor(10.0), torch.tensor(-2.0)
    assert loss_for(EncoderSettings(loss="infonce"))(song, cover, scale, bias) == info_nce(song, cover, scale)
    assert loss_for(EncoderSettings(loss="triplet", margin=0.3))(song, cover, scale, bias) == triplet(song, cover, 0.3)
    assert loss_for(EncoderSettings(loss="sigmoid"))(song, cover, scale, bias) == sigmoid(song, cover, scale, bias)


def test_a_worker_alone_gathers_only_its_own() -> None:
    song, _ = pairs(3)
    assert gathered(song) is song
