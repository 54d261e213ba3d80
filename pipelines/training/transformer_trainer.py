"""Training of the transformer generator, step by step.

A step draws by its number and its worker, not by what came before, so that a training which goes on from a saved state
ends bit for bit where it would have without the break. How batches come and where states go is not known here.

Shape legend: B = covers on this worker, K = neighbours, D = width of the joint space, S = pixels a side.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from gatefold.config import Settings, TransformerSettings
from gatefold.encoder.augmentation import mirror
from gatefold.generator.transformer import build_transformer, flow_loss
from gatefold.images.pixels import to_model
from pipelines.training.muon import Muon
from pipelines.training.precision import agreed_dtype
from pipelines.training.training_run import LossHistory, OptimizerSchedule, adamw, step_generator, update_ema

_CPU = torch.device("cpu")


class TransformerTrainer:
    """The denoiser, the moving average of its weights, which is published, and all else that a run must keep."""

    def __init__(
        self,
        settings: Settings,
        *,
        rank: int = 0,
        device: torch.device = _CPU,
        prepare: Callable[[Module], Module] = lambda module: module,
    ) -> None:
        """A trainer before its first step.

        Args:
            prepare: moves the module to the device, and wraps it in what joins the gradients of several workers.
        """
        generator = settings.generator.transformer
        torch.manual_seed(settings.generator.seed)
        self._settings, self._rank, self._device = settings, rank, device
        self._module = build_transformer(generator, settings.cover, settings.encoder.embed_dim)
        self._average = copy.deepcopy(self._module).requires_grad_(False).to(device)
        self._model = prepare(self._module)  # before the optimizers: their state goes to where the parameters are
        self._dtype = agreed_dtype(device)
        optimizers = _optimizers(self._module, generator, self._dtype or torch.float32)
        self._schedule = OptimizerSchedule(optimizers, warmup=generator.warmup, steps=generator.steps)
        self._losses = LossHistory(generator.steps)

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, float]:
        """Step number `step`, from 0; its figures.

        Args:
            batch: pixels uint8 [B, 3, S, S], song_embedding float32 [B, D] and neighbours float32 [B, K, D].
        """
        transformer = self._settings.generator.transformer
        generator = step_generator(self._settings.generator.seed, step, self._rank)
        pixels = mirror(to_model(batch["pixels"]), generator)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            loss = flow_loss(
                self._model,
                pixels,
                batch["song_embedding"],
                batch["neighbours"],
                dropout=transformer.condition_dropout,
                generator=generator,
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        figures = {"lr": self._schedule.lr, "loss": float(loss.detach())}
        self._schedule.step()
        update_ema(self._average, self._module, decay=transformer.ema_decay, step=step + 1)
        self._losses.add(step + 1, figures["loss"])
        return figures

    def state_dict(self) -> dict[str, Any]:
        """All that a fresh trainer needs to go on: tensors and plain values."""
        return {
            "model": self._module.state_dict(),
            "average": self._average.state_dict(),
            "descent": self._schedule.state_dict(),
            "curve": self._losses.state_dict(),
            "dtype": self._dtype,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state, in the arithmetic that it was begun in."""
        self._module.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._schedule.load_state_dict(state["descent"])
        self._losses.load_state_dict(state["curve"])
        self._dtype = state["dtype"]


def _optimizers(transformer: Module, settings: TransformerSettings, dtype: torch.dtype) -> list[Optimizer]:
    """Muon for the blocks' matrices but the modulations, AdamW for the rest: half the KID after the same time.

    Args:
        dtype: that Muon orthogonalises in.
    """
    matrices: list[Parameter] = []
    others: list[Parameter] = []
    for name, parameter in transformer.named_parameters():
        hidden = parameter.ndim == 2 and name.startswith("transformer_blocks.") and ".norm" not in name
        (matrices if hidden else others).append(parameter)
    muon = Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay, dtype=dtype)
    return [muon, adamw(others, lr=settings.lr, weight_decay=settings.weight_decay)]
