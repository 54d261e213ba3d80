"""Building of the FAISS index of the catalogue's covers, published as a bundle with the metadata of each match.

A large catalogue is cut into shards by the ids of its songs. Each is a task of its own: it reads its songs, builds and
tunes their vectors and stores both; only stats come back, and the whole is published last.
"""

import time
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from gatefold.config import IndexSettings, Settings
from gatefold.errors import StageMissing
from gatefold.index.retrieval import METADATA, CoverIndex, unit_columns
from gatefold.index.tuning import (
    QUERIES,
    EvalQueries,
    SearchResults,
    build_for,
    build_tuned,
    eval_queries_of,
    merge_shard_stats,
)
from gatefold.index.vectors import SEED
from gatefold.progress import OnProgress, silent
from gatefold.records import TRACKS
from gatefold.storage import leases, objects, tables
from gatefold.storage.bundles import Bundle, find_bundle, open_bundle
from gatefold.storage.contents import optouts
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.storage.leases import Lease
from gatefold.storage.models.indexes import (
    StoredShard,
    publish_index,
    publish_shards,
    shards_of,
    stats_of,
    store_shard,
)
from gatefold.storage.tables import EVERYTHING, Span
from gatefold.workspace import Workspace
from pipelines.index_access import SONGS_IN_PROCESS
from pipelines.report import Report, while_held, write_report
from pipelines.row_mapper import reraise_domain_errors
from pipelines.versions import Versions, check_unchanged, versions_of

STAGE = "index"
_SIDES = ("song_embedding", "cover_embedding")
_LABELS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
_NO_COVER = "no song has a cover; nothing can be retrieved: see `gatefold rejects list`"


def build_index(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """An index bundle of the embeddings of this catalogue's encoder; nothing is done where it stands already.

    Raises: RunInProgress while another process builds one.
    """
    began = time.monotonic()
    on_progress(0, 1)
    made = False
    bundle = _find(settings, workspace)
    if bundle is None:
        with leases.hold(workspace.lease(STAGE)) as lease:
            bundle, made = _build(settings, workspace, lease, on_progress)
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
            "shards": len(shards_of(bundle)),
            **stats_of(bundle).model_dump(),
        },
    )
    write_report(workspace, report)
    return report


def _find(settings: Settings, workspace: Workspace) -> Bundle | None:
    """The index of what is embedded and withdrawn by now, where it was the last one that was built."""
    withdrawn = optouts.digests(workspace)
    if withdrawn != optouts.indexed_digests(workspace):
        return None
    versions = versions_of(settings, workspace, withdrawn)
    return find_bundle(objects.join(workspace.indexes, versions.index), "index")


def _build(
    settings: Settings, workspace: Workspace, lease: Lease, on_progress: OnProgress
) -> tuple[Bundle, bool]:
    """The bundle, and whether it was made here."""
    optouts.record_indexed(workspace)
    versions = versions_of(settings, workspace)
    uri = objects.join(workspace.indexes, versions.index)
    if (bundle := find_bundle(uri, "index")) is not None:
        return bundle, False
    songs = embedded_ids(workspace, versions.encoder)
    spans = spans_of(songs, settings.index.covers_per_shard)
    if len(spans) == 1 and len(songs) <= SONGS_IN_PROCESS:  # more would take much of this process's memory
        publish = _build_whole(uri, settings.index, workspace, versions)
    else:
        stored = _build_shards(uri, settings.index, workspace, versions, spans, while_held(lease, on_progress))
        publish = partial(_publish, uri, settings.index, workspace, versions, stored)
    check_unchanged(settings, workspace, versions)
    lease.check()
    return publish(), True


def _build_whole(
    uri: str, settings: IndexSettings, workspace: Workspace, versions: Versions
) -> "partial[Bundle]":
    """What publishes the only shard, which is built."""
    encoder = open_bundle(objects.join(workspace.encoders, versions.encoder), "encoder")
    tracks = indexed_tracks(workspace, versions.encoder)
    covers, songs = unit_columns(tracks)
    if not len(covers):
        raise StageMissing(_NO_COVER)
    built = build_tuned(covers, songs, settings)
    index = CoverIndex(tracks, encoder.fingerprint, built.vectors)
    lineage = {"encoder": encoder.fingerprint}
    return partial(publish_index, uri, index, tracks, built.stats, version=versions.index, lineage=lineage)


