"""A store that misbehaves at one request in five: whatever it does, nothing is lost, doubled or half."""

import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gatefold.errors import ObjectChanged, ObjectNotFound, StorageDenied, StorageUnavailable
from gatefold.storage import objects, s3, s3_client, tables
from gatefold.storage.uris import Piece
from tests.faults import BEFORE, KINDS, FaultyStore


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bucket, for a test that cannot wait until a body counts as stuck, nor as long as one does between tries."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 10))
    monkeypatch.setattr("gatefold.storage.s3_client._SILENCE_S", 0.5)
    monkeypatch.setattr("gatefold.storage.s3._BODY_S", 0.3)
    monkeypatch.setattr("gatefold.storage.s3._BODY_BYTES_PER_S", 1_000_000)
    return s3


@pytest.fixture
def folder(bucket: str, request: pytest.FixtureRequest) -> str:
    return f"{bucket}/{request.node.name}"


@pytest.fixture
def store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """What stands between the tests and the bucket; it does no harm until its `share` is set."""
    assert bucket
    with FaultyStore(os.environ["AWS_ENDPOINT_URL"], share=0.0, stall_s=0.8) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


def all_of(calls: Sequence[Callable[[], object]]) -> list[object]:
    with ThreadPoolExecutor(16) as pool:
        return [made.result() for made in [pool.submit(call) for call in calls]]


def songs(folder: str, count: int) -> dict[str, bytes]:
    random = np.random.default_rng(count)
    return {f"{folder}/{number:03}": random.bytes(int(random.integers(1, 20_000))) for number in range(count)}


def part(number: int) -> pa.Table:
    """Larger than what opening it fetches."""
    ids = [f"song {number:02}-{row}" for row in range(12_000)]
    return pa.table({"song_id": ids, "noise": np.random.default_rng(number).random(12_000)})


def put_list_and_read(folder: str, count: int) -> None:
    stored = songs(folder, count)
    all_of([partial(objects.put, uri, data) for uri, data in stored.items()])
    found = {info.uri: info for info in objects.list_objects(folder)}
    assert {uri: info.size_bytes for uri, info in found.items()} == {uri: len(data) for uri, data in stored.items()}
    assert all_of([partial(objects.read, uri) for uri in stored]) == list(stored.values())

    def in_ranges(uri: str) -> tuple[str, int, str | None, bytes]:
        source = objects.open_source(uri, first_bytes=1000)
        data = source.read_at(0, 500) + source.read_at(500, 7000) + source.read_at(7500, 100_000)
        assert source.bytes_read == source.size
        return uri, source.size, source.etag, data

    expected = [(uri, len(data), found[uri].etag, data) for uri, data in stored.items()]
    assert all_of([partial(in_ranges, uri) for uri in stored]) == expected


def race_for(folder: str, prizes: int) -> None:
    """Three writers each: one wins, and what it wrote stands."""
    uris = [f"{folder}/{number}" for number in range(prizes)]
    writes = [(uri, f"{writer} of {uri}".encode()) for uri in uris for writer in range(3)]
    won = all_of([partial(objects.put_if_absent, uri, data) for uri, data in writes])
    winners = {uri: data for (uri, data), winner in zip(writes, won, strict=True) if winner}
    assert won.count(True) == prizes
    assert all_of([partial(objects.read, uri) for uri in uris]) == [winners[uri] for uri in uris]


def write_and_read_tables(folder: str, count: int) -> None:
    written = [part(number) for number in range(count)]
    all_of([partial(tables.write_part, folder, f"{n:02}", table) for n, table in enumerate(written)])
    assert tables.read_table(folder).equals(pa.concat_tables(written))
    assert tables.read_table(folder, ["song_id"]).equals(pa.concat_tables(written).select(["song_id"]))
    wanted = [f"song {number:02}-{number}" for number in range(count)]
    assert sorted(tables.read_rows(folder, wanted, ["song_id", "noise"])["song_id"].to_pylist()) == wanted


