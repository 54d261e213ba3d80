"""Object storage on a local disk or in S3: read, list, put, delete. It knows no format and no table.

Every function may be called from any thread and any process. A put is atomic: no reader ever sees half of an object.
Errors are the same for both kinds of storage and name the uri: `ObjectNotFound`; `StorageDenied`, when the account may
not (every other object would fail alike); `StorageUnavailable`, when trying again can help.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from gatefold.errors import InputError, ObjectNotFound
from gatefold.storage import local
from gatefold.storage.uris import ObjectInfo, Piece, join, local_path, name, parent, relative, resolve

__all__ = ["FIRST_BYTES", "ObjectInfo", "ObjectSource", "delete", "delete_tree", "exists", "fetch", "join",
           "list_folder", "list_objects", "local_path", "name", "open_source", "parent", "put", "put_file",
           "put_if_absent", "put_if_unchanged", "read", "relative", "resolve", "stat"]

FIRST_BYTES = 1 << 16
"""What opening a source fetches: the headers and tags of most songs, and all of a small object."""


class _Store(Protocol):
    """What each kind of storage can do; its module is its implementation."""

    def stat(self, uri: str) -> ObjectInfo: ...
    def read(self, uri: str, max_bytes: int | None) -> bytes: ...
    def read_piece(self, uri: str, offset: int, length: int, etag: str | None) -> Piece: ...
    def list_objects(self, uri: str) -> Iterator[ObjectInfo]: ...
    def list_folder(self, uri: str) -> Iterator[ObjectInfo]: ...
    def put(self, uri: str, data: bytes) -> None: ...
    def put_file(self, uri: str, path: Path) -> None: ...
    def fetch(self, uri: str, path: Path) -> None: ...
    def put_if_absent(self, uri: str, data: bytes) -> bool: ...
    def put_if_unchanged(self, uri: str, data: bytes, etag: str) -> bool: ...
    def delete(self, uri: str) -> None: ...
    def delete_tree(self, uri: str) -> None: ...


def stat(uri: str) -> ObjectInfo:
    """Size, time and tag of an object. Raises: ObjectNotFound."""
    return _store(uri).stat(uri)


def exists(uri: str) -> bool:
    """Whether there is such an object; a folder or prefix is none."""
    try:
        stat(uri)
    except ObjectNotFound:
        return False
    return True


def read(uri: str, max_bytes: int | None = None) -> bytes:
    """The whole object. Raises: ObjectNotFound; TooLarge, before reading, when it has more than `max_bytes`."""
    return _store(uri).read(uri, max_bytes)


class ObjectSource:
    """An object of which only the ranges are fetched that are asked for: a `gatefold.ranged.Source`.

    All of it comes from one and the same content: once the object is replaced, the next fetch says so.
    """

    def __init__(self, uri: str, first_bytes: int) -> None:
        self.uri = uri
        first = _store(uri).read_piece(uri, 0, first_bytes, None)
        self._first = first.data
        self.size = first.size_bytes
        """bytes"""
        self.etag = first.etag
        """of the content that is read, as listings have it; None for an empty object"""
        self.bytes_read = len(first.data)
        """bytes fetched from the store so far"""

    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on: fewer at the end of the object, none behind it.

        Raises: ObjectChanged when the object was replaced since it was opened; ObjectNotFound when it was deleted.
        """
        if offset < 0 or length < 0:
            raise InputError(f"'{self.uri}': range {offset}+{length} must not be negative")
        held = self._first[offset : offset + length]
        start, end = offset + len(held), min(offset + length, self.size)
        if start >= end:
            return held
        piece = _store(self.uri).read_piece(self.uri, start, end - start, self.etag)
        self.bytes_read += len(piece.data)
        return held + piece.data


def open_source(uri: str, first_bytes: int = FIRST_BYTES) -> ObjectSource:
    """An object to be read in ranges. Opening it fetches its first bytes, and learns size and tag on the way.

    Args:
        first_bytes: how many; what lies within them is not fetched again.

    Raises: ObjectNotFound.
    """
    return ObjectSource(uri, first_bytes)


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """All objects under a folder or prefix, at any depth, sorted by uri; nothing when there is no such folder."""
    return _store(uri).list_objects(uri)


def list_folder(uri: str) -> Iterator[ObjectInfo]:
    """The objects directly in a folder or prefix, sorted by uri; nothing when there is no such folder."""
    return _store(uri).list_folder(uri)


def put(uri: str, data: bytes) -> None:
    """Writes an object as a whole, in the place of what was there; folders are made as needed."""
    _store(uri).put(uri, data)


def put_file(uri: str, path: Path) -> None:
    """`put` of what a local file holds, which is never in memory as a whole."""
    _store(uri).put_file(uri, path)


def fetch(uri: str, path: Path) -> None:
    """The whole object into a local file, never in memory as a whole. Raises: ObjectNotFound; ObjectChanged."""
    _store(uri).fetch(uri, path)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Writes an object unless there is one. True when this call wrote it: of many callers, one alone gets True.

    A write whose answer was lost is recognised by its bytes: callers that must be distinguished write different
    ones.
    """
    return _store(uri).put_if_absent(uri, data)


def put_if_unchanged(uri: str, data: bytes, etag: str) -> bool:
    """Writes an object in the place of the one that was read, unless it was replaced or deleted since.

    Of many callers who read the same content, one alone gets True. A write whose answer was lost is known again by its
    bytes, as in `put_if_absent`. A local file is compared by the rules of `ObjectInfo.etag`, and only callers of this
    function exclude each other.

    Args:
        etag: of the content that was read, as `open_source` and `stat` give it.

    Returns: whether it was written.
    """
    return _store(uri).put_if_unchanged(uri, data, etag)


def delete(uri: str) -> None:
    """Removes an object, if it is there."""
    _store(uri).delete(uri)


def delete_tree(uri: str) -> None:
    """Removes all under a folder or prefix, if it is there. Raises: InputError for the root of a disk or a bucket."""
    _store(uri).delete_tree(uri)


def _store(uri: str) -> _Store:
    if uri.startswith("file:///"):
        return local
    if uri.startswith("s3://"):
        from gatefold.storage import s3  # here, because the SDK costs a fifth of a second that local files need not pay

        return s3
    raise InputError(f"'{uri}' is not canonical: resolve it first (file:///… or s3://bucket/…)")