def spans_of(present: pa.Array, songs_per_shard: int) -> list[Span]:
    """The song_ids of each shard: slices of about equal size of the tracks that have an embedding, in their order."""
    count = max(1, -(-len(present) // songs_per_shard))
    firsts = [present[len(present) * number // count].as_py() for number in range(1, count)]
    return list(zip(["", *firsts], [*firsts, None], strict=True))


def embedded_ids(workspace: Workspace, encoder_version: str) -> pa.Array:
    """song_ids of the present catalogue's tracks that have an embedding, sorted."""
    embedded = tables.song_ids(workspace.embeddings(encoder_version), stage="embed")
    known = read_tracks(workspace, ["song_id"])["song_id"]
    return known.filter(pc.is_in(known, value_set=embedded.combine_chunks())).sort().combine_chunks()


def _build_shards(
    uri: str,
    settings: IndexSettings,
    workspace: Workspace,
    versions: Versions,
    spans: list[Span],
    on_progress: OnProgress,
) -> list[tuple[StoredShard, SearchResults]]:
    """All shards, side by side on as many cores, measured with the same eval_queries."""
    eval_queries = _eval_queries(workspace, versions.encoder)
    task = ray.remote(_build_shard)
    with reraise_domain_errors():
        shards = [
            task.remote(uri, settings, workspace, versions.encoder, (number, len(spans)), span, eval_queries)
            for number, span in enumerate(spans)
        ]
        waiting = shards
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)  # raises as soon as one has failed
            on_progress(len(shards) - len(waiting), len(shards))
        return list(ray.get(shards))


def _build_shard(
    uri: str,
    settings: IndexSettings,
    workspace: Workspace,
    encoder_version: str,
    which: tuple[int, int],
    span: Span,
    eval_queries: EvalQueries,
) -> tuple[StoredShard, SearchResults]:
    tracks = indexed_tracks(workspace, encoder_version, span)
    built = build_for(unit_columns(tracks)[0], eval_queries, settings)
    return store_shard(uri, *which, span[0], tracks, built), built.results


def _eval_queries(workspace: Workspace, encoder_version: str) -> EvalQueries:
    """Made of a few of the songs, which any shard may hold."""
    present = embedded_ids(workspace, encoder_version)
    chosen = np.random.default_rng(SEED).choice(len(present), min(4 * QUERIES, len(present)), replace=False)
    song_ids = present.take(pa.array(chosen)).to_pylist()
    rows = tables.read_rows(workspace.embeddings(encoder_version), song_ids, ["song_id", *_SIDES])
    return eval_queries_of(*unit_columns(rows.sort_by("song_id")))


def _publish(
    uri: str,
    settings: IndexSettings,
    workspace: Workspace,
    versions: Versions,
    stored: list[tuple[StoredShard, SearchResults]],
) -> Bundle:
    """Raises: RecallTooLow where the shards find too little together."""
    shards = [(part.shard.stats, results) for part, results in stored]
    if not any(stats.vectors for stats, _ in shards):
        raise StageMissing(_NO_COVER)
    encoder = open_bundle(objects.join(workspace.encoders, versions.encoder), "encoder").fingerprint
    return publish_shards(
        uri,
        [part for part, _ in stored],
        merge_shard_stats(shards, settings.recall),
        encoder_fingerprint=encoder,
        version=versions.index,
        lineage={"encoder": encoder},
    )


def indexed_tracks(workspace: Workspace, encoder_version: str, within: Span = EVERYTHING) -> pa.Table:
    """METADATA, what the manifest carried that can be written as text, song_embedding and cover_embedding of the
    present catalogue's tracks that have either, by song_id.

    Songs that were withdrawn are left out.
    """
    tracks = _with_text_columns(read_tracks(workspace, within=within))
    withdrawn = pa.array(optouts.song_ids(workspace), pa.string())
    tracks = tracks.filter(pc.invert(pc.is_in(tracks["song_id"], value_set=withdrawn)))
    columns = ["song_id", *_SIDES]
    embedded = tables.read_table(workspace.embeddings(encoder_version), columns, stage="embed", within=within)
    present = tracks.filter(pc.is_in(tracks["song_id"], value_set=embedded["song_id"].combine_chunks())).sort_by(
        "song_id"
    )
    places = pc.index_in(present["song_id"], value_set=embedded["song_id"].combine_chunks())
    rows = embedded.combine_chunks().take(places.combine_chunks())
    for side in _SIDES:
        present = present.append_column(side, rows[side])
    return present


def _with_text_columns(tracks: pa.Table) -> pa.Table:
    """METADATA, and as text the texts, whole numbers and truth values that the manifest carried beyond the catalogue's
    own columns."""
    carried = [field for field in tracks.schema if field.name not in (*TRACKS.names, *_SIDES)]
    labels = [field.name for field in carried if any(is_kind(field.type) for is_kind in _LABELS)]
    return pa.table(
        {
            **{name: tracks[name] for name in METADATA},
            **{name: tracks[name].cast(pa.string()) for name in labels},
        }
    )
