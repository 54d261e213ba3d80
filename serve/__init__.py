"""Online: the deployments and the page. Imports `gatefold` first, for its torchaudio guard."""

import gatefold  # noqa: F401
