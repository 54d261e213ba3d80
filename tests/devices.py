"""Devices that a test runs on: the CPU everywhere, and a GPU where there is one (`-m gpu`)."""

import pytest
import torch

GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
on_each_device = pytest.mark.parametrize("device", ["cpu", GPU])
