"""Objects in S3, or in a store that speaks its protocol. A put is atomic there by nature.

Knows the SDK and its errors; the door to all storage is `objects`, nothing else imports this. Endpoint, region and
credentials come from the SDK's own environment.
"""

import os
import threading
import time
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
    ConnectionClosedError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    TokenRetrievalError,
)
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

from gatefold.errors import InputError, ObjectChanged, ObjectNotFound, StorageDenied, StorageUnavailable, TooLarge
from gatefold.storage.uris import ObjectInfo, Piece, bucket_and_key

_ATTEMPTS = 6
_BROKEN_BODY = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, ConnectionClosedError)
_DENIED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId",
                 "AuthorizationHeaderMalformed", "PermanentRedirect", "301"}
_DENIED_ERRORS = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError)
_PRECONDITION = ("PreconditionFailed", "412")
_REMEDY = ("check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (renew them if they have expired), "
           "AWS_REGION, and the account's rights on this bucket")
_lock = threading.Lock()
_T = TypeVar("_T")


def stat(uri: str) -> ObjectInfo:
    with translated(uri):
        found = client().head_object(**_target(uri))
        return ObjectInfo(uri, found["ContentLength"], found["LastModified"], found["ETag"].strip('"'))


def read(uri: str, max_bytes: int | None) -> bytes:
    def body() -> bytes:
        found = client().get_object(**_target(uri))
        if max_bytes is not None and found["ContentLength"] > max_bytes:
            found["Body"].close()
            raise TooLarge(f"'{uri}' has {found['ContentLength']:,} bytes, limit {max_bytes:,}")
        data: bytes = found["Body"].read()
        return data

    with translated(uri):
        return _whole(body)


def read_piece(uri: str, offset: int, length: int, etag: str | None) -> Piece:
    def piece() -> Piece:
        pinned = {"IfMatch": f'"{etag}"'} if etag else {}
        found = client().get_object(**_target(uri), Range=f"bytes={offset}-{offset + length - 1}", **pinned)
        tag = found["ETag"].strip('"')
        if etag not in (None, tag):  # a store that does not know If-Match
            found["Body"].close()
            raise _changed(uri)
        return Piece(found["Body"].read(), int(found["ContentRange"].rpartition("/")[2]), tag)

    if length == 0:
        return Piece(b"", 0, etag)
    with translated(uri):
        try:
            return _whole(piece)
        except ClientError as error:
            if _code(error) == "InvalidRange":  # begins behind the last byte
                return Piece(b"", 0, etag)
            if _code(error) in _PRECONDITION:
                raise _changed(uri) from error
            raise


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    return _listed(uri)


def list_folder(uri: str) -> Iterator[ObjectInfo]:
    return _listed(uri, Delimiter="/")


def _listed(uri: str, **options: str) -> Iterator[ObjectInfo]:
    bucket, key = bucket_and_key(uri)
    prefix = f"{key}/" if key else ""
    with translated(uri):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options):
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # consoles mark an empty folder with such a key
                    etag = found["ETag"].strip('"')
                    yield ObjectInfo(f"s3://{bucket}/{found['Key']}", found["Size"], found["LastModified"], etag)


def put(uri: str, data: bytes) -> None:
    with translated(uri):
        client().put_object(**_target(uri), Body=data)


def put_if_absent(uri: str, data: bytes) -> bool:
    with translated(uri):
        for attempt in range(_ATTEMPTS):
            try:
                client().put_object(**_target(uri), Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) == "ConditionalRequestConflict" and attempt + 1 < _ATTEMPTS:
                    time.sleep(0.1 * 2**attempt)
                    continue
                if _code(error) not in _PRECONDITION:
                    raise
                # the SDK repeats a put whose answer was lost; what it then finds may be its own
                retried = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                return retried and read(uri, None) == data
            return True
    raise StorageUnavailable(f"'{uri}': others keep writing it; try again")


def delete(uri: str) -> None:
    with translated(uri):
        client().delete_object(**_target(uri))


def delete_tree(uri: str) -> None:
    bucket, key = bucket_and_key(uri)
    if not key:
        raise InputError(f"'{uri}' is a whole bucket and will not be emptied")
    objects = list_objects(uri)
    while batch := list(islice(objects, 1000)):  # as many as one call may name
        names = [{"Key": bucket_and_key(info.uri)[1]} for info in batch]
        with translated(uri):
            answer = client().delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True})
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
        if status in (401, 403) or code in _DENIED_CODES:
            raise StorageDenied(f"'{uri}': {code} {said}; {_REMEDY}") from error
        if 400 <= status < 500 and status not in (408, 409, 412, 429) and code not in ("RequestTimeout", "SlowDown"):
            raise InputError(f"'{uri}': the store refuses this request: {code} {said}") from error
        raise StorageUnavailable(f"'{uri}': {code} {said}; try again") from error
    except _DENIED_ERRORS as error:
        raise StorageDenied(f"'{uri}': {error}; {_REMEDY}") from error
    except ParamValidationError as error:
        raise InputError(f"'{uri}' is no valid S3 location: {error}") from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"'{uri}': {error}") from error


def _whole(body: Callable[[], _T]) -> _T:
    """Reads again when a connection breaks after the SDK's own retries are over, which end where a body begins."""
    for attempt in range(3):
        try:
            return body()
        except _BROKEN_BODY:
            time.sleep(0.2 * 2**attempt)
    return body()


def _changed(uri: str) -> ObjectChanged:
    return ObjectChanged(f"'{uri}' changed while it was read; read it again")


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
        read_timeout=60,
        max_pool_connections=64,
        s3={"addressing_style": "path" if endpoint else "auto"},  # few but AWS answer to a bucket's name as a host
    )
    try:
        return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except ValueError as error:
        raise InputError(f"AWS_ENDPOINT_URL '{endpoint}' is no address: {error}; write http(s)://host:port") from error


@lru_cache(maxsize=4)
def _filesystem(environment: tuple[int, str | None, str | None, str | None]) -> S3FileSystem:
    _, endpoint, region, _ = environment
    scheme = "http" if endpoint and endpoint.startswith("http://") else "https"
    retries = AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
    return S3FileSystem(endpoint_override=endpoint, scheme=scheme, region=region, retry_strategy=retries,
                        connect_timeout=10, request_timeout=60)
