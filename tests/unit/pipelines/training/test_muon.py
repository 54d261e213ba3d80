"""Our Muon is torch's, and it can orthogonalise in float32 too."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from pipelines.training.muon import Muon, orthogonalised

SHAPES = [(32, 16), (16, 48), (8, 8)]
NEWTON_SCHULZ = {"coefficients": (3.4445, -4.7750, 2.0315), "steps": 5, "eps": 1e-7}


def stepped(make: Callable[[Sequence[Parameter]], Optimizer], steps: int = 3) -> list[Parameter]:
    draw = torch.Generator().manual_seed(0)
    matrices = [Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    optimizer = make(matrices)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=draw)
        optimizer.step()
    return matrices


def test_in_bfloat16_it_is_torchs_own_to_the_bit() -> None:
    torchs = stepped(lambda some: torch.optim.Muon(some, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    ours = stepped(lambda some: Muon(some, lr=0.01, weight_decay=0.1, dtype=torch.bfloat16))
    assert all(torch.equal(a, b) for a, b in zip(torchs, ours, strict=True))


def test_in_float32_it_differs_by_no_more_than_bfloat16_rounds() -> None:
    rounded, exact = (
        stepped(lambda some, dtype=dtype: Muon(some, lr=0.01, weight_decay=0.1, dtype=dtype))  # type: ignore[misc]
        for dtype in (torch.bfloat16, torch.float32)
    )
    for a, b in zip(rounded, exact, strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthogonalised_matrix_has_singular_values_near_one_and_leaves_what_it_was_made_of(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = matrix.clone()
    values = torch.linalg.svdvals(orthogonalised(matrix, torch.float32, **NEWTON_SCHULZ))  # type: ignore[arg-type]
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert torch.equal(matrix, before)


def test_parameters_without_a_gradient_stay_as_they_are() -> None:
    matrix = Parameter(torch.ones(4, 4))
    Muon([matrix], lr=0.01, weight_decay=0.1, dtype=torch.float32).step()
    assert torch.equal(matrix, torch.ones(4, 4))


def test_a_saved_state_keeps_its_type() -> None:
    matrix = Parameter(torch.ones(4, 4))
    begun, resumed = (Muon([matrix], lr=0.01, weight_decay=0.1, dtype=d) for d in (torch.bfloat16, torch.float32))
    resumed.load_state_dict(begun.state_dict())
    assert resumed.param_groups[0]["dtype"] == torch.bfloat16
