"""The stage that makes a generator bundle for the workspace's index, whatever kind of generator is asked for."""

import time
from typing import Any

from diffusers import DiffusionPipeline

from gatefold.config import Settings
from gatefold.progress import OnProgress, silent
from gatefold.storage import leases, objects
from gatefold.storage.bundles import Bundle, find_bundle, open_bundle
from gatefold.storage.leases import Lease
from gatefold.storage.models.generators import publish_generator
from gatefold.workspace import Workspace
from pipelines.report import Report, while_held, write_report
from pipelines.versions import Versions, versions_of

STAGE = "train-generator"


def train_generator(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """A generator bundle for the workspace's present index; nothing is done where it stands already.

    Raises: RunInProgress where another process makes it.
    """
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    made = False
    bundle = find_bundle(objects.join(workspace.generators, versions.generator), "generator")
    if bundle is None:
        with leases.hold(workspace.bundle_lease("generator", versions.generator)) as lease:
            bundle, made = _make(settings, workspace, versions, lease, on_progress)
    known: Any = bundle.details
    report = Report(
        stage=STAGE,
        done=int(known.get("covers", 1)) if made else 0,
        skipped=int(not made),
        rejected=0,
        seconds=time.monotonic() - began,
        details={"version": bundle.version, "fingerprint": bundle.fingerprint, **known},
    )
    write_report(workspace, report)
    return report


def _make(
    settings: Settings, workspace: Workspace, versions: Versions, lease: Lease, on_progress: OnProgress
) -> tuple[Bundle, bool]:
    """The bundle, and whether it was made here: not where the run before has published it meanwhile."""
    uri = objects.join(workspace.generators, versions.generator)
    if (bundle := find_bundle(uri, "generator")) is not None:
        return bundle, False
    index = open_bundle(objects.join(workspace.indexes, versions.index), "index")
    pipeline, details = _made(settings, workspace, versions, lease, on_progress)
    lease.check()
    bundle = publish_generator(
        uri,
        pipeline,
        version=versions.generator,
        lineage={"index": index.fingerprint, **index.lineage},
        details=details,
        cover=settings.stored_cover,
        sources=settings.generator.sources,
        pretrained=settings.generator.diffusers if settings.generator.kind == "diffusers" else None,
    )
    return bundle, True


def _made(
    settings: Settings, workspace: Workspace, versions: Versions, lease: Lease, on_progress: OnProgress
) -> tuple[DiffusionPipeline, dict[str, object]]:
    if settings.generator.kind == "transformer":
        from pipelines.training.train_transformer import train_transformer

        return train_transformer(settings, workspace, versions, lease, on_progress)
    from pipelines.training.calibration import calibrate

    return calibrate(settings, workspace, versions, while_held(lease, on_progress))
