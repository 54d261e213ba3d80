"""Search for workspaces, by their marker files, near a folder that is none."""

import os
from collections.abc import Iterator
from pathlib import Path

from gatefold.storage import objects

MARKERS = ("catalogue/current.json", "releases/current")
"""A folder that holds one of these is a workspace."""
_DEPTH = 2  # folders below the place that is looked at
_FOLDERS = 2000  # looked at, at most


def is_workspace(uri: str) -> bool:
    """Whether a folder or prefix is a workspace. Raises: StorageUnavailable, StorageDenied."""
    return any(objects.exists(objects.join(uri, marker)) for marker in MARKERS)


def workspaces_near(uri: str) -> list[str]:
    """Paths of the workspaces around a folder on disk and around the working folder, relative to the latter where
    they are inside it; sorted, without the folder itself. None for a place in a bucket.

    Args:
        uri: canonical; the folder need not exist.
    """
    path = objects.local_path(uri)
    if path is None:
        return []
    here = Path.cwd()
    found = {folder for start in {path.parent, here} for folder in _workspaces_under(start)} - {path}
    return sorted(str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder) for folder in found)


def _workspaces_under(start: Path) -> Iterator[Path]:
    waiting, looked_at = [(start, 0)], 0
    while waiting and looked_at < _FOLDERS:
        folder, depth = waiting.pop(0)
        looked_at += 1
        if any((folder / marker).is_file() for marker in MARKERS):
            yield folder
        if depth < _DEPTH:
            waiting += [(inside, depth + 1) for inside in _folders_in(folder)]


def _folders_in(folder: Path) -> list[Path]:
    """Those that are not hidden, no links and readable."""
    try:
        with os.scandir(folder) as entries:
            names = [one.name for one in entries if one.is_dir(follow_symlinks=False) and not one.name.startswith(".")]
    except OSError:  # one that may not be read holds no workspace that this account could use
        return []
    return [folder / name for name in sorted(names)]
