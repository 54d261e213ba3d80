"""What a training computes in is what this device is measured to be faster in."""

from collections.abc import Iterator

import pytest
import torch

from pipelines.training import precision
from pipelines.training.precision import agreed_dtype, autocast_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def measured_anew() -> Iterator[None]:
    precision._bfloat16_is_faster.cache_clear()
    yield
    precision._bfloat16_is_faster.cache_clear()


@pytest.mark.parametrize(("bfloat16", "float32", "dtype"), [(1.0, 2.0, torch.bfloat16), (2.0, 1.0, None)])
def test_a_processor_computes_in_what_it_multiplies_faster_in_and_is_asked_once(
    bfloat16: float, float32: float, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.dtype] = []

    def seconds(square: torch.Tensor) -> float:
        asked.append(square.dtype)
        return bfloat16 if square.dtype == torch.bfloat16 else float32

    monkeypatch.setattr(precision, "_seconds", seconds)
    assert autocast_dtype(CPU) == agreed_dtype(CPU) == autocast_dtype(CPU) == dtype
    assert len(asked) == 2 * (1 + precision._ROUNDS)


def test_a_moment_of_load_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([9.0, 9.0, *[1.0, 2.0] * (precision._ROUNDS - 1), 50.0, 2.0])
    monkeypatch.setattr(precision, "_seconds", lambda _square: next(took))
    assert autocast_dtype(CPU) == torch.bfloat16
