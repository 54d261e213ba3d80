"""One command for each figure of the README."""

import gatefold  # noqa: F401  what it guards against must be in place before a benchmark imports torchaudio
