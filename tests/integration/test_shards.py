"""An index in shards, as the cluster builds it, against one that is whole."""

import numpy as np
import pyarrow as pa
import pytest

from gatefold.config import IndexSettings, Settings
from gatefold.errors import InvalidSettings
from gatefold.records import TRACKS, Match, embedding_schema
from gatefold.retrieval import CoverIndex
from gatefold.storage import bundles, catalogues, releases, tables
from gatefold.storage.bundles import Bundle
from gatefold.storage.catalogues import Catalogue
from gatefold.storage.encoders import load_encoder, publish_encoder
from gatefold.storage.indexes import figures_of, load_index, shards_of
from gatefold.workspace import Workspace
from pipelines.index import build_index
from pipelines.versions import versions_of
from tests.factories import COVER, ENCODER, publish_small_release, unit_vectors
from tests.sounds import AUDIO

COUNT = 41
SETTINGS = Settings(audio=AUDIO, cover=COVER, encoder=ENCODER, index=IndexSettings(covers_per_shard=15))


@pytest.fixture(scope="module")
def workspace(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:  # noqa: ARG001
    """With a release, and the catalogue and embeddings that its index can be made of."""
    made = Workspace((tmp_path_factory.mktemp("shards") / "workspace").as_uri())
    release = publish_small_release(made, COUNT)
    table = tables.read_table(f"{made.uri}/{release.index.uri}")
    chosen = np.random.default_rng(0).permutation(COUNT)
    rows = [{**row, "audio_uri": "file:///x", "split": "test"} for row in table.take(pa.array(chosen)).to_pylist()]
    tracks = pa.Table.from_pylist([{name: row.get(name) for name in TRACKS.names} for row in rows], TRACKS)
    catalogues.replace(made, Catalogue("c1", COUNT, "file:///m.csv"), tracks, 100)
    version = versions_of(SETTINGS, made).encoder
    encoder = load_encoder(f"{made.uri}/{release.encoder.uri}")
    publish_encoder(f"{made.encoders}/{version}", encoder, version=version, lineage={}, details={})
    schema = embedding_schema(ENCODER.embed_dim)
    embedded = [{name: row.get(name) for name in schema.names} for row in rows]
    for number in range(2):
        tables.write_part(made.embeddings(version), f"{number}", pa.Table.from_pylist(embedded[number::2], schema))
    return made


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> CoverIndex:
    return load_index(f"{workspace.uri}/{releases.get(workspace, 'r1').index.uri}")


@pytest.fixture(scope="module")
def sharded(workspace: Workspace) -> Bundle:
    report = build_index(SETTINGS, workspace)
    assert (report.done, report.details["shards"], report.details["covers"]) == (1, 3, COUNT)
    assert build_index(SETTINGS, workspace).skipped == 1
    return bundles.open_bundle(f"{workspace.indexes}/{report.details['version']}", "index")


def test_shards_hold_every_track_once_in_the_order_of_their_ids(sharded: Bundle, whole: CoverIndex) -> None:
    shards = shards_of(sharded)
    assert sorted(shard.tracks for shard in shards) == [13, 14, 14]
    assert shards[0].first_song_id == ""
    assert (figures_of(sharded).vectors, figures_of(sharded).recall_at_100) == (whole.ntotal, 1.0)
    parts = [tables.read_table(f"{sharded.uri}/{shard.folder}".rstrip("/")) for shard in shards]
    assert [part["song_id"][0].as_py() for part in parts[1:]] == [shard.first_song_id for shard in shards[1:]]
    assert pa.concat_tables(parts)["song_id"].to_pylist() == sorted(f"s{row}" for row in range(COUNT))


def test_shards_in_one_process_find_what_the_whole_finds(sharded: Bundle, whole: CoverIndex) -> None:
    index = load_index(sharded.uri)
    queries = unit_vectors(30, ENCODER.embed_dim, seed=9)
    for kept in ({}, {"genres": ["jazz"]}, {"exclude_artists": ["artist 3"], "exclude_song_ids": ["s1"]}):
        found, expected = (one.search(queries, 20, encoder_fingerprint=one.encoder_fingerprint, **kept) for one in
                           (index, whole))
        assert told(found) == told(expected)


@pytest.mark.usefixtures("sharded")
def test_where_a_shard_cannot_be_built_its_own_error_arrives_and_nothing_is_published(workspace: Workspace) -> None:
    wanted = IndexSettings(covers_per_shard=15, kind="ivfpq")
    with pytest.raises(InvalidSettings, match="learns its codes from at least 256 vectors; there are 1"):
        build_index(SETTINGS.model_copy(update={"index": wanted}), workspace)
    assert len(bundles.list_bundles(workspace.indexes)) == 2


def told(found: list[list[Match]]) -> list[list[tuple[str, float]]]:
    return [[(match.track.song_id, match.score) for match in matches] for matches in found]
