"""Objects in S3, or in a store that speaks its protocol. A put is atomic there by nature.

Large ones go up and come down in parts, several at a time, each tried again by itself; no more than those parts are in
memory beside the object.

Knows the SDK and its errors; all storage is reached through `objects`, nothing else imports this. Endpoint, region and
credentials come from the SDK's own environment.
"""

import base64
import io
import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from gatefold.errors import InputError, ObjectChanged, ObjectNotFound, StorageDenied, StorageUnavailable, TooLarge
from gatefold.storage.s3_client import REMEDY, client, code, target, translated, with_retries
from gatefold.storage.uris import ObjectInfo, Piece, bucket_and_key

_BODY_S = 15.0
_BODY_BYTES_PER_S = 25_000
"""A body may take `_BODY_S` and a second for each of these: what 64 connections share on a line of 13 Mbit/s. One that
is slower is asked for again on a new connection, which is seldom slow too."""
_CHUNK_BYTES = 1 << 18
_PART_BYTES = 64 << 20
"""of an object that is larger; a store takes at most 5 GiB in one put, and nothing but the last part under 5 MiB"""
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 4
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_PRECONDITION = ("PreconditionFailed", "412")
logger = logging.getLogger(__name__)
_T = TypeVar("_T")


def stat(uri: str) -> ObjectInfo:
    """As `objects.stat`."""
    found = with_retries(uri, lambda: client().head_object(**target(uri)))
    return ObjectInfo(uri, found["ContentLength"], found["LastModified"], found["ETag"].strip('"'))


def read(uri: str, max_bytes: int | None) -> bytes:
    """As `objects.read`; large objects in parts, several at a time."""

    def whole() -> bytes:
        found = client().get_object(**target(uri))
        if max_bytes is not None and found["ContentLength"] > max_bytes:
            found["Body"].close()
            raise TooLarge(f"'{uri}' has {found['ContentLength']:,} bytes, limit {max_bytes:,}")
        if found["ContentLength"] > _PART_BYTES:
            found["Body"].close()
            return _read_parts(uri, found["ContentLength"], found["ETag"].strip('"'))
        data = _body(uri, found)
        checksum = found.get("ChecksumCRC32", "-")
        if "-" not in checksum and base64.b64decode(checksum) != zlib.crc32(data).to_bytes(
            4, "big"
        ):  # "-": that of its parts
            raise StorageUnavailable(f"'{uri}' was altered on its way; try again")
        return data

    return with_retries(uri, whole)


def _read_parts(uri: str, size: int, etag: str) -> bytes:
    sink = io.BytesIO()  # whose bytes are passed on uncopied
    sink.seek(size - 1)
    sink.write(b"\0")
    writing = threading.Lock()

    def fetch_part(offset: int) -> None:
        data = read_piece(uri, offset, min(_PART_BYTES, size - offset), etag).data
        with writing:
            sink.seek(offset)
            sink.write(data)

    _side_by_side(fetch_part, range(0, size, _PART_BYTES))
    return sink.getvalue()


def fetch(uri: str, path: Path) -> None:
    """As `objects.fetch`, in parts, several at a time."""
    info = stat(uri)
    with path.open("wb") as file:
        file.truncate(info.size_bytes)

        def fetch_part(offset: int) -> None:
            data = read_piece(uri, offset, min(_PART_BYTES, info.size_bytes - offset), info.etag).data
            os.pwrite(file.fileno(), data, offset)

        _side_by_side(fetch_part, range(0, info.size_bytes, _PART_BYTES))


def _side_by_side(do: Callable[[int], _T], numbers: Iterable[int]) -> list[_T]:
    """What each gives, in their order; after one that failed no other is begun."""
    pool = ThreadPoolExecutor(_PARTS_AT_ONCE)
    try:
        return list(pool.map(do, numbers))
    finally:
        pool.shutdown(cancel_futures=True)


def read_piece(uri: str, offset: int, length: int, etag: str | None) -> Piece:
    """At most `length` bytes from `offset` on. Raises: ObjectNotFound; ObjectChanged where its tag is not `etag`."""

    def piece() -> Piece:
        pinned = {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            found = client().get_object(**target(uri), Range=f"bytes={offset}-{offset + length - 1}", **pinned)
        except ClientError as error:
            if code(error) == "InvalidRange" and offset == 0:
                return Piece(b"", 0, None)
            if code(error) in (*_PRECONDITION, "InvalidRange"):  # the latter: shorter than it was
                raise ObjectChanged(f"'{uri}' changed while it was read; read it again") from error
            raise
        tag, data = found["ETag"].strip('"'), _body(uri, found)
        if etag not in (None, tag):  # in a store that does not know If-Match
            raise ObjectChanged(f"'{uri}' changed while it was read; read it again")
        sent = _CONTENT_RANGE.fullmatch(found.get("ContentRange", ""))
        first, last, size = map(int, sent.groups()) if sent else (0, -1, 0)
        if (first, last + 1, len(data)) != (offset, min(offset + length, size), last + 1 - first):
            raise StorageUnavailable(f"'{uri}': asked for {length:,} bytes from {offset:,} on, the store sent "
                                     f"{len(data):,} as '{found.get('ContentRange')}'; try again")
        return Piece(data, size, tag)

    return with_retries(uri, piece)


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """As `objects.list_objects`, without the keys by which consoles mark a folder."""
    return _listed(uri)


def list_folder(uri: str) -> Iterator[ObjectInfo]:
    """As `objects.list_folder`, without the keys by which consoles mark a folder."""
    return _listed(uri, Delimiter="/")


def _listed(uri: str, **options: str) -> Iterator[ObjectInfo]:
    bucket, key = bucket_and_key(uri)
    wanted = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **options}
    while True:
        page = with_retries(uri, lambda: client().list_objects_v2(**wanted))
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):  # consoles mark an empty folder with such a key
                etag = found["ETag"].strip('"')
                yield ObjectInfo(f"s3://{bucket}/{found['Key']}", found["Size"], found["LastModified"], etag)
        if not page["IsTruncated"]:
            return
        wanted["ContinuationToken"] = page["NextContinuationToken"]


