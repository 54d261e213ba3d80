"""Covers of synthetic tracks, for tests of what looks at pictures."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gatefold.config import SynthesisSettings
from gatefold.synthetic.catalogue import compose_catalogue
from gatefold.synthetic.drawing import draw_cover


@lru_cache(maxsize=4)
def drawn_covers(count: int, size: int) -> npt.NDArray[np.uint8]:
    """uint8 [count, 3, size, size], of as many tracks."""
    tracks = list(compose_catalogue(SynthesisSettings(songs=count, artists=max(1, count // 3))))
    return np.stack([draw_cover(track, size).transpose(2, 0, 1) for track in tracks])
