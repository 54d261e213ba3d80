"""S3 client: the SDK's client with its settings, retries while a store is busy, and translated errors.

Endpoint, region and credentials come from the SDK's own environment. Which operations there are is not known here.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

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
from urllib3.exceptions import HTTPError

from gatefold.errors import InputError, ObjectChanged, ObjectNotFound, StorageDenied, StorageUnavailable
from gatefold.storage.uris import bucket_and_key

_ATTEMPTS = 6
"""of the SDK, which sees to what goes wrong before a body begins: slow down, server errors, lost connections"""
_TRIES = 10
"""of ours around them: for broken bodies, and for when the SDK's own budget of retries is spent"""
_PATIENCE_S = 120.0
"""When an operation has taken so long, it is not tried again."""
_LONGEST_PAUSE_S = 5.0
_SILENCE_S = 20.0
"""A connection that gives no byte for so long is given up."""
_DENIED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId",
                 "AuthorizationHeaderMalformed", "PermanentRedirect", "301",
                 "400"}  # all that an answer without a body, to HEAD, has of a token that has expired
_DENIED_ERRORS = (NoCredentialsError, PartialCredentialsError, TokenRetrievalError)
REMEDY = ("check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (renew them if they have expired), "
           "AWS_REGION, and the account's rights on this bucket")
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
_lock = threading.Lock()
_T = TypeVar("_T")


def client() -> Any:
    """The SDK's client of this process; threads share it."""
    with _lock:
        return _client(_environment())


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Translates the SDK's errors to gatefold's, naming the uri."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        name, said = code(error), error.response.get("Error", {}).get("Message", "")
        if status == 404:
            raise ObjectNotFound(f"'{uri}' does not exist ({name})") from error
        if name == "InvalidObjectState":
            raise InputError(f"'{uri}' lies in an archive; restore it first") from error
        if status in (401, 403) or name in _DENIED_CODES:
            raise StorageDenied(f"'{uri}': {name} {said}; {REMEDY}") from error
        if 400 <= status < 500 and status not in (408, 409, 412, 429) and name not in ("RequestTimeout", "SlowDown"):
            raise InputError(f"'{uri}': the store refuses this request: {name} {said}") from error
        raise StorageUnavailable(f"'{uri}': {name} {said}; try again") from error
    except _DENIED_ERRORS as error:
        raise StorageDenied(f"'{uri}': {error}; {REMEDY}") from error
    except ParamValidationError as error:
        raise InputError(f"'{uri}' is no valid S3 location: {error}") from error
    except (BotoCoreError, HTTPError, ResponseParserError) as error:
        raise StorageUnavailable(f"'{uri}': {error}; try again") from error


def with_retries(uri: str, operation: Callable[[], _T]) -> _T:
    """What `operation` returns after retries while the store is busy; it must be idempotent. Raises: as
    `translated`."""
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


def _refuse_short(response_dict: dict[str, Any], operation_model: Any, **_: object) -> None:
    """Before the SDK parses an answer, whose length it does not check: cut to nothing, a listing would be empty."""
    body, declared = response_dict["body"], response_dict["headers"].get("content-length")
    if isinstance(body, bytes) and declared and operation_model.http["method"] != "HEAD" and len(body) < int(declared):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(declared))


def target(uri: str) -> dict[str, str]:
    """Bucket and key, as the SDK's calls take them. Raises: ObjectNotFound for a bucket."""
    bucket, key = bucket_and_key(uri)
    if not key:
        raise ObjectNotFound(f"'{uri}' is a bucket, not an object")
    return {"Bucket": bucket, "Key": key}


def code(error: ClientError) -> str:
    """The store's own name of the error, as "NoSuchKey"; empty where it gives none."""
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
        **_checksums(endpoint),
    )
    try:
        made = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except ValueError as error:
        raise InputError(f"AWS_ENDPOINT_URL '{endpoint}' is no address: {error}; write http(s)://host:port") from error
    made.meta.events.register("before-parse.s3", _refuse_short)
    return made


def _checksums(endpoint: str | None) -> dict[str, str]:
    """Only where an operation needs them, of stores that are not AWS: several refuse the SDK's, or store its framing.

    What AWS_REQUEST_CHECKSUM_CALCULATION and AWS_RESPONSE_CHECKSUM_VALIDATION say goes before this.
    """
    host = urlsplit(endpoint or "").hostname or ""
    if not endpoint or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return {}
    return {name: "when_required" for name in _CHECKSUMS if f"AWS_{name.upper()}" not in os.environ}
