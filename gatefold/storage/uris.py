"""Canonical URIs of objects, and what is known of an object; nothing here touches a disk or a network.

Two forms exist. `file:///…` is percent-encoded, so that any file name (spaces, `#`, `%`, bytes that are no UTF-8) is
plain ASCII and comes back as it was. `s3://bucket/key` carries the key as it is, the way every S3 tool writes it.
Neither ends in a slash.
"""

import os
import posixpath
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from gatefold.errors import InputError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLAIN = "/!$&'()*+,;=:@~"
_SHORTHAND = {"", ".", ".."}
_ALLOWED = "a path, file:///… or s3://bucket/…"


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its canonical uri, its size, when it changed (UTC), and a tag that changes when its content does."""

    uri: str
    size_bytes: int
    modified: datetime | None
    etag: str | None


@dataclass(frozen=True)
class Piece:
    """Some bytes of an object; size and tag of the whole of it at the moment they were read."""

    data: bytes
    size_bytes: int
    etag: str | None


def resolve(uri_or_path: str, base: str | None = None) -> str:
    """The canonical URI of an absolute path, a `file://` or `s3://` URI, or a path relative to `base`.

    `base` is a folder, else the working folder. A path is taken literally, a `file://` URI is percent-decoded.
    Raises: InputError for another scheme, an empty value, or a relative path that climbs out of its bucket.
    """
    if not uri_or_path or "\0" in uri_or_path:
        raise InputError(f"location {uri_or_path!r} is empty or holds a NUL byte; allowed: {_ALLOWED}")
    scheme = _SCHEME.match(uri_or_path)
    if scheme is None:
        return _resolve_path(uri_or_path, base)
    rest = uri_or_path[scheme.end() :]
    match scheme[1].lower():
        case "file" if rest.startswith(("/", "localhost/")):
            path = os.fsdecode(unquote_to_bytes(rest[rest.index("/") :]))
            if "\0" in path:
                raise InputError(f"location {uri_or_path!r} holds a NUL byte; allowed: {_ALLOWED}")
            return _from_path(path)
        case "s3" if rest.partition("/")[0]:
            return "s3://" + rest.rstrip("/")
    raise InputError(f"location '{uri_or_path}' cannot be used; allowed: {_ALLOWED}")


def join(uri: str, *parts: str) -> str:
    """The URI of something inside a folder; parts are literal names, which may hold slashes."""
    tail = "/".join(part.strip("/") for part in parts)
    if uri.startswith("file://"):
        tail = quote_from_bytes(os.fsencode(tail), safe=_PLAIN)
    return _as_folder(uri) + tail if tail else uri


def parent(uri: str) -> str:
    """The folder that holds this object. The root of a disk or of a bucket is its own parent."""
    head, _, _ = uri.rpartition("/")
    if uri.startswith("file://"):
        return head if len(head) > len("file://") else "file:///"
    return head if len(head) > len("s3:/") else uri


def name(uri: str) -> str:
    """The last part of a URI, decoded; empty for the root of a disk or of a bucket."""
    return relative(uri, parent(uri)) if parent(uri) != uri else ""


def relative(uri: str, folder: str) -> str:
    r"""The literal path of `uri` inside `folder`, slashes between its parts; bytes that are no UTF-8 appear as `\xNN`.

    Raises: InputError when it does not lie inside.
    """
    prefix = _as_folder(folder)
    if not uri.startswith(prefix):
        raise InputError(f"'{uri}' does not lie inside '{folder}'")
    tail = uri[len(prefix) :]
    return unquote_to_bytes(tail).decode(errors="backslashreplace") if uri.startswith("file://") else tail


def local_path(uri: str) -> Path | None:
    """The path of a `file://` URI; None for an object that is not on a local disk."""
    if not uri.startswith("file:///"):
        return None
    return Path(os.fsdecode(unquote_to_bytes(uri[len("file://") :])))


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI; the key is empty for the bucket itself."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _as_folder(uri: str) -> str:
    return uri if uri.endswith("/") else uri + "/"


def _resolve_path(path: str, base: str | None) -> str:
    root = None if base is None else _resolve_base(base)
    if root and not path.startswith("/") and not _SHORTHAND.intersection(path.split("/")):
        return join(root, path)
    if path.startswith("/") or root is None or root.startswith("file://"):
        folder = local_path(root) if root else None
        return _from_path(posixpath.join(folder or Path.cwd(), path))
    bucket, key = bucket_and_key(root)
    full = posixpath.normpath(posixpath.join(key, path))
    if full.split("/")[0] == "..":
        raise InputError(f"location '{path}' climbs out of bucket '{bucket}' from '{root}'; allowed: {_ALLOWED}")
    return f"s3://{bucket}" if full == "." else f"s3://{bucket}/{full}"


@lru_cache(maxsize=16)
def _canonical_base(base: str) -> str:
    return resolve(base)


def _resolve_base(base: str) -> str:
    """Remembered, as a manifest has one base and a million paths; but a relative one hangs on the working folder."""
    return _canonical_base(base) if _SCHEME.match(base) else resolve(base)


def _from_path(path: str) -> str:
    # normpath keeps two leading slashes, which POSIX allows to mean something else; here they never do
    clean = "/" + posixpath.normpath(path).lstrip("/")
    return "file://" + quote_from_bytes(os.fsencode(clean), safe=_PLAIN)
