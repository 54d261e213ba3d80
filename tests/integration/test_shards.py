"""An index in shards, as the cluster builds it and as the endpoint serves it, against one that is whole."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import ray

from gatefold.config import GeneratorSettings, IndexSettings, ServeSettings, Settings
from gatefold.errors import InvalidSettings, UnknownTrack
from gatefold.index.interface import Filters
from gatefold.index.retrieval import CoverIndex
from gatefold.records import TRACKS, Match, embedding_schema
from gatefold.storage import bundles, objects, tables
from gatefold.storage.bundles import Bundle
from gatefold.storage.contents import catalogues, releases
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.storage.models.encoders import load_encoder, publish_encoder
from gatefold.storage.models.indexes import load_index, shards_of, stats_of
from gatefold.workspace import Workspace
from pipelines import index, index_access
from pipelines.index import build_index
from pipelines.index_access import RemoteIndex, open_index
from pipelines.versions import versions_of
from serve.deploy import deploy, stop
from tests.factories import COVER, ENCODER, publish_small_release, unit_vectors
from tests.sounds import AUDIO

ROOT = Path(__file__).parents[2]
MINUTES = pytest.mark.chaos
"""of what `make test` has no time for"""
COUNT = 41
JAZZ = Filters(where=(("genre", frozenset({"jazz"})),))
LESS = replace(JAZZ, exclude_artists=frozenset({"artist 3"}))
SETTINGS = Settings(audio=AUDIO,
        cover=COVER,
        generator=GeneratorSettings(size=COVER.size),
        encoder=ENCODER, index=IndexSettings(covers_per_shard=15))


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
    assert (stats_of(sharded).vectors, stats_of(sharded).recall_at_100) == (whole.ntotal, 1.0)
    parts = [tables.read_part(sharded.uri_of(f"{shard.folder}tracks.parquet")) for shard in shards]
    assert [part["song_id"][0].as_py() for part in parts[1:]] == [shard.first_song_id for shard in shards[1:]]
    assert pa.concat_tables(parts)["song_id"].to_pylist() == sorted(f"s{row}" for row in range(COUNT))


def test_shards_in_one_process_find_what_the_whole_finds(sharded: Bundle, whole: CoverIndex) -> None:
    loaded = load_index(sharded.uri)
    queries = unit_vectors(30, ENCODER.embed_dim, seed=9)
    for kept in (Filters(), JAZZ, Filters(frozenset({"s1"}), frozenset({"artist 3"}))):
        found, expected = (
            one.search(queries, 20, encoder_fingerprint=one.encoder_fingerprint, filters=kept)
            for one in (loaded, whole)
        )
        assert scores_of(found) == scores_of(expected)


@pytest.mark.usefixtures("sharded")
def test_where_a_shard_cannot_be_built_its_own_error_arrives_and_nothing_is_published(workspace: Workspace) -> None:
    wanted = IndexSettings(covers_per_shard=15, kind="ivfpq")
    with pytest.raises(InvalidSettings, match="learns its codes from at least 256 vectors; there are 1"):
        build_index(SETTINGS.model_copy(update={"index": wanted}), workspace)
    assert len(bundles.list_bundles(workspace.indexes)) == 2


def test_a_large_index_is_built_and_searched_elsewhere_than_in_the_driver(
    workspace: Workspace, whole: CoverIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((index_access, "load_index"), (index, "indexed_tracks")):
        monkeypatch.setattr(module, "SONGS_IN_PROCESS", COUNT - 1)
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("the driver holds the index"))
    report = build_index(SETTINGS.model_copy(update={"index": IndexSettings(recall=0.9)}), workspace)
    assert (report.done, report.details["shards"], report.details["covers"]) == (1, 1, COUNT)
    remote = open_index(f"{workspace.indexes}/{report.details['version']}")
    assert isinstance(remote, RemoteIndex)
    queries = unit_vectors(3, ENCODER.embed_dim, seed=9)
    found, expected = (
        one.search(queries, 20, encoder_fingerprint=one.encoder_fingerprint, filters=JAZZ) for one in (remote, whole)
    )
    assert scores_of(found) == scores_of(expected)
    assert remote.get("s7").track == whole.get("s7").track
    for name in ("song_embeddings", "cover_embeddings"):
        assert np.array_equal(getattr(remote, name)(["s7", "s3"]), getattr(whole, name)(["s7", "s3"]))
    assert np.array_equal(remote.song_embedding("s7"), whole.song_embedding("s7"))
    with pytest.raises(UnknownTrack, match="'zebra' is not in this index"):
        remote.get("zebra")


@pytest.fixture(scope="module")
def endpoint(workspace: Workspace, sharded: Bundle) -> Iterator[httpx.Client]:
    first = releases.get(workspace, "r1")
    uri = objects.relative(sharded.uri, workspace.uri)
    part = ReleasePart(uri=uri, version=sharded.version, fingerprint=sharded.fingerprint)
    second = Release(
        version="r2", created_at=first.created_at, encoder=first.encoder, index=part, generator=first.generator
    )
    releases.publish(workspace, second)
    releases.activate(workspace, "r2")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = ROOT / "serve" / "serve.yaml"
    settings = Settings(serve=ServeSettings(k_max=50))
    served = deploy(config, workspace=workspace.uri, examples=None, host="127.0.0.1", port=port, settings=settings)
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http
    stop()


def searched(http: httpx.Client, song_id: str, **asked: Any) -> list[Match]:
    answer = http.post("/v1/searches", json={"song_id": song_id, **asked})
    assert answer.status_code == 200, answer.text
    return [Match.model_validate(match) for match in answer.json()["matches"]]


@MINUTES
@pytest.mark.parametrize("k", [1, 10, 50])
def test_served_shards_find_what_the_whole_finds(endpoint: httpx.Client, whole: CoverIndex, k: int) -> None:
    for row in range(COUNT):
        song = whole.get(f"s{row}").song_embedding
        assert song is not None
        for asked, kept in (({}, Filters()), ({"genres": ["jazz"], "exclude_artists": ["artist 3"]}, LESS)):
            expected = whole.search(song[None], k, encoder_fingerprint=whole.encoder_fingerprint, filters=kept)[0]
            assert searched(endpoint, f"s{row}", k=k, **asked) == expected


@MINUTES
def test_every_shard_knows_its_tracks(endpoint: httpx.Client, whole: CoverIndex) -> None:
    for row in range(COUNT):
        answer = endpoint.get(f"/v1/tracks/s{row}").json()
        assert answer["track"] == whole.get(f"s{row}").track.model_dump()
    assert endpoint.get("/v1/tracks/zebra").status_code == 404
    assert endpoint.get("/v1/releases/current").json()["covers"] == COUNT


@MINUTES
def test_new_covers_are_generated_from_neighbours_of_several_shards(endpoint: httpx.Client) -> None:
    job = endpoint.post("/v1/covers", json={"song_id": "s1", "n": 1, "size": 16}, headers={"Prefer": "wait=60"}).json()
    assert job["state"] == "succeeded", job


@MINUTES
def test_a_lost_shard_costs_time_and_no_search(endpoint: httpx.Client) -> None:
    before = searched(endpoint, "s7", k=30)
    replicas = [one for one in ray.util.list_named_actors(all_namespaces=True) if "#CoverShard1#" in one["name"]]
    ray.kill(ray.get_actor(replicas[0]["name"], namespace=replicas[0]["namespace"]))
    assert searched(endpoint, "s7", k=30) == before


def scores_of(found: list[list[Match]]) -> list[list[tuple[str, float]]]:
    return [[(match.track.song_id, match.score) for match in matches] for matches in found]
