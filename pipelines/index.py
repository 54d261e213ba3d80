"""The index of the catalogue's covers, as a bundle that also knows what each match is called."""

import time

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.config import Settings
from gatefold.errors import BundleNotFound, StageMissing
from gatefold.retrieval import METADATA, CoverIndex, unit_columns
from gatefold.storage import objects, optouts, tables
from gatefold.storage.bundles import open_bundle
from gatefold.storage.catalogues import read_tracks
from gatefold.storage.indexes import figures_of, publish_index
from gatefold.tuning import build_tuned
from gatefold.workspace import Workspace
from pipelines.report import OnProgress, Report, silent, write_report
from pipelines.versions import versions_of

STAGE = "index"


def build_index(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """An index bundle of the embeddings of this catalogue's encoder; nothing is done where it stands already."""
    began = time.monotonic()
    optouts.settle(workspace)
    versions = versions_of(settings, workspace)
    uri = objects.join(workspace.indexes, versions.index)
    on_progress(0, 1)
    try:
        bundle, made = open_bundle(uri, "index"), False
    except BundleNotFound:
        encoder = open_bundle(objects.join(workspace.encoders, versions.encoder), "encoder")
        tracks = indexed_tracks(workspace, versions.encoder)
        covers, songs = unit_columns(tracks)
        if not len(covers):
            raise StageMissing("no song has a cover; nothing can be retrieved: see `gatefold rejects list`") from None
        built = build_tuned(covers, songs, settings.index)
        index = CoverIndex(tracks, encoder.fingerprint, built.vectors)
        lineage = {"encoder": encoder.fingerprint}
        bundle = publish_index(uri, index, tracks, built.figures, version=versions.index, lineage=lineage)
        made = True
    on_progress(1, 1)
    report = Report(
        stage=STAGE,
        done=int(made),
        skipped=int(not made),
        rejected=0,
        seconds=time.monotonic() - began,
        details={
            "version": bundle.version,
            "fingerprint": bundle.fingerprint,
            "covers": int(str(bundle.details["covers"])),
            **figures_of(bundle).model_dump(),
        },
    )
    write_report(workspace, report)
    return report


def indexed_tracks(workspace: Workspace, encoder_version: str) -> pa.Table:
    """METADATA, song_embedding and cover_embedding of the present catalogue's tracks that have either, by song_id.

    Songs that were withdrawn are left out.
    """
    tracks = read_tracks(workspace, list(METADATA))
    withdrawn = pa.array(optouts.song_ids(workspace), pa.string())
    tracks = tracks.filter(pc.invert(pc.is_in(tracks["song_id"], value_set=withdrawn)))
    embedded = tables.read_table(workspace.embeddings(encoder_version), stage="embed")
    present = tracks.filter(pc.is_in(tracks["song_id"], value_set=embedded["song_id"].combine_chunks())).sort_by(
        "song_id"
    )
    places = pc.index_in(present["song_id"], value_set=embedded["song_id"].combine_chunks())
    rows = embedded.combine_chunks().take(places.combine_chunks())
    for side in ("song_embedding", "cover_embedding"):
        present = present.append_column(side, rows[side])
    return present
