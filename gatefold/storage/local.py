"""Objects on a disk. A reader sees a whole file or none: bytes go to a temporary file, which is moved in place.

Knows paths and the operating system's errors; all storage is reached through `objects`, nothing else imports this.
"""

import errno
import fcntl
import os
import shutil
import stat as stat_of
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from gatefold.errors import InputError, ObjectChanged, ObjectNotFound, StorageDenied, StorageUnavailable, TooLarge
from gatefold.storage.uris import ObjectInfo, Piece, join, local_path, resolve

_COPIED_BYTES = 1 << 22  # at a time
TEMPORARY = ".gatefold-tmp-"
"""How the names of unfinished files begin; listings leave them out."""
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_LOCK = f"{TEMPORARY}lock"
"""File that is locked while another one of its folder is compared and replaced."""


def stat(uri: str) -> ObjectInfo:
    """As `objects.stat`; a folder is no object."""
    with translated(uri):
        status = _path(uri).stat()
        if stat_of.S_ISDIR(status.st_mode):
            raise ObjectNotFound(f"'{uri}' is a folder, not an object")
        _refuse_irregular(uri, status)
        return _info(uri, status)


def read(uri: str, max_bytes: int | None) -> bytes:
    """As `objects.read`."""
    with translated(uri), _opened(uri) as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size > max_bytes:
            raise TooLarge(f"'{uri}' has {size:,} bytes, limit {max_bytes:,}")
        return file.read()


def read_piece(uri: str, offset: int, length: int, etag: str | None) -> Piece:
    """At most `length` bytes from `offset` on. Raises: ObjectNotFound; ObjectChanged where its tag is not `etag`."""
    with translated(uri), _opened(uri) as file:
        status = os.fstat(file.fileno())
        if etag not in (None, _etag(status)):
            raise ObjectChanged(f"'{uri}' changed while it was read; read it again")
        file.seek(offset)
        return Piece(file.read(length), status.st_size, _etag(status))


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """As `objects.list_objects`, without unfinished files."""
    yield from _infos(uri, os.walk(_path(uri), onerror=_refuse_unreadable))


def list_folder(uri: str) -> Iterator[ObjectInfo]:
    """As `objects.list_folder`, without unfinished files."""
    yield from _infos(uri, islice(os.walk(_path(uri), onerror=_refuse_unreadable), 1))


def _infos(uri: str, folders: Iterable[tuple[str, list[str], list[str]]]) -> list[ObjectInfo]:
    root = _path(uri)
    found = []
    for folder, _, names in folders:
        inside = join(uri, os.path.relpath(folder, root)) if Path(folder) != root else uri
        for file_name in names:
            if file_name.startswith(TEMPORARY):
                continue
            try:
                status = os.stat(f"{folder}/{file_name}")  # noqa: PTH116 - as a Path this takes thrice the time
            except OSError as error:
                if error.errno in _LEADS_NOWHERE:  # gone since it was listed, or a link to nothing, or to itself
                    continue
                with translated(join(inside, file_name)):
                    raise
            found.append(_info(join(inside, file_name), status))
    return sorted(found, key=lambda info: info.uri)


def put(uri: str, data: bytes) -> None:
    """As `objects.put`."""
    with translated(uri), _written_beside(_path(uri), data) as temporary:
        temporary.replace(_path(uri))


def put_file(uri: str, path: Path) -> None:
    """As `objects.put_file`."""
    with translated(uri), _written_beside(_path(uri), path) as temporary:
        temporary.replace(_path(uri))


def fetch(uri: str, path: Path) -> None:
    """As `objects.fetch`."""
    with translated(uri), _opened(uri) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, _COPIED_BYTES)


def put_if_absent(uri: str, data: bytes) -> bool:
    """As `objects.put_if_absent`: a hard link decides, which is made where there is no such name."""
    with translated(uri), _written_beside(_path(uri), data) as temporary:
        try:
            os.link(temporary, _path(uri))
        except FileExistsError:
            return False
        return True


def put_if_unchanged(uri: str, data: bytes, etag: str) -> bool:
    """As `objects.put_if_unchanged`, under a lock of the folder. Mode, owner and extended attributes stay."""
    path = _path(uri)
    with translated(uri), _written_beside(path, data) as temporary, _locked(path.parent / _LOCK):
        try:
            unchanged = _etag(path.stat()) == etag
        except FileNotFoundError:
            return False
        if unchanged:
            _make_like(temporary, path)
            temporary.replace(path)
        return unchanged


def delete(uri: str) -> None:
    """As `objects.delete`."""
    with translated(uri):
        _path(uri).unlink(missing_ok=True)


def delete_tree(uri: str) -> None:
    """As `objects.delete_tree`."""
    path = _path(uri)
    if path == path.parent:
        raise InputError(f"'{uri}' is the root of the disk and will not be deleted")
    with translated(uri):
        for _ in range(3):  # a writer may add a file while its folder is being emptied
            try:
                return shutil.rmtree(path)
            except FileNotFoundError:
                if not path.exists():
                    return None
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
        return shutil.rmtree(path)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Translates the operating system's errors to gatefold's, naming the uri."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ObjectNotFound(f"'{uri}' does not exist or is not a file") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageDenied(f"'{uri}': {error.strerror}; give this account the right to use it") from error
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EEXIST, errno.ELOOP):
            raise InputError(f"'{uri}': {error.strerror}; choose another location") from error
        raise StorageUnavailable(f"'{uri}': {error.strerror or error}") from error


@contextmanager
def _written_beside(path: Path, content: bytes | Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, _COPIED_BYTES)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _make_like(temporary: Path, path: Path) -> None:
    """Gives a file the mode, the extended attributes and, where this account may, the owner of another."""
    status = path.stat()
    with suppress(PermissionError):
        os.chown(temporary, status.st_uid, status.st_gid)
    shutil.copystat(path, temporary)
    os.utime(temporary)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One holder at a time, of all processes that reach this folder; the file is made for it and removed again."""
    while True:
        with path.open("ab") as lock:  # its closing gives the lock back
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(path, lock.fileno()):  # the holder before removed it while we waited
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """The new name, too, must outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_unreadable(error: OSError) -> None:
    """A folder that may not be read must not pass for an empty one."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        with translated(resolve(str(error.filename))):
            raise error


def _opened(uri: str) -> BinaryIO:
    """A regular file, to be read. Raises: ObjectNotFound for a pipe or a device, which would be waited for."""
    file = open(_path(uri), "rb", opener=_open_without_waiting)  # noqa: SIM115 - a Path takes no opener
    try:
        _refuse_irregular(uri, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # or a pipe that nobody writes to is waited for


def _refuse_irregular(uri: str, status: os.stat_result) -> None:
    if not stat_of.S_ISREG(status.st_mode):
        raise ObjectNotFound(f"'{uri}' is no regular file")


def _path(uri: str) -> Path:
    path = local_path(uri)
    if path is None:
        raise InputError(f"'{uri}' is not canonical: resolve it first (file:///… or s3://bucket/…)")
    return path


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return ObjectInfo(uri, status.st_size, modified, _etag(status))


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