def put(uri: str, data: bytes) -> None:
    """As `objects.put`; large objects in parts, several at a time."""
    if len(data) > _PART_BYTES:
        view = memoryview(data)
        _put_parts(uri, len(data), lambda offset, length: bytes(view[offset : offset + length]))
    else:
        with_retries(uri, lambda: client().put_object(**target(uri), Body=data))


def put_file(uri: str, path: Path) -> None:
    """As `objects.put_file`; large files in parts, several at a time."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _PART_BYTES:
            put(uri, file.read())
        else:
            _put_parts(uri, size, lambda offset, length: os.pread(file.fileno(), length, offset))


def _put_parts(uri: str, size: int, read_at: Callable[[int, int], bytes]) -> None:
    """An upload of several parts, which nobody sees before the last. One that fails leaves no parts behind."""
    part_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
    offsets = range(0, size, part_bytes)
    begun = with_retries(uri, lambda: client().create_multipart_upload(**target(uri)))
    upload = {**target(uri), "UploadId": begun["UploadId"]}

    def put_part(offset: int) -> dict[str, Any]:
        number, data = offset // part_bytes + 1, read_at(offset, min(part_bytes, size - offset))
        put = with_retries(uri, lambda: client().upload_part(**upload, PartNumber=number, Body=data))
        return {"PartNumber": number, "ETag": put["ETag"]}

    try:
        parts = {"Parts": _side_by_side(put_part, offsets)}
        tries = 0

        def complete() -> None:
            nonlocal tries
            tries += 1
            try:
                answer = client().complete_multipart_upload(**upload, MultipartUpload=parts)
            except ClientError as error:
                repeated = tries > 1 or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                if not (code(error) == "NoSuchUpload" and repeated and stat(uri).size_bytes == size):
                    raise  # else the answer of the try before was lost
                return
            if "ETag" not in answer:
                raise StorageUnavailable(f"'{uri}': the store did not put its parts together; try again")

        with_retries(uri, complete)
    except BaseException:
        _abort(uri, upload)
        raise


def _abort(uri: str, upload: dict[str, str]) -> None:
    try:
        with translated(uri):
            client().abort_multipart_upload(**upload)
    except (InputError, ObjectNotFound, StorageDenied, StorageUnavailable) as error:
        logger.warning("parts of an upload to '%s' may be left in the store: %s", uri, error.message)


def put_if_absent(uri: str, data: bytes) -> bool:
    """As `objects.put_if_absent`, by If-None-Match."""
    return _put_if(uri, data, IfNoneMatch="*")


def put_if_unchanged(uri: str, data: bytes, etag: str) -> bool:
    """As `objects.put_if_unchanged`, by If-Match."""
    try:
        return _put_if(uri, data, IfMatch=f'"{etag}"')
    except ObjectNotFound:
        return False


def _put_if(uri: str, data: bytes, **condition: str) -> bool:
    tries = 0

    def once() -> bool:
        nonlocal tries
        tries += 1
        try:
            client().put_object(**target(uri), Body=data, **condition)
        except ClientError as error:
            if code(error) not in _PRECONDITION:
                raise
            # a put whose answer was lost is repeated; what it then finds may be its own
            repeated = tries > 1 or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            return repeated and _holds(uri, data)
        return True

    return with_retries(uri, once)


def _holds(uri: str, data: bytes) -> bool:
    try:
        return read(uri, None) == data
    except ObjectNotFound:
        return False


def delete(uri: str) -> None:
    """As `objects.delete`."""
    with_retries(uri, lambda: client().delete_object(**target(uri)))


def delete_tree(uri: str) -> None:
    """As `objects.delete_tree`, a thousand objects a request."""
    bucket, key = bucket_and_key(uri)
    if not key:
        raise InputError(f"'{uri}' is a whole bucket and will not be emptied")
    objects = list_objects(uri)
    while batch := list(islice(objects, 1000)):  # as many as one call may name
        with_retries(uri, lambda: _delete_all(bucket, [bucket_and_key(info.uri)[1] for info in batch]))


def _delete_all(bucket: str, keys: list[str]) -> None:
    answer = client().delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
    for error in answer.get("Errors", ()):
        kind = StorageDenied if error["Code"] == "AccessDenied" else StorageUnavailable
        raise kind(f"'s3://{bucket}/{error['Key']}' was not deleted: {error['Code']}; {REMEDY}")


def _body(uri: str, found: dict[str, Any]) -> bytes:
    """The body of an answer. Raises: StorageUnavailable when it crawls or is not as long as announced."""
    wanted: int = found["ContentLength"]
    allowed_s = _BODY_S + wanted / _BODY_BYTES_PER_S
    begun = time.monotonic()
    data = io.BytesIO()  # whose bytes are passed on uncopied
    with found["Body"] as stream:  # urllib3's own, as the SDK's `read` would wait for whole chunks however they crawl
        while chunk := stream.read1(_CHUNK_BYTES):
            data.write(chunk)
            if data.tell() < wanted and time.monotonic() - begun > allowed_s:
                raise StorageUnavailable(
                    f"'{uri}': {data.tell():,} of {wanted:,} bytes came in {allowed_s:.0f} s; try again"
                )
    if data.tell() != wanted:
        raise StorageUnavailable(f"'{uri}': the connection ended after {data.tell():,} of {wanted:,} bytes; try again")
    return data.getvalue()


