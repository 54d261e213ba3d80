"""Deletes what has had its time: jobs that ended long enough ago, with their files, and files that belong to no job."""

import asyncio
import logging
import time

from gatefold.errors import GatefoldError
from serve.jobs.files import JobFiles
from serve.jobs.queue import JobQueue

logger = logging.getLogger(__name__)

_AT_ONCE = 100  # jobs deleted in one transaction
ORPHANED_AFTER_S = 86_400.0
"""seconds after which files are deleted that belong to no job: of a request that was refused or broke off"""
_LOOK_FOR_ORPHANS_EVERY_S = 3_600.0


class Sweeper:
    """Any number of them may work on the same jobs; each delete may be repeated.

    Args:
        every_s: seconds between two looks for expired jobs.
    """

    def __init__(self, queue: JobQueue, files: JobFiles, every_s: float) -> None:
        self._queue, self._files = queue, files
        self._every_s = every_s

    async def run(self) -> None:
        """Never ends; where database or store do not answer, it tries again later."""
        looked_at = -_LOOK_FOR_ORPHANS_EVERY_S
        while True:
            try:
                await self.delete_expired()
                if time.monotonic() - looked_at >= _LOOK_FOR_ORPHANS_EVERY_S:
                    looked_at = time.monotonic()
                    await self.delete_orphans(ORPHANED_AFTER_S)
            except GatefoldError as error:
                logger.warning("expired jobs cannot be deleted now: %s", error)
            except Exception:
                logger.exception("expired jobs cannot be deleted now")
            await asyncio.sleep(self._every_s)

    async def delete_expired(self) -> int:
        """Deletes the jobs that have expired; how many. First their files, so that none is left without a job."""
        deleted = 0
        while job_ids := await self._queue.expired(_AT_ONCE):
            for job_id in job_ids:
                await self._files.delete(job_id)
            await self._queue.forget(job_ids)
            deleted += len(job_ids)
        return deleted

    async def delete_orphans(self, age_s: float) -> int:
        """Deletes files of this age that belong to no job; of how many job_ids."""
        found = await self._files.job_ids_before(age_s)
        known: set[str] = set()
        for start in range(0, len(found), _AT_ONCE):
            known |= await self._queue.known(found[start : start + _AT_ONCE])
        orphans = [job_id for job_id in found if job_id not in known]
        for job_id in orphans:
            await self._files.delete(job_id)
        return len(orphans)
