"""Thumbnails of the catalogue's covers, from the covers table, and from the original files where it has none of that
size.

Covers that are asked for together are read together. A table that does not answer in time is left alone for a while.
Knows nothing of HTTP.
"""

import asyncio
import contextvars
import logging
import time

from gatefold.config import CoverSettings
from gatefold.errors import Corrupt, GatefoldError, NotFound, Unavailable
from gatefold.images.pixels import decode_cover
from gatefold.index.interface import IndexedTrack
from gatefold.storage.contents.cover_pixels import CoverPixels, Pixels
from gatefold.storage.contents.embedded_pictures import read_cover
from gatefold.workspace import Workspace
from serve.interfaces import CoverGeneration

logger = logging.getLogger(__name__)

TABLE_WITHIN_S = 5.0
"""seconds that the table may take until the original is read"""
TABLE_PAUSE_S = 60.0
"""seconds that a table which took longer is left alone"""
TOGETHER_S = 0.005
"""seconds that the first cover waits for others to be read with it"""


class Thumbnails:
    """The covers of a workspace, whichever release serves.

    Args:
        cache_bytes: of pixels kept in memory, of one covers table.
    """

    def __init__(self, workspace: Workspace, cache_bytes: int) -> None:
        self._workspace, self._cache_bytes = workspace, cache_bytes
        self._table: _Table | None = None

    async def read(self, known: IndexedTrack, size: int, generator: CoverGeneration) -> Pixels:
        """uint8 [3, S, S] of a track's cover, S at least `size` where the original is as large.

        Args:
            size: pixels a side, wanted.
            generator: of the release that serves, which knows how covers are stored.

        Raises: NotFound where the track has no cover or it cannot be read any more; Unavailable where the store does
            not answer. No message names a place in our storage.
        """
        if known.cover_uri is None:
            raise NotFound(f"track '{known.track.song_id}' has no cover")
        stored = await self._stored(known.track.song_id, size, generator)
        return await asyncio.to_thread(_original, known, size) if stored is None else stored

    async def _stored(self, song_id: str, size: int, generator: CoverGeneration) -> Pixels | None:
        if self._table is not None and self._table.pauses():
            return None
        try:
            return await asyncio.wait_for(self._from_table(song_id, size, generator), TABLE_WITHIN_S)
        except TimeoutError:
            logger.warning("the covers table takes more than %g s; originals are read for now", TABLE_WITHIN_S)
            if self._table is not None:
                self._table.pause()
            return None

    async def _from_table(self, song_id: str, size: int, generator: CoverGeneration) -> Pixels | None:
        cover = (await generator.describe()).cover
        if size > cover.size:
            return None
        folder = self._workspace.covers(cover)
        if self._table is None or self._table.folder != folder:
            self._table = _Table(folder, cover, self._cache_bytes)
        return await self._table.read(song_id)


class _Table:
    """One covers table, read for many who ask one by one."""

    def __init__(self, folder: str, cover: CoverSettings, cache_bytes: int) -> None:
        self.folder = folder
        self._pixels = CoverPixels(folder, cover, cache_bytes, lambda _: None)
        self._waiting: dict[str, asyncio.Future[Pixels | None]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._paused_until = 0.0

    def pauses(self) -> bool:
        return time.monotonic() < self._paused_until

    def pause(self) -> None:
        self._paused_until = time.monotonic() + TABLE_PAUSE_S

    async def read(self, song_id: str) -> Pixels | None:
        """The cover; None where the table has none or cannot be read."""
        loop = asyncio.get_running_loop()
        found = self._waiting.setdefault(song_id, loop.create_future())
        if self._reading is None or self._reading.done():
            # In an empty context: Ray Serve cancels every task with the context of a request whose client has gone.
            self._reading = contextvars.Context().run(asyncio.create_task, self._read_waiting())
        return await asyncio.shield(found)  # others may wait for the same

    async def _read_waiting(self) -> None:
        while self._waiting:
            await asyncio.sleep(TOGETHER_S)
            batch, self._waiting = self._waiting, {}
            try:
                found = await asyncio.to_thread(self._pixels.read, list(batch))
            except GatefoldError as error:
                logger.warning("the covers table cannot be read, originals are: %s", error)
                found = {}
            for song_id, future in batch.items():
                future.set_result(found.get(song_id))


def _original(known: IndexedTrack, size: int) -> Pixels:
    """uint8 [3, size, size] of the file that is in the index: never of a place that a caller names."""
    song_id, settings = known.track.song_id, CoverSettings(size=size)
    assert known.cover_uri is not None
    try:
        return decode_cover(read_cover(known.cover_uri, settings.max_bytes), settings)
    except Unavailable as error:
        logger.warning("cover of track '%s': %s", song_id, error)
        raise Unavailable(f"the store does not give out the cover of track '{song_id}' now; try again later") from None
    except Corrupt as error:
        logger.error("cover of track '%s': %s", song_id, error)
        raise Corrupt(f"the store does not give out the cover of track '{song_id}'; the log says why") from None
    except GatefoldError as error:
        logger.warning("cover of track '%s': %s", song_id, error)
        raise NotFound(
            f"the cover of track '{song_id}' has gone from storage or is no picture any more; index the catalogue again"
        ) from None
