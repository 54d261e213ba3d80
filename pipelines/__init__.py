"""Batch: one public verb a file. Imports `gatefold` first, for its torchaudio guard."""

import gatefold  # noqa: F401
