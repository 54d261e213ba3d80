"""The states of trainings: saved and loaded as a checkpoint is, and compared bit for bit."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.training.training_run import load_state


def reloaded(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a run, as it comes back from a checkpoint."""
    torch.save(state, folder / "state.pt")
    return load_state(folder)


def leaves(state: Any) -> list[Any]:
    """Every key and value in it, however deep."""
    if isinstance(state, dict):
        return [leaf for key in state for leaf in (key, *leaves(state[key]))]
    return [leaf for one in state for leaf in leaves(one)] if isinstance(state, list | tuple) else [state]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states of models are equal to the bit."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    assert len(pairs) > 100
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
