"""A picture to export, and something to sign it with."""

import numpy as np
import pytest
from PIL import Image

from gatefold.export.credentials import Signer
from tests.certificates import new_signer


@pytest.fixture(scope="session")
def certificates() -> tuple[Signer, str]:
    return new_signer()


@pytest.fixture(scope="session")
def signer(certificates: tuple[Signer, str]) -> Signer:
    """With a certificate that `root` vouches for."""
    return certificates[0]


@pytest.fixture(scope="session")
def root(certificates: tuple[Signer, str]) -> str:
    """PEM of the authority's certificate."""
    return certificates[1]


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """512 pixels a side: soft shapes with fine grain, as a generated cover has."""
    rng = np.random.default_rng(11)
    soft = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((512, 512), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (512, 512, 3))
    return Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))
