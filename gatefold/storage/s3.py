"""Objects in S3, or in a store that speaks its protocol. A put is atomic there by nature.

Knows the SDK and its errors; the door to all storage is `objects`, nothing else imports this. Endpoint, region and
credentials come from the SDK's own environment.
"""

import base64
import os
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem
from urllib3.exceptions import HTTPError

from gatefold.errors import InputError, ObjectChanged, ObjectNotFound, StorageDenied, StorageUnavailable, TooLarge
from gatefold.storage.uris import ObjectInfo, Piece, bucket_and_key

_ATTEMPTS = 6
"""of the SDK, which sees to what goes wrong before a body begins: slow down, server errors, lost connections"""
_TRIES = 10
"""of ours around them: for broken bodies, and for when the SDK's own budget of retries is spent"""
_PATIENCE_S = 120.0
"""When an operation has taken so long, it is not tried again."""
_LONGEST_PAUSE_S = 5.0
_SILENCE_S = 20.0
"""A connection that gives no byte for so long is given up."""
_BODY_S = 15.0
_BODY_BYTES_PER_S = 25_000
"""A body may take `_BODY_S` and a second for each of these: what 64 connections share on a line of 13 Mbit/s. One that
is slower is asked for again on a new connection, which is seldom slow too."""
_CHUNK_BYTES = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_DENIED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId",
                 "AuthorizationHeaderMalformed", "PermanentRedirect", "301",
                 "400"}  # all that an answer without a body, to HEAD, tells of a token that has expired
_DENIED_ERRORS = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError)
_PRECONDITION = ("PreconditionFailed", "412")
_REMEDY = ("check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (renew them if they have expired), "
           "AWS_REGION, and the account's rights on this bucket")
_lock = threading.Lock()
_T = TypeVar("_T")


def stat(uri: str) -> ObjectInfo:
    found = _patiently(uri, lambda: client().head_object(**_target(uri)))
    return ObjectInfo(uri, found["ContentLength"], found["LastModified"], found["ETag"].strip('"'))


def read(uri: str, max_bytes: int | None) -> bytes:
    def whole() -> bytes:
        found = client().get_object(**_target(uri))
        if max_bytes is not None and found["ContentLength"] > max_bytes:
            found["Body"].close()
            raise TooLarge(f"'{uri}' has {found['ContentLength']:,} bytes, limit {max_bytes:,}")
        data = _body(uri, found)
        told = found.get("ChecksumCRC32", "-")
        if "-" not in told and base64.b64decode(told) != zlib.crc32(data).to_bytes(4, "big"):  # "-": that of its parts
            raise StorageUnavailable(f"'{uri}' was altered on its way; try again")
        return data

    return _patiently(uri, whole)


def read_piece(uri: str, offset: int, length: int, etag: str | None) -> Piece:
    def piece() -> Piece:
        pinned = {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            found = client().get_object(**_target(uri), Range=f"bytes={offset}-{offset + length - 1}", **pinned)
        except ClientError as error:
            if _code(error) == "InvalidRange" and offset == 0:
                return Piece(b"", 0, None)
            if _code(error) in (*_PRECONDITION, "InvalidRange"):  # the latter: shorter than it was
                raise ObjectChanged(f"'{uri}' changed while it was read; read it again") from error
            raise
        tag, data = found["ETag"].strip('"'), _body(uri, found)
        if etag not in (None, tag):  # in a store that does not know If-Match
            raise ObjectChanged(f"'{uri}' changed while it was read; read it again")
        told = _CONTENT_RANGE.fullmatch(found.get("ContentRange", ""))
        first, last, size = map(int, told.groups()) if told else (0, -1, 0)
        if (first, last + 1, len(data)) != (offset, min(offset + length, size), last + 1 - first):
            raise StorageUnavailable(f"'{uri}': asked for {length:,} bytes from {offset:,} on, the store sent "
                                     f"{len(data):,} as '{found.get('ContentRange')}'; try again")
        return Piece(data, size, tag)

    return _patiently(uri, piece)


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    return _listed(uri)


def list_folder(uri: str) -> Iterator[ObjectInfo]:
    return _listed(uri, Delimiter="/")


def _listed(uri: str, **options: str) -> Iterator[ObjectInfo]:
    bucket, key = bucket_and_key(uri)
    wanted = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **options}
    while True:
        page = _patiently(uri, lambda: client().list_objects_v2(**wanted))
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):  # consoles mark an empty folder with such a key
                etag = found["ETag"].strip('"')
                yield ObjectInfo(f"s3://{bucket}/{found['Key']}", found["Size"], found["LastModified"], etag)
        if not page["IsTruncated"]:
            return
        wanted["ContinuationToken"] = page["NextContinuationToken"]


def put(uri: str, data: bytes) -> None:
    _patiently(uri, lambda: client().put_object(**_target(uri), Body=data))


def put_if_absent(uri: str, data: bytes) -> bool:
    return _put_if(uri, data, IfNoneMatch="*")


def put_if_unchanged(uri: str, data: bytes, etag: str) -> bool:
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
            client().put_object(**_target(uri), Body=data, **condition)
        except ClientError as error:
            if _code(error) not in _PRECONDITION:
                raise
            # a put whose answer was lost is repeated; what it then finds may be its own
            repeated = tries > 1 or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            return repeated and _holds(uri, data)
        return True

    return _patiently(uri, once)


def _holds(uri: str, data: bytes) -> bool:
    try:
        return read(uri, None) == data
    except ObjectNotFound:
        return False


def delete(uri: str) -> None:
    _patiently(uri, lambda: client().delete_object(**_target(uri)))


