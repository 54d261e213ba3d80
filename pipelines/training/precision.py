"""Floating-point type of a training: bfloat16 where the device is measured to be faster in it.

A processor without instructions for bfloat16 emulates it, and takes ten to fifty times as long as in float32. What is
measured is one matrix product, which is what most of a training's time goes to. Knows no model and no optimizer.
"""

import time
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

_SIDE, _ROUNDS = 256, 5


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What to autocast to on this device: torch.bfloat16, or None where float32 is as fast.

    On CUDA the driver knows. On a processor both are measured when this is first asked (a few milliseconds; below 0.1 s
    where bfloat16 is emulated), and the answer is kept for as long as the process lives.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if _bfloat16_is_faster() else None


def agreed_dtype(device: torch.device) -> torch.dtype | None:
    """`autocast_dtype`, and the same on every worker of a distributed run: None where it is None on any.

    Workers that round differently would update copies of one model differently. All of them must call this together.
    """
    dtype = autocast_dtype(device)
    if not (dist.is_available() and dist.is_initialized()):
        return dtype
    slower = torch.tensor(int(dtype is None), device=device)
    dist.all_reduce(slower, dist.ReduceOp.MAX)
    return None if slower.item() else torch.bfloat16


@lru_cache(maxsize=1)
def _bfloat16_is_faster() -> bool:
    """Whether this processor multiplies matrices faster in bfloat16 than in float32, by the best of a few rounds."""
    square = torch.rand(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    sides = [square.bfloat16(), square]
    for side in sides:  # the first product also chooses and compiles its kernel
        _seconds(side)
    rounds = [[_seconds(side) for side in sides] for _ in range(_ROUNDS)]  # by turns, so that load falls on both
    bfloat16, float32 = (min(column) for column in zip(*rounds, strict=True))
    return bool(bfloat16 < float32)


def _seconds(square: Tensor) -> float:
    """Of one product of a matrix with itself."""
    began = time.perf_counter()
    torch.mm(square, square)
    return time.perf_counter() - began
