"""Versions of models, indexes and releases: a digest of all that goes into each.

The same catalogue and settings give the same version: `run` knows what is stale, and a killed stage finds its traces.
Where the models are kept, the active release says which they are, and only what follows from them is new.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from gatefold.config import Settings
from gatefold.errors import InvalidSettings, Unavailable
from gatefold.storage import objects, tables
from gatefold.storage.bundles import open_bundle
from gatefold.storage.contents import catalogues, optouts, releases
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.releases import Release
from gatefold.storage.models.pretrained_towers import by_content
from gatefold.workspace import Workspace

_EVALUATION_EDITION = "4"  # raise it when the same release would be measured otherwise, or reported in another shape


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

    Raises: StageMissing when there is no catalogue yet; InvalidSettings for a backbone that is not where it should be,
    and for models to be reused that have other audio or cover settings; BundleNotFound when there are none to be kept.
    """
    catalogue = catalogues.required(workspace)
    kept = _kept(settings, workspace) if settings.train.reuse_models else None
    encoder = kept.encoder.version if kept else _encoder_of(settings, catalogue)
    embedded = [objects.name(part) for part in tables.parts(workspace.embeddings(encoder))]  # more, after a retry
    left_out = optouts.indexed_digests(workspace) if withdrawn is None else withdrawn
    index = _digest(catalogue.fingerprint, encoder, settings.index.fingerprint(), *embedded, *left_out)
    generator = kept.generator.version if kept else _digest(index, *_generator_of(settings))
    return Versions(catalogue.fingerprint, encoder, index, generator, _digest(encoder, index, generator))


def check_unchanged(settings: Settings, workspace: Workspace, versions: Versions) -> None:
    """To be called after the catalogue or the embeddings were read that the versions were computed from.

    Raises: Unavailable when they are others by now: what is made of them would bear the name of something else.
    """
    if versions_of(settings, workspace) != versions:
        raise Unavailable(
            f"the catalogue or the embeddings of '{workspace.uri}' changed while they were read, so nothing is "
            "published; let the other run end, and run this again"
        )


def _generator_of(settings: Settings) -> tuple[str, ...]:
    """What a generator is made of beside the index: the settings of its own kind, and a checkpoint by its content."""
    generator = settings.generator
    shared = json.dumps([generator.kind, generator.size, generator.sources, generator.seed], sort_keys=True)
    if generator.kind == "transformer":
        return shared, generator.transformer.fingerprint()
    analytic = (generator.local_score.fingerprint(), str(settings.originality.max_share))
    if generator.kind == "diffusers":
        from gatefold.storage.models.pretrained_generators import by_content as pretrained_by_content

        return shared, *analytic, pretrained_by_content(generator.diffusers).fingerprint()
    return shared, *analytic


def _encoder_of(settings: Settings, catalogue: Catalogue) -> str:
    sections = (settings.audio, settings.cover, by_content(settings.encoder))
    return _digest(catalogue.fingerprint, *(section.fingerprint() for section in sections))


def _kept(settings: Settings, workspace: Workspace) -> Release:
    """The active release, whose models go on."""
    release = releases.current(workspace)
    encoder = open_bundle(objects.join(workspace.encoders, release.encoder.version), "encoder")
    for name, present in (("audio", settings.audio), ("cover", settings.cover)):
        if encoder.lineage.get(name) != present.fingerprint():
            raise InvalidSettings(
                f"train.reuse_models: encoder '{encoder.version}' was trained with other settings of '{name}'; go back "
                "to those, or train anew"
            )
    return release


def evaluation_of(settings: Settings, versions: Versions) -> dict[str, str]:
    """What a report of the evaluation says it was made of; one that says otherwise is stale."""
    return {
        "release": versions.release,
        "settings": settings.evaluation.fingerprint(),
        "edition": _EVALUATION_EDITION,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