def delete_tree(uri: str) -> None:
    bucket, key = bucket_and_key(uri)
    if not key:
        raise InputError(f"'{uri}' is a whole bucket and will not be emptied")
    objects = list_objects(uri)
    while batch := list(islice(objects, 1000)):  # as many as one call may name
        _patiently(uri, lambda: _delete_all(bucket, [bucket_and_key(info.uri)[1] for info in batch]))


def _delete_all(bucket: str, keys: list[str]) -> None:
    answer = client().delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
    for error in answer.get("Errors", ()):
        kind = StorageDenied if error["Code"] == "AccessDenied" else StorageUnavailable
        raise kind(f"'s3://{bucket}/{error['Key']}' was not deleted: {error['Code']}; {_REMEDY}")


def filesystem() -> S3FileSystem:
    """Arrow's own reader of S3, with the SDK's endpoint; for this process only, because pickling drops its retries."""
    with _lock:
        return _filesystem(_environment())


def client() -> Any:
    """The SDK's client of this process; threads share it."""
    with _lock:
        return _client(_environment())


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turns the SDK's errors into the house's, naming the uri."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code, said = _code(error), error.response.get("Error", {}).get("Message", "")
        if status == 404:
            raise ObjectNotFound(f"'{uri}' does not exist ({code})") from error
        if code == "InvalidObjectState":
            raise InputError(f"'{uri}' lies in an archive; restore it first") from error
        if status in (401, 403) or code in _DENIED_CODES:
            raise StorageDenied(f"'{uri}': {code} {said}; {_REMEDY}") from error
        if 400 <= status < 500 and status not in (408, 409, 412, 429) and code not in ("RequestTimeout", "SlowDown"):
            raise InputError(f"'{uri}': the store refuses this request: {code} {said}") from error
        raise StorageUnavailable(f"'{uri}': {code} {said}; try again") from error
    except _DENIED_ERRORS as error:
        raise StorageDenied(f"'{uri}': {error}; {_REMEDY}") from error
    except ParamValidationError as error:
        raise InputError(f"'{uri}' is no valid S3 location: {error}") from error
    except (BotoCoreError, HTTPError, ResponseParserError) as error:
        raise StorageUnavailable(f"'{uri}': {error}; try again") from error


def _patiently(uri: str, operation: Callable[[], _T]) -> _T:
    """What `operation` returns once the store lets it; it must bear being repeated. Raises: the house's errors."""
    begun, tries = time.monotonic(), 0
    while True:
        try:
            with translated(uri):
                return operation()
        except ObjectChanged:  # what it was will not come back
            raise
        except StorageUnavailable:
            tries += 1
            if tries == _TRIES or time.monotonic() - begun > _PATIENCE_S:
                raise
        time.sleep(random.uniform(0, min(0.2 * 2**tries, _LONGEST_PAUSE_S)))  # jitter: not all at once again


def _body(uri: str, found: dict[str, Any]) -> bytes:
    """The body of an answer. Raises: StorageUnavailable when it crawls or is not as long as announced."""
    wanted: int = found["ContentLength"]
    allowed_s = _BODY_S + wanted / _BODY_BYTES_PER_S
    begun = time.monotonic()
    data = bytearray()
    with found["Body"] as stream:  # urllib3's own, as the SDK's `read` would wait for whole chunks however they crawl
        while chunk := stream.read1(_CHUNK_BYTES):
            data += chunk
            if len(data) < wanted and time.monotonic() - begun > allowed_s:
                raise StorageUnavailable(
                    f"'{uri}': {len(data):,} of {wanted:,} bytes came in {allowed_s:.0f} s; try again"
                )
    if len(data) != wanted:
        raise StorageUnavailable(f"'{uri}': the connection ended after {len(data):,} of {wanted:,} bytes; try again")
    return bytes(data)


def _refuse_short(response_dict: dict[str, Any], operation_model: Any, **_: object) -> None:
    """Before the SDK parses an answer, whose length it does not check: cut to nothing, a listing would be empty."""
    body, told = response_dict["body"], response_dict["headers"].get("content-length")
    if isinstance(body, bytes) and told and operation_model.http["method"] != "HEAD" and len(body) < int(told):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(told))


def _target(uri: str) -> dict[str, str]:
    bucket, key = bucket_and_key(uri)
    if not key:
        raise ObjectNotFound(f"'{uri}' is a bucket, not an object")
    return {"Bucket": bucket, "Key": key}


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _environment() -> tuple[int, str | None, str | None, str | None]:
    """Process, endpoint, region and account: a client serves as long as none of them changes."""
    env = os.environ
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    return os.getpid(), endpoint, env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"), env.get("AWS_ACCESS_KEY_ID")


@lru_cache(maxsize=4)
def _client(environment: tuple[int, str | None, str | None, str | None]) -> Any:
    _, endpoint, region, _ = environment
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=10,
        read_timeout=_SILENCE_S,
        max_pool_connections=64,
        s3={"addressing_style": "path" if endpoint else "auto"},  # few but AWS answer to a bucket's name as a host
    )
    try:
        made = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except ValueError as error:
        raise InputError(f"AWS_ENDPOINT_URL '{endpoint}' is no address: {error}; write http(s)://host:port") from error
    made.meta.events.register("before-parse.s3", _refuse_short)
    return made


@lru_cache(maxsize=4)
def _filesystem(environment: tuple[int, str | None, str | None, str | None]) -> S3FileSystem:
    _, endpoint, region, _ = environment
    scheme = "http" if endpoint and endpoint.startswith("http://") else "https"
    retries = AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
    return S3FileSystem(endpoint_override=endpoint, scheme=scheme, region=region, retry_strategy=retries,
                        connect_timeout=10, request_timeout=60)
