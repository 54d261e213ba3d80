"""Release of an encoder, index and generator that belong together: binds them, and makes them what serves."""

import time
from datetime import UTC, datetime

from gatefold.config import Settings
from gatefold.errors import BundleNotFound, WrongModel
from gatefold.progress import OnProgress, silent
from gatefold.storage import leases, objects
from gatefold.storage.bundles import Bundle, open_bundle
from gatefold.storage.contents import releases
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.workspace import Workspace
from pipelines.report import Report, write_report
from pipelines.versions import versions_of

STAGE = "release"


def publish_release(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """The release of these settings and this catalogue, active from now on.

    Raises: BundleNotFound for a stage that has not run; WrongModel when the bundles were not made of each other;
    RunInProgress.
    """
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    on_progress(0, 1)
    encoder = open_bundle(objects.join(workspace.encoders, versions.encoder), "encoder")
    index = open_bundle(objects.join(workspace.indexes, versions.index), "index")
    generator = open_bundle(objects.join(workspace.generators, versions.generator), "generator")
    check_lineage(encoder, index, generator)
    published = False
    if not _serves(workspace, versions.release):
        with leases.hold(workspace.lease(STAGE)) as lease:
            published = _publish(workspace, versions.release, encoder, index, generator)
            lease.check()
            releases.activate(workspace, versions.release)
    on_progress(1, 1)
    details = {"version": versions.release, "covers": int(str(index.details["covers"]))}
    report = Report(
        stage=STAGE,
        done=int(published),
        skipped=int(not published),
        rejected=0,
        seconds=time.monotonic() - began,
        details=details,
    )
    write_report(workspace, report)
    return report


def _serves(workspace: Workspace, version: str) -> bool:
    try:
        return releases.current(workspace).version == version
    except BundleNotFound:
        return False


def check_lineage(encoder: Bundle, index: Bundle, generator: Bundle) -> None:
    """An index and a generator go together when both were made of the encoder: a catalogue may grow under its models.

    Raises: WrongModel naming both fingerprints.
    """
    for made, of in ((index, encoder), (generator, encoder)):
        if made.lineage.get(of.kind) != of.fingerprint:
            raise WrongModel(
                f"{made.kind} '{made.version}' was made of {of.kind} '{made.lineage.get(of.kind)}', "
                f"but this release would hold '{of.fingerprint}'; make the {made.kind} anew"
            )


def _publish(workspace: Workspace, version: str, encoder: Bundle, index: Bundle, generator: Bundle) -> bool:
    """Whether this call made the release; one that stands is left as it is."""
    try:
        releases.get(workspace, version)
    except BundleNotFound:
        encoder_part, index_part, generator_part = (_part(workspace, bundle) for bundle in (encoder, index, generator))
        release = Release(
            version=version,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            encoder=encoder_part,
            index=index_part,
            generator=generator_part,
        )
        releases.publish(workspace, release)
        return True
    return False


def _part(workspace: Workspace, bundle: Bundle) -> ReleasePart:
    uri = objects.relative(bundle.uri, workspace.uri)
    return ReleasePart(uri=uri, version=bundle.version, fingerprint=bundle.fingerprint)
