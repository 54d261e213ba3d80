"""The files of a folder or prefix that may be songs or covers, and what was passed over, by reason and suffix.

Every folder is entered once, whatever links lead to it; what cannot be read costs itself. Which files are songs is not
known here, but which are nobody's music: the trash of systems, their notes, and what is hidden.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa

from gatefold.errors import GatefoldError, NotFound, StorageDenied
from gatefold.storage import objects

AUDIO = (".wav", ".wave", ".bwf", ".rf64", ".flac", ".fla", ".mp3", ".mp2", ".mpga", ".ogg", ".oga", ".ogx", ".opus",
         ".m4a", ".m4b", ".m4p", ".m4r", ".mp4", ".aac", ".adts", ".aif", ".aiff", ".aifc")
"""Suffixes that songs may have; what a file really is, its content says."""
_SYSTEM = frozenset({
    "#recycle", "@recycle", "@eadir", "#snapshot", "@tmp", "lost+found", "$recycle.bin", "recycler", "recycled",
    "system volume information", "__macosx", "network trash folder", "temporary items", "trash",
})  # fmt: skip
"""Folders of operating systems and servers, in lower case; those that begin with a dot are hidden anyhow."""
HIDDEN, SYSTEM, UNREADABLE, SPECIAL, BROKEN = (
    "hidden", "in a system folder", "unreadable", "no regular file", "a link to nothing",
)  # fmt: skip


ROWS = 32_768
"""Files that are Python objects at a time: all of millions would take gigabytes."""
_FILES = pa.schema([("path", pa.string()), ("uri", pa.string()), ("etag", pa.string())])


@dataclass
class Listing:
    """What a folder holds."""

    passed_over: dict[str, Counter[str]] = field(default_factory=dict)
    """files by reason and by suffix, in lower case; a folder counts as one file with the suffix '/'"""
    _batches: list[pa.RecordBatch] = field(default_factory=list)
    _newest: list[tuple[str, str, str | None]] = field(default_factory=list)
    _last: str = ""
    _is_sorted: bool = True

    def add(self, path: str, uri: str, etag: str | None) -> None:
        """A file, by its path inside the folder."""
        self._is_sorted = self._is_sorted and path >= self._last
        self._last = path
        self._newest.append((path, uri, etag))
        if len(self._newest) == ROWS:
            self._flush()

    def take_files(self) -> pa.Table:
        """path, uri and etag of all files that were added, sorted by path; they are kept here no longer."""
        self._flush()
        files = pa.Table.from_batches(self._batches, _FILES)
        self._batches = []
        return files if self._is_sorted else files.sort_by("path")  # a store lists by name: a copy less in memory

    def _flush(self) -> None:
        columns = zip(*self._newest, strict=True) if self._newest else ((), (), ())
        self._batches.append(pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=_FILES))
        self._newest = []

    def pass_over(self, reason: str, path: str) -> None:
        """Counts a file, or with a slash at the end a folder."""
        suffix = "/" if path.endswith("/") else PurePosixPath(path).suffix.lower()
        self.passed_over.setdefault(reason, Counter())[suffix] += 1


def list_files(folder: str) -> Listing:
    """All files under a folder or prefix, at any depth, but those passed over; none when there is no such folder.

    Raises: StorageDenied when the folder itself may not be read; of a prefix, all that its listing raises.
    """
    root = objects.local_path(folder)
    found = Listing()
    if root is None:
        for info in objects.list_objects(folder):
            path = info.uri.removeprefix(folder.rstrip("/") + "/")
            *parents, name = path.split("/")
            reason = next((why for why in map(reason_against, parents) if why), None) or reason_against(name, file=True)
            if reason:
                found.pass_over(reason, path)
            else:
                found.add(path, info.uri, info.etag)
    elif root.is_dir():
        _walk(folder, root, found)
    return found


def reason_against(name: str, *, file: bool = False) -> str | None:
    """Why a folder or file of this name is passed over; None where it is not.

    A dot in front hides, but for names that begin with several, or with a number: '...Baby One More Time', '.45'. Of
    names that begin with '._' none is a song: they are what another system knows of the file beside.
    """
    if name.startswith(".") and not (name[1:2].isdigit() or name.startswith("..")):
        return HIDDEN
    return SYSTEM if not file and name.lower() in _SYSTEM else None


def _walk(folder: str, root: Path, found: Listing) -> None:
    """Folders first as they lie, then those to which links lead, unless they were met already."""
    entered = {_identity(root.stat())}
    linked: list[Path] = []
    for path in _below(root, root, entered, linked, found):
        _add(folder, root, path, found)
    while linked:
        here = linked.pop(0)
        try:
            identity = _identity(here.stat())
        except OSError:
            found.pass_over(UNREADABLE, f"{here}/")
            continue
        if identity not in entered:
            entered.add(identity)
            for path in _below(here, root, entered, linked, found):
                _add(folder, root, path, found)


def _below(
    here: Path, root: Path, entered: set[tuple[int, int]], linked: list[Path], found: Listing
) -> Iterator[Path]:
    """The files under a folder that is entered now; links to folders are put aside."""
    waiting = [here]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise StorageDenied(f"'{folder}': {error.strerror}; give this account the right to read it") from error
            found.pass_over(UNREADABLE, f"{folder}/")
            continue
        for entry in entries:
            try:
                is_folder, is_link = entry.is_dir(), entry.is_symlink()
                reason = reason_against(entry.name, file=not is_folder)
                if reason is not None:
                    found.pass_over(reason, f"{entry.path}/" if is_folder else entry.path)
                elif is_folder and is_link:
                    linked.append(Path(entry.path))
                elif is_folder:
                    identity = _identity(entry.stat())
                    if identity not in entered:
                        entered.add(identity)
                        waiting.append(Path(entry.path))
                elif is_link and not os.path.exists(entry.path):  # noqa: PTH110 - of millions
                    found.pass_over(BROKEN, entry.path)
                elif not stat.S_ISREG(entry.stat().st_mode):
                    found.pass_over(SPECIAL, entry.path)
                else:
                    yield Path(entry.path)
            except OSError:
                found.pass_over(UNREADABLE, entry.path)


def _add(folder: str, root: Path, path: Path, found: Listing) -> None:
    uri = objects.join(folder, path.relative_to(root).as_posix())
    try:
        etag = objects.stat(uri).etag
    except NotFound:  # gone since it was listed
        return
    except GatefoldError:
        found.pass_over(UNREADABLE, str(path))
        return
    found.add(objects.relative(uri, folder), uri, etag)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
