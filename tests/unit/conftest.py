"""Unit tests compute on one thread: what they compute is small, and waking another takes longer than the work."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
