"""What a model, an index or a release will be called, before it is made: a digest of all that goes into it.

The same catalogue and settings give the same version: `run` knows what is stale, and a killed stage finds its traces.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gatefold.config import Settings
from gatefold.errors import StageMissing
from gatefold.storage import catalogues, objects, optouts, tables
from gatefold.storage.checkpoints import by_content
from gatefold.workspace import Workspace

_EVALUATION_EDITION = "2"  # raise it when the same release would be measured otherwise, or told of in another shape


@dataclass(frozen=True)
class Versions:
    """Of everything that these settings make of the workspace's present catalogue."""

    catalogue: str
    encoder: str
    index: str
    generator: str
    release: str


def versions_of(settings: Settings, workspace: Workspace, withdrawn: Sequence[str] | None = None) -> Versions:
    """Args:
        withdrawn: digests of the opt-outs that the index leaves out; those of the last one that was built when None.

    Raises: StageMissing when there is no catalogue yet; InvalidSettings for a backbone that is not where it should be.
    """
    catalogue = catalogues.current(workspace)
    if catalogue is None:
        raise StageMissing(f"'{workspace.uri}' has no catalogue; run `gatefold catalogue SOURCE` first")
    encoder = _digest(
        catalogue.fingerprint,
        settings.audio.fingerprint(),
        settings.cover.fingerprint(),
        by_content(settings.encoder).fingerprint(),
    )
    embedded = [objects.name(part) for part in tables.parts(workspace.embeddings(encoder))]  # more, after a retry
    left_out = optouts.settled(workspace) if withdrawn is None else withdrawn
    index = _digest(encoder, settings.index.fingerprint(), *embedded, *left_out)
    generator = _digest(index, settings.generator.fingerprint())
    return Versions(catalogue.fingerprint, encoder, index, generator, _digest(encoder, index, generator))


def evaluation_of(settings: Settings, versions: Versions) -> dict[str, str]:
    """What a report of the evaluation says it was made of; one that says otherwise is stale."""
    return {
        "release": versions.release,
        "settings": settings.evaluation.fingerprint(),
        "edition": _EVALUATION_EDITION,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
