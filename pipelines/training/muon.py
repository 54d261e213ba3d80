"""The Muon optimizer, orthogonalising in the floating-point type that the device is faster in; torch's has bfloat16
only.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
Scalable for LLM Training", section 2.2 (updates as large as those of AdamW, so that both share one learning rate).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`; in bfloat16 it computes the same bits.

    The type is part of the state: a training that goes on from a saved state keeps its type, whatever is faster there.
    """

    def __init__(self, params: Iterable[Parameter], *, lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        """Args:
            params: matrices.
            dtype: that updates are orthogonalised in; momentum stays in that of the parameters.
        """
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        for group in self.param_groups:
            group["dtype"] = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # the closure that others take is for line searches
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                grad = parameter.grad
                if grad is None:
                    continue
                buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(grad))
                buffer.lerp_(grad, 1 - momentum)
                update = orthogonalised(
                    grad.lerp(buffer, momentum),
                    group["dtype"],
                    coefficients=group["ns_coefficients"],
                    steps=group["ns_steps"],
                    eps=group["eps"],
                )
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(update, alpha=-lr * (0.2 * math.sqrt(max(parameter.shape))))


def orthogonalised(
    matrix: Tensor, dtype: torch.dtype, *, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """[A, B] in `dtype`: the matrix with its singular values brought near 1 (0.5 to 1.5) by Newton-Schulz iterations.

    Args:
        matrix: [A, B].
        dtype: that is computed in.
        coefficients: of x, x^3 and x^5 in the polynomial that is applied to the singular values.
        steps: iterations.
        eps: least norm that is divided by.

    Source: Jordan et al. 2024, as `torch.optim.Muon` has it.
    """
    a, b, c = coefficients
    wide = matrix.to(dtype, copy=True)
    if matrix.shape[0] > matrix.shape[1]:
        wide = wide.T
    wide.div_(wide.norm().clamp(min=eps))
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
