"""Opt-outs while the endpoint runs: the withdrawn songs, in memory, and a retriever that filters them out.

A song withdrawn here is gone from the next request on; one withdrawn elsewhere from the next poll of the workspace on.
Knows nothing of HTTP or of Ray.
"""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime

from gatefold.errors import UnknownTrack
from gatefold.index.interface import IndexedTrack
from gatefold.records import Match
from gatefold.storage.contents import optouts
from gatefold.workspace import Workspace
from serve.interfaces import CoverRetrieval, IndexFacts, Query, SongQuery
from serve.observability.metrics import OPTOUT_LAG, OPTOUT_READ_FAILURES

logger = logging.getLogger(__name__)


class OptOuts:
    """The withdrawn songs of a workspace, as last read; they are read here for the first time.

    Raises: StorageUnavailable, Corrupt: without them nothing may be answered.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._changing = asyncio.Lock()
        self._known = optouts.read_all(workspace)
        self.song_ids = _songs(self._known)

    async def withdraw(self, song_id: str) -> None:
        """Returns when the opt-out is in the store and holds here."""
        async with self._changing:  # a refresh that began before would not know of it
            made = await asyncio.to_thread(optouts.withdraw, self._workspace, song_id)
            self.song_ids |= {song_id}
            self._observe_lag([made])

    async def refresh(self) -> None:
        """Reads what was withdrawn elsewhere."""
        async with self._changing:
            before, applied = self._known, self.song_ids
            self._known = await asyncio.to_thread(optouts.read_all, self._workspace, before)
            self.song_ids = _songs(self._known)
            new = [one for digest, one in self._known.items() if digest not in before]
            self._observe_lag([one for one in new if one.song_id not in applied])

    async def keep_refreshing(self, every_s: float) -> None:
        """Never ends; where the store does not answer, what is known goes on to hold."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except Exception:
                OPTOUT_READ_FAILURES.add()
                logger.exception("opt-outs made elsewhere cannot be read; those known so far hold")


    @staticmethod
    def _observe_lag(applied: list[optouts.OptOut]) -> None:
        for one in applied:
            OPTOUT_LAG.observe((datetime.now(UTC) - datetime.fromisoformat(one.at)).total_seconds())


class OptOutFilteredRetriever:
    """A CoverRetrieval that answers as another does, without the songs that were withdrawn."""

    def __init__(self, retriever: CoverRetrieval, withdrawn: OptOuts) -> None:
        self._retriever = retriever
        self._withdrawn = withdrawn

    async def search(self, query: Query | SongQuery) -> list[Match]:
        """Asks again, for more, only where withdrawn songs were among the answers: a filter would slow every query."""
        if isinstance(query, SongQuery):
            self._check(query.song_id)
        wanted = query.k
        while True:
            found = await self._retriever.search(replace(query, k=wanted))
            left = [match for match in found if match.track.song_id not in self._withdrawn.song_ids]
            if len(left) == len(found):
                return found[: query.k]
            if len(left) >= query.k or len(found) < wanted:
                ranked = enumerate(left[: query.k], start=1)
                return [match.model_copy(update={"rank": rank}) for rank, match in ranked]
            wanted = query.k + 2 * (len(found) - len(left))

    async def track(self, song_id: str) -> IndexedTrack:
        """As `CoverRetrieval.track`. Raises: UnknownTrack, also for a withdrawn one."""
        self._check(song_id)
        return await self._retriever.track(song_id)

    async def describe(self) -> IndexFacts:
        """As `CoverRetrieval.describe`; withdrawn songs count until the index is built anew."""
        return await self._retriever.describe()

    def _check(self, song_id: str) -> None:
        if song_id in self._withdrawn.song_ids:
            raise UnknownTrack(f"track '{song_id}' was withdrawn by its artist")


def _songs(known: dict[str, optouts.OptOut]) -> frozenset[str]:
    return frozenset(optout.song_id for optout in known.values())
