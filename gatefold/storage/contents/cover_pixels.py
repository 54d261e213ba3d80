"""Pixels of the catalogue's covers by song_id, from the covers table or from the original files at any size.

A process keeps some of what it has read of the table.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gatefold.config import CoverSettings, Settings
from gatefold.errors import Corrupt, StageMissing
from gatefold.images.pixels import decode_at, resized
from gatefold.storage import tables
from gatefold.storage.contents.embedded_pictures import read_cover
from gatefold.workspace import Workspace

Pixels = npt.NDArray[np.uint8]


def read_pixels(folder: str, song_ids: Sequence[str], size: int) -> dict[str, Pixels]:
    """uint8 [3, size, size] of those of these songs that have a row, by averaging where the table has larger ones.

    Args:
        folder: of the covers table.

    Raises: StageMissing when there is no table.
    """
    rows = tables.read_rows(folder, song_ids, ["song_id", "pixels"], stage="covers")
    if not rows.num_rows:
        return {}
    return dict(zip(rows["song_id"].to_pylist(), resized(tables.tensors(rows["pixels"]), size), strict=True))


class CoverPixels:
    """The covers table, for a process that reads the same covers again and again.

    Args:
        folder: of the table.
        cover: how its covers were made.
        cache_bytes: pixels kept, those that were read last.
        cover_uri: of a song_id's original file; None where it has none. Without it no original is read.
    """

    def __init__(
        self,
        folder: str,
        cover: CoverSettings,
        cache_bytes: int,
        cover_uri: Callable[[str], str | None] = lambda song_id: None,  # noqa: ARG005
    ) -> None:
        self._folder, self._cover, self._cover_uri = folder, cover, cover_uri
        self._room = cache_bytes // (3 * cover.size**2)
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """pixels a side of the table's covers."""
        return self._cover.size

    def read(self, song_ids: Sequence[str]) -> dict[str, Pixels]:
        """uint8 [3, S, S] of those of these songs that are in the table."""
        with self._lock:
            found = {song_id: self._kept[song_id] for song_id in song_ids if song_id in self._kept}
        missing = [song_id for song_id in dict.fromkeys(song_ids) if song_id not in found]
        if missing:
            found |= read_pixels(self._folder, missing, self._cover.size)
        with self._lock:
            for song_id, pixels in found.items():
                self._kept[song_id] = pixels
                self._kept.move_to_end(song_id)
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return found

    def original(self, song_id: str, size: int) -> tuple[Pixels, int]:
        """uint8 [3, size, size] from the original file, and its shorter side in pixels; a smaller one is enlarged.

        Raises: NotFound, InputError for a file that is not what it was; Corrupt where the song names none.
        """
        uri = self._cover_uri(song_id)
        if uri is None:
            raise Corrupt(f"cover of '{song_id}' is in '{self._folder}', but the index names no file for it")
        return decode_at(read_cover(uri, self._cover.max_bytes), self._cover, size)


@lru_cache(maxsize=1)
def pixels_in_process(folder: str, cover: CoverSettings, cache_bytes: int) -> CoverPixels:
    """One for all tasks of a process that read the same table: the covers nearest to one song are near others too."""
    return CoverPixels(folder, cover, cache_bytes)


def read_covers(settings: Settings, workspace: Workspace, song_ids: Sequence[str]) -> Pixels:
    """The covers of these songs as the workspace has them, uint8 [n, 3, S, S], in this order; an id may come again.

    Raises: StageMissing naming a song without a cover.
    """
    stored = settings.stored_cover
    found = pixels_in_process(workspace.covers(stored), stored, settings.generator.cache_bytes).read(song_ids)
    missing = [song_id for song_id in song_ids if song_id not in found]
    if missing:
        raise StageMissing(f"track '{missing[0]}' has no cover in '{workspace.uri}'; see `gatefold rejects list`")
    return np.stack([found[song_id] for song_id in song_ids])
