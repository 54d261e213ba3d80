"""Object storage against a real S3 protocol: what a disk promises, S3 must keep too."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gatefold.errors import (
    BundleCorrupt,
    InputError,
    ObjectNotFound,
    StageMissing,
    StorageDenied,
    StorageUnavailable,
    TooLarge,
)
from gatefold.storage import bundles, objects, s3_client, tables


@pytest.fixture
def folder(s3: str, request: pytest.FixtureRequest) -> str:
    return f"{s3}/{request.node.name}"


class Faulty(ThreadingHTTPServer):
    """A store that answers every request with one fault."""

    def __init__(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    server = Faulty(*request.param)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_put_is_read_back(folder: str) -> None:
    uri = objects.join(folder, "odd name #1 %20 ü.bin")
    objects.put(uri, b"0123456789")
    assert objects.read(uri) == b"0123456789"
    info = objects.stat(uri)
    assert (info.size_bytes, info.uri) == (10, uri)
    assert [found.uri for found in objects.list_objects(folder)] == [uri]
    assert next(objects.list_objects(folder)).etag == info.etag


def test_a_missing_object_is_not_found_and_a_missing_prefix_is_empty(folder: str) -> None:
    for call in (objects.stat, objects.read, objects.open_source):
        with pytest.raises(ObjectNotFound, match="absent"):
            call(f"{folder}/absent")
    assert not objects.exists(f"{folder}/absent")
    assert list(objects.list_objects(f"{folder}/absent")) == []
    with pytest.raises(ObjectNotFound, match="no-such-bucket"):
        objects.read("s3://no-such-bucket/key")
    objects.delete(f"{folder}/absent")
    objects.delete_tree(f"{folder}/absent")


def test_an_object_above_the_limit_is_refused(folder: str) -> None:
    objects.put(f"{folder}/big", b"x" * 11)
    with pytest.raises(TooLarge, match="11 bytes, limit 10"):
        objects.read(f"{folder}/big", max_bytes=10)


def test_of_many_writers_exactly_one_puts_an_absent_object(folder: str) -> None:
    uri = f"{folder}/lease"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: objects.put_if_absent(uri, b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert objects.read(uri) == b"%d" % won.index(True)


def test_of_many_who_replace_what_they_read_one_alone_does(folder: str) -> None:
    uri = f"{folder}/current"
    objects.put(uri, b"before")
    etag = objects.stat(uri).etag
    assert etag is not None
    assert objects.put_if_unchanged(uri, b"after", etag)
    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(lambda n: objects.put_if_unchanged(uri, b"%d" % n, etag), range(8)))
    assert objects.read(uri) == b"after"
    objects.delete(uri)
    assert not objects.put_if_unchanged(uri, b"deleted", etag)
    assert not objects.exists(uri)


def test_listing_and_deleting_a_tree_take_its_objects_alone(folder: str) -> None:
    names = ["b/2", "b/10", "b-side", "a", "b/c/d"]
    for name in names:
        objects.put(f"{folder}/{name}", b"x")
    assert [info.uri for info in objects.list_objects(folder)] == sorted(f"{folder}/{name}" for name in names)
    assert [info.uri for info in objects.list_folder(folder)] == [f"{folder}/a", f"{folder}/b-side"]
    assert list(objects.list_folder(f"{folder}/b")) == [objects.stat(f"{folder}/b/{name}") for name in ("10", "2")]
    objects.delete_tree(f"{folder}/b")
    assert [info.uri for info in objects.list_objects(folder)] == [f"{folder}/a", f"{folder}/b-side"]


def test_a_whole_bucket_is_never_emptied(s3: str) -> None:
    with pytest.raises(InputError, match="whole bucket"):
        objects.delete_tree(s3)


def test_tables_round_trip_with_tensors_and_without_rows(folder: str) -> None:
    tensor = pa.fixed_shape_tensor(pa.float16(), [2, 3])
    for name, rows in (("one", 2), ("none", 0)):
        storage = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 6, dtype=np.float16)), 6)
        ids = pa.array([f"{name}{row}" for row in range(rows)], pa.string())
        log_mel = pa.ExtensionArray.from_storage(tensor, storage)
        tables.write_part(folder, name, pa.table({"song_id": ids, "log_mel": log_mel}))
    assert tables.parts(folder)
    table = tables.read_table(folder, ["log_mel"])
    assert table.schema.field("log_mel").type == tensor
    assert table["log_mel"].combine_chunks().to_numpy_ndarray().shape == (2, 2, 3)
    with pytest.raises(StageMissing, match="gatefold spectrograms"):
        tables.read_table(f"{folder}/elsewhere", stage="spectrograms")


def test_a_bundle_that_lost_a_byte_is_refused(folder: str, tmp_path: Path) -> None:
    files = {"unet/config.json": b"{}", "model": b"12345"}
    lineage, details = {"encoder": "ab"}, {"steps": 3}
    published = bundles.publish(f"{folder}/v1", files, kind="generator", version="v1", lineage=lineage, details=details)
    assert bundles.open_bundle(f"{folder}/v1", "generator") == published
    assert (published.fetch(tmp_path) / "unet/config.json").read_bytes() == b"{}"
    assert bundles.list_bundles(folder) == [published]
    objects.put(published.uri_of("model"), b"1234")
    with pytest.raises(BundleCorrupt, match="'model' has 4 bytes instead of 5"):
        bundles.open_bundle(f"{folder}/v1", "generator")
    assert bundles.list_bundles(folder) == []


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
BROKEN = b"<Error><Code>NotImplementedHere</Code><Message>broken</Message></Error>"


@pytest.mark.parametrize("faulty", [(400, EXPIRED), (403, DENIED)], indirect=True, ids=["expired", "denied"])
@pytest.mark.usefixtures("s3", "faulty")
def test_denied_access_says_what_to_do_about_it() -> None:
    with pytest.raises(StorageDenied, match=r"s3://bucket/key.*AWS_SECRET_ACCESS_KEY"):
        objects.read("s3://bucket/key")
    with pytest.raises(StorageDenied, match="s3://bucket/prefix"):
        list(objects.list_objects("s3://bucket/prefix"))


@pytest.mark.parametrize("faulty", [(501, BROKEN)], indirect=True, ids=["broken"])
@pytest.mark.usefixtures("s3", "faulty")
def test_a_broken_store_is_unavailable_and_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_PATIENCE_S", 0)
    with pytest.raises(StorageUnavailable, match="s3://bucket/key") as caught:
        objects.read("s3://bucket/key")
    assert caught.value.retryable


@pytest.mark.parametrize("faulty", [(403, DENIED)], indirect=True, ids=["denied"])
@pytest.mark.usefixtures("s3", "faulty")
def test_denied_access_to_columns_is_reported_as_such() -> None:
    with pytest.raises(StorageDenied, match=r"s3://bucket/t/part\.parquet"):
        tables.read_part("s3://bucket/t/part.parquet")


TAG = ("ETag", '"tag"')
SHORT = (206, b"12345", TAG, ("Content-Range", "bytes 0-4/100"))
ELSEWHERE = (206, b"12345", TAG, ("Content-Range", "bytes 5-9/100"))
WHOLE = (200, b"12345", TAG)
ALTERED = (200, b"12345", TAG, ("x-amz-checksum-crc32", "AAAAAA=="))


@pytest.mark.parametrize("faulty", [SHORT, ELSEWHERE, WHOLE], indirect=True, ids=["short", "elsewhere", "whole"])
@pytest.mark.usefixtures("s3", "faulty")
def test_a_range_other_than_the_one_asked_for_never_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_PATIENCE_S", 0)
    with pytest.raises(StorageUnavailable, match="asked for 10 bytes from 0 on, the store sent 5"):
        objects.open_source("s3://bucket/key", first_bytes=10)


@pytest.mark.parametrize("faulty", [(200, b"12345", TAG, ("Content-Length", "9"))], indirect=True, ids=["cut"])
@pytest.mark.usefixtures("s3", "faulty")
def test_a_body_that_is_cut_short_never_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_PATIENCE_S", 0)
    with pytest.raises(StorageUnavailable, match="ended after 5 of 9 bytes"):
        objects.read("s3://bucket/key")


@pytest.mark.parametrize("faulty", [ALTERED], indirect=True, ids=["altered"])
@pytest.mark.usefixtures("s3", "faulty")
def test_bytes_that_do_not_fit_their_checksum_never_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_PATIENCE_S", 0)
    with pytest.raises(StorageUnavailable, match="altered on its way"):
        objects.read("s3://bucket/key")


ARCHIVED = b"<Error><Code>InvalidObjectState</Code><Message>archived</Message></Error>"


@pytest.mark.parametrize("faulty", [(403, ARCHIVED)], indirect=True, ids=["archived"])
@pytest.mark.usefixtures("s3", "faulty")
def test_an_archived_object_is_no_reason_to_stop() -> None:
    with pytest.raises(InputError, match="restore it first"):
        objects.read("s3://bucket/key")
