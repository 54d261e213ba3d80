"""Bundles of every kind, each file of theirs damaged in every way: refused by name by every loader."""

from collections.abc import Callable

import pytest

from gatefold.config import IndexSettings
from gatefold.errors import BundleCorrupt, BundleNotFound
from gatefold.index.retrieval import unit_columns
from gatefold.index.tuning import build_for, eval_queries_of, merge_shard_stats
from gatefold.storage import objects
from gatefold.storage.bundles import Bundle, open_bundle
from gatefold.storage.models.encoders import load_encoder
from gatefold.storage.models.generators import load_generator
from gatefold.storage.models.indexes import load_index, publish_shards, store_shard
from gatefold.workspace import Workspace
from tests.factories import indexed_tracks, publish_small_release, unit_vectors

LOADERS: dict[str, Callable[[str], object]] = {
    "encoder": load_encoder,
    "index": load_index,
    "generator": load_generator,
    "shards": load_index,
}
DAMAGES = {
    "flipped at the start": "was altered",
    "flipped in the middle": "was altered",
    "flipped at the end": "was altered",
    "cut short": r"has [\d,]+ bytes instead of",
    "emptied": "has 0 bytes instead of",
    "grown": r"has [\d,]+ bytes instead of",
    "missing": "is missing",
}


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def damage_to(uri: str, data: bytes, damage: str) -> None:
    made = {
        "flipped at the start": flipped(data, 0),
        "flipped in the middle": flipped(data, len(data) // 2),
        "flipped at the end": flipped(data, len(data) - 1),
        "cut short": data[: len(data) // 2],
        "emptied": b"",
        "grown": data + b"\0",
    }
    objects.put(uri, made[damage]) if damage in made else objects.delete(uri)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One of each kind, and an index of two shards."""
    workspace = Workspace(objects.resolve(str(tmp_path_factory.mktemp("workspace"))))
    release = publish_small_release(workspace)
    uris = {kind: f"{workspace.uri}/{getattr(release, kind).uri}" for kind in ("encoder", "index", "generator")}
    made = {kind: open_bundle(uri, kind) for kind, uri in uris.items()}
    return made | {"shards": two_shards(f"{workspace.uri}/indexes/shards")}


def two_shards(uri: str) -> Bundle:
    tracks = indexed_tracks(unit_vectors(40, 8))
    eval_queries = eval_queries_of(*unit_columns(tracks))
    parts = {"": tracks.slice(0, 20), "s27": tracks.slice(20)}
    built = [build_for(unit_columns(part)[0], eval_queries, IndexSettings()) for part in parts.values()]
    stored = [
        store_shard(uri, number, 2, first, parts[first], made)
        for number, (first, made) in enumerate(zip(parts, built, strict=True))
    ]
    stats = merge_shard_stats([(made.stats, made.results) for made in built], 0.9)
    return publish_shards(uri, stored, stats, encoder_fingerprint="encoder", version="i2", lineage={})


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", LOADERS)
def test_a_damaged_file_is_refused_by_its_name(bundles: dict[str, Bundle], kind: str, damage: str) -> None:
    bundle = bundles[kind]
    for name in bundle.files:
        uri = bundle.uri_of(name)
        whole = objects.read(uri)
        try:
            damage_to(uri, whole, damage)
            with pytest.raises(BundleCorrupt, match=f"file '{name}' {DAMAGES[damage]}.*publish it anew"):
                LOADERS[kind](bundle.uri)
        finally:
            objects.put(uri, whole)
    assert len(bundle.files) >= 2


@pytest.mark.parametrize("kind", LOADERS)
def test_a_manifest_that_differs_in_any_byte_is_refused_or_says_the_same(bundles: dict[str, Bundle], kind: str) -> None:
    bundle = bundles[kind]
    uri = f"{bundle.uri}/manifest.json"
    whole, refused = objects.read(uri), 0
    step = len(whole) // 40
    try:
        for place in range(0, len(whole), step):
            objects.put(uri, flipped(whole, place))
            try:
                assert open_bundle(bundle.uri, bundle.kind) == bundle
            except BundleCorrupt:
                refused += 1
        for end in range(1, len(whole), 10 * step):
            objects.put(uri, whole[:end])
            with pytest.raises(BundleCorrupt, match="its manifest cannot be read"):
                LOADERS[kind](bundle.uri)
        objects.delete(uri)
        with pytest.raises(BundleNotFound, match=f"no {bundle.kind} bundle at"):
            LOADERS[kind](bundle.uri)
    finally:
        objects.put(uri, whole)
    assert refused >= 36


def test_a_manifest_without_a_checksum_is_refused(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["index"]
    uri = f"{bundle.uri}/manifest.json"
    whole = objects.read(uri)
    line = next(line for line in whole.splitlines(keepends=True) if b'"checksum"' in line)
    try:
        objects.put(uri, whole.replace(line, b""))
        with pytest.raises(BundleCorrupt, match=r"'checksum'.*publish it anew"):
            open_bundle(bundle.uri, "index")
        objects.put(uri, whole.replace(b'"version": "i1"', b'"version": "i2"'))
        with pytest.raises(BundleCorrupt, match="its manifest was altered"):
            open_bundle(bundle.uri, "index")
    finally:
        objects.put(uri, whole)