def exercise(folder: str, count: int) -> None:
    put_list_and_read(f"{folder}/songs", count)
    race_for(f"{folder}/prizes", 25)
    write_and_read_tables(f"{folder}/table", count // 10)
    objects.delete_tree(f"{folder}/songs")
    assert list(objects.list_folder(f"{folder}/songs")) == []
    assert len(list(objects.list_folder(f"{folder}/prizes"))) == 25


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_fault_loses_nothing(folder: str, store: FaultyStore, kind: str) -> None:
    store.share, store.kinds = 0.2, (kind,)
    exercise(folder, 25)
    assert set(store.injected) == {kind}
    assert store.injected[kind] >= 5


def test_all_kinds_of_faults_together_lose_nothing(folder: str, store: FaultyStore) -> None:
    store.share = 0.2
    exercise(folder, 200)
    assert set(store.injected) == set(KINDS)
    assert store.injected.total() > 0.1 * store.requests


@pytest.mark.parametrize("kind", ["stalled_body", "crawling_body"])
def test_no_body_holds_its_reader_for_long(
    folder: str, store: FaultyStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_PATIENCE_S", 1.0)
    objects.put(f"{folder}/song", b"x" * 100_000)
    store.share, store.kinds, store.stall_s = 1.0, (kind,), 60.0
    begun = time.monotonic()
    for call in (objects.read, objects.open_source):
        with pytest.raises(StorageUnavailable, match=r"/song': .*(Read timed out|bytes came in)"):
            call(f"{folder}/song")
    assert time.monotonic() - begun < 20
    store.share = 0.0
    assert objects.read(f"{folder}/song") == b"x" * 100_000


@pytest.mark.parametrize("denial", [(400, "ExpiredToken"), (403, "AccessDenied")])
def test_credentials_that_expire_stop_the_work_at_once(
    folder: str, store: FaultyStore, denial: tuple[int, str]
) -> None:
    uri = f"{folder}/song"
    objects.put(uri, b"x" * 100_000)
    tables.write_part(folder, "part", part(0))
    source = objects.open_source(uri)
    store.denied_from, store.denial = 0, denial
    before = store.requests
    for call in (
        lambda: objects.stat(uri),
        lambda: objects.read(uri),
        lambda: source.read_at(70_000, 10),
        lambda: list(objects.list_objects(folder)),
        lambda: objects.put(uri, b""),
        lambda: objects.put_if_absent(uri, b""),
        lambda: tables.read_part(f"{folder}/part.parquet", ["noise"]),
    ):
        with pytest.raises(StorageDenied, match="AWS_SESSION_TOKEN"):
            call()
    assert store.requests - before <= 2 * 7  # the SDK may ask whether the bucket has moved, and repeats nothing


def test_an_error_in_the_middle_of_a_part_is_reported_as_what_it_is(folder: str, store: FaultyStore) -> None:
    uri = tables.write_part(folder, "part", part(0))
    calls: list[tuple[Callable[[], object], int]] = [
        (lambda: tables.read_part(uri, ["noise"]), 1),
        (lambda: tables.read_part(uri, ["noise"]), 2),
        (lambda: tables.read_rows(folder, ["song 00-7"], ["song_id", "noise"]), 2),
        (lambda: tables.read_rows(folder, ["song 00-7"], ["song_id", "noise"]), 3),
    ]
    for call, before in calls:
        store.denied_from = store.requests + before
        with pytest.raises(StorageDenied, match=r"part\.parquet"):
            call()


def test_a_store_that_is_not_there_is_unavailable_within_a_bounded_time(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_PATIENCE_S", 2.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable, match=f"{bucket}/song"):
            objects.read(f"{bucket}/song")
    assert time.monotonic() - begun < 15


def test_an_object_deleted_in_between_is_not_found(folder: str, store: FaultyStore) -> None:
    for name in ("whole", "ranges"):
        objects.put(f"{folder}/{name}", b"x" * 100_000)
    listed = {objects.name(info.uri) for info in objects.list_objects(folder)}
    source = objects.open_source(f"{folder}/ranges")
    store.missing = {f"{folder}/{name}".removeprefix("s3://") for name in listed}
    calls: list[Callable[[], object]] = [lambda: objects.read(f"{folder}/whole"), lambda: source.read_at(70_000, 10)]
    for call in calls:
        with pytest.raises(ObjectNotFound, match=folder):
            call()


def test_an_object_replaced_in_the_middle_is_noticed_and_not_mixed(folder: str, store: FaultyStore) -> None:
    uri = f"{folder}/song"
    for data in (b"a" * 100_000, b"b" * 100_000, b"b"):
        objects.put(uri, b"x" * 100_000)
        source = objects.open_source(uri)
        objects.put(uri, data)
        assert source.read_at(0, 65_536) == b"x" * 65_536
        before = store.requests
        with pytest.raises(ObjectChanged, match="changed while it was read") as caught:
            source.read_at(60_000, 20_000)
        assert caught.value.retryable
        assert store.requests == before + 1


def test_an_empty_object_is_a_source_of_nothing(folder: str, store: FaultyStore) -> None:
    objects.put(f"{folder}/empty", b"")
    source = objects.open_source(f"{folder}/empty")
    assert (source.size, source.read_at(0, 10), source.bytes_read) == (0, b"", 0)
    assert store.requests == 2


def test_opening_a_source_takes_one_request_and_what_it_brought_is_not_fetched_again(
    folder: str, store: FaultyStore
) -> None:
    data = np.random.default_rng(0).bytes(200_000)
    objects.put(f"{folder}/song", data)
    source = objects.open_source(f"{folder}/song")
    assert (source.size, source.etag) == (200_000, next(objects.list_objects(folder)).etag)
    before = store.requests
    assert source.read_at(100, 65_000) == data[100:65_100]
    assert store.requests == before
    assert source.read_at(65_000, 1000) == data[65_000:66_000]
    assert source.read_at(199_990, 100) == data[-10:]
    assert source.read_at(200_000, 100) == b""
    assert (store.requests - before, source.bytes_read) == (2, objects.FIRST_BYTES + 464 + 10)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of a part, as few as a store allows; objects of several are then quick to make."""
    monkeypatch.setattr(s3, "_PART_BYTES", 5 << 20)
    return 5 << 20


def test_large_objects_go_up_and_come_down_in_parts(
    folder: str, store: FaultyStore, small_parts: int, tmp_path: Path
) -> None:
    data = np.random.default_rng(0).bytes(2 * small_parts + 1_000)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    puts: dict[str, Callable[[], None]] = {
        f"{folder}/whole": lambda: objects.put(f"{folder}/whole", data),
        f"{folder}/file": lambda: objects.put_file(f"{folder}/file", source),
    }
    for uri, put in puts.items():
        before = store.requests
        put()
        assert store.requests - before >= 1 + 3 + 1, "begun, three parts, put together"
        assert objects.stat(uri).size_bytes == len(data)
        assert str(objects.stat(uri).etag).endswith("-3")
        assert objects.read(uri) == data
        objects.fetch(uri, target)
        assert target.read_bytes() == data


def test_a_large_object_is_in_memory_once_and_in_a_file_not_at_all(
    request: pytest.FixtureRequest, small_parts: int, tmp_path: Path
) -> None:
    folder = f"{request.getfixturevalue('s3')}/memory"  # of a store that is waited for as long as it takes
    size, some = 12 * small_parts, 2 * s3._PARTS_AT_ONCE * small_parts  # parts in hand, as sent and as received
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    objects.put_file(f"{folder}/warm", tmp_path / "source")
    for call, limit in (
        (lambda: objects.put_file(f"{folder}/large", source), some),
        (lambda: objects.fetch(f"{folder}/large", tmp_path / "target"), some),
        (lambda: objects.read(f"{folder}/large"), size + some),
    ):
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit


def test_a_fault_in_the_middle_of_a_part_costs_that_part_alone(
    folder: str, store: FaultyStore, small_parts: int, tmp_path: Path
) -> None:
    data = np.random.default_rng(1).bytes(4 * small_parts)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    store.share = 0.3
    for kinds in (BEFORE, ("lost_answer",), ("reset_in_body", "truncated_body", "emptied_body")):
        store.kinds, uri = kinds, f"{folder}/{kinds[0]}"
        objects.put_file(uri, source)
        objects.fetch(uri, target)
        assert target.read_bytes() == data
        assert objects.read(uri) == data
    assert store.injected.total() >= 5


def test_an_upload_that_fails_leaves_neither_an_object_nor_parts(
    folder: str, store: FaultyStore, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, abort = f"{folder}/large", s3._abort
    bucket, _, key = uri.removeprefix("s3://").partition("/")

    def uploads() -> list[str]:
        found = s3_client.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [upload["Key"] for upload in found if upload["Key"] == key]

    def abort_where_it_is_allowed(uri: str, upload: dict[str, str]) -> None:
        store.denied_from = None
        assert uploads() == [key]
        abort(uri, upload)

    monkeypatch.setattr(s3, "_abort", abort_where_it_is_allowed)
    store.denied_from, store.denial = store.requests + 2, (403, "AccessDenied")
    with pytest.raises(StorageDenied, match="/large"):
        objects.put(uri, b"x" * (3 * small_parts))
    assert not objects.exists(uri)
    assert uploads() == []


def test_an_object_replaced_between_two_parts_is_not_mixed(
    folder: str, small_parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, read_piece = f"{folder}/large", s3.read_piece
    objects.put(uri, b"a" * (3 * small_parts))

    def replaced_first(uri: str, offset: int, length: int, etag: str | None) -> Piece:
        if offset == 0:
            objects.put(uri, b"b" * (3 * small_parts))
        return read_piece(uri, offset, length, etag)

    monkeypatch.setattr(s3, "read_piece", replaced_first)
    with pytest.raises(ObjectChanged):
        objects.fetch(uri, tmp_path / "target")


@pytest.mark.parametrize(("endpoint", "asked"), [(None, False), ("https://s3.eu-west-1.amazonaws.com", False),
                                                 ("https://storage.example.com", True)])  # fmt: skip
def test_stores_that_are_not_aws_are_sent_no_checksum_that_they_did_not_ask_for(
    endpoint: str | None, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        monkeypatch.delenv(name, raising=False)
    required = s3_client._checksums(endpoint)
    assert set(required.values()) == ({"when_required"} if asked else set())
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    assert "request_checksum_calculation" not in s3_client._checksums(endpoint)
