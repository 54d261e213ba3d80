"""The endpoint on Ray Serve: HTTP API and page, jobs, and the deployments of a release. Begin with `app`.

Imports `gatefold` first, for its torchaudio guard.
"""

import gatefold  # noqa: F401
