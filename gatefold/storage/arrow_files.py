"""Objects as an Arrow filesystem, for libraries that take nothing else: Ray Train keeps its checkpoints through it.

All goes through `objects`, so checkpoints are as patient with a store, as checked and as large as everything else.
Paths are "bucket/key". Folders are there as soon as an object lies in them.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.fs import (
    FileInfo,
    FileSelector,
    FileSystem,
    FileSystemHandler,
    FileType,
    LocalFileSystem,
    PyFileSystem,
)

from gatefold.errors import ObjectNotFound
from gatefold.ranged import SourceFile
from gatefold.storage import objects
from gatefold.storage.uris import bucket_and_key, local_path


def arrow_filesystem(uri: str) -> tuple[FileSystem, str]:
    """An Arrow filesystem for this uri and the path in it; it may be sent to other processes. What it does in a store
    is done by `objects`."""
    path = local_path(uri)
    if path is not None:
        return LocalFileSystem(), str(path)
    return PyFileSystem(ObjectFiles()), "/".join(bucket_and_key(uri)).rstrip("/")


class ObjectFiles(FileSystemHandler):
    """The objects of S3, or of a store that speaks its protocol. It may be sent to other processes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectFiles)

    def __hash__(self) -> int:
        return hash(ObjectFiles)

    def get_type_name(self) -> str:
        return "gatefold-objects"

    def normalize_path(self, path: str) -> str:
        return path.strip("/")

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        base = selector.base_dir.strip("/")
        found: dict[str, FileInfo] = {}
        for one in objects.list_objects(_uri(base)):
            inside = objects.relative(one.uri, _uri(base)).split("/")
            for depth in range(1, len(inside)):
                folder = f"{base}/{'/'.join(inside[:depth])}"
                found[folder] = FileInfo(folder, FileType.Directory)
            path = one.uri.removeprefix("s3://")
            found[path] = FileInfo(path, FileType.File, size=one.size_bytes, mtime=one.modified)
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(f"'{base}' is no folder")
        return [one for path, one in found.items() if selector.recursive or "/" not in path[len(base) + 1 :]]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing needs to be done."""

    def delete_dir(self, path: str) -> None:
        objects.delete_tree(_uri(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:  # noqa: ARG002
        objects.delete_tree(_uri(path))

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("buckets are not emptied")

    def delete_file(self, path: str) -> None:
        objects.delete(_uri(path))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "object"
            objects.fetch(_uri(src), path)
            objects.put_file(_uri(dest), path)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """All of it is fetched at once, to a local file: a stream is read to its end."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "object"
            _known(path)
            objects.fetch(_uri(path), copy)
            return pa.OSFile(str(copy), mode="r")  # an open file outlives its name

    def open_input_file(self, path: str) -> pa.PythonFile:
        _known(path)
        return pa.PythonFile(SourceFile(objects.open_source(_uri(path))), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:  # noqa: ARG002
        return pa.PythonFile(_Upload(_uri(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        raise NotImplementedError("objects are put as a whole")


class _Upload(io.RawIOBase):
    """Writes to a local file, which is put when it is closed."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri, self._folder = uri, tempfile.TemporaryDirectory()
        self._file = (Path(self._folder.name) / "object").open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        with self._folder:
            self._file.close()
            objects.put_file(self._uri, Path(self._file.name))


def _uri(path: str) -> str:
    return f"s3://{path.strip('/')}"


def _info(path: str) -> FileInfo:
    try:
        found = objects.stat(_uri(path))
        return FileInfo(path, FileType.File, size=found.size_bytes, mtime=found.modified)
    except ObjectNotFound:
        there = any(True for _ in objects.list_objects(_uri(path)))
        return FileInfo(path, FileType.Directory if there else FileType.NotFound)


def _known(path: str) -> None:
    """Raises: FileNotFoundError, as those expect who know filesystems."""
    if not objects.exists(_uri(path)):
        raise FileNotFoundError(f"'{path}' does not exist")
