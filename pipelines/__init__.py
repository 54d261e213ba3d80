"""Batch on Ray Data and Ray Train: a folder for each group of stages, and what they share. Begin with `run`.

Imports `gatefold` first, for its torchaudio guard.
"""

import gatefold  # noqa: F401
