"""Runs the lines of batches, as long as it lives: searches at once, new covers as jobs of low priority, few at a time.
Any number of them may work on the same batches, in any processes. Knows nothing of HTTP or of Ray."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError, LeaseLost, QuotaExceeded, Unavailable
from serve.access.callers import name_of
from serve.active_release import ActiveRelease
from serve.api import requests
from serve.api.covers import asked_for
from serve.api.problems import internal_error, problem_of
from serve.api.songs import query_of, search_for
from serve.batches.lines import call_fields
from serve.batches.store import BatchStore, LineClaim
from serve.claiming import ClaimLoop, until_written
from serve.jobs.specs import make_spec
from serve.observability.carried import Carried, carrying, current

logger = logging.getLogger(__name__)

_RETRY_AFTER_POLLS = 10  # until a line is tried again that something did not answer for


class BatchWorker:
    """Args:
    active: the release that lines are answered by.
    limits: `jobs_poll_s`, `batches`, and those of the calls.
    """

    def __init__(self, active: ActiveRelease, store: BatchStore, limits: ServeSettings) -> None:
        self._active, self._store, self._limits = active, store, limits
        self._lines = ClaimLoop("lines of batches", _name, self._claim, self._run, limits.jobs_poll_s)

    def start(self) -> None:
        """Begins to run lines; called once, from the event loop that it is to run in."""
        self._lines.start()

    async def close(self) -> None:
        """Claims no more, and hands back what it has in hand."""
        await self._lines.close()

    async def _claim(self) -> list[LineClaim]:
        await self._store.end_due()
        room = self._limits.batches.calls_at_once - len(self._lines.in_hand)
        return await self._store.claim(room) if room > 0 else []

    async def _run(self, claim: LineClaim) -> None:
        try:
            await self._call(claim)
        except LeaseLost as error:
            logger.info("%s", error)
        except asyncio.CancelledError:
            with suppress(Unavailable):  # then its lease ends by itself
                await self._store.hand_back(claim, 0.0)
            raise
        except QuotaExceeded as error:  # nothing else waits for the end of a month either
            await self._refuse(claim, error)
        except Unavailable as error:
            logger.warning("line %s of batch %s waits: %s", claim.line, claim.batch_id, error)
            after_s = _RETRY_AFTER_POLLS * self._limits.jobs_poll_s
            await self._persist(lambda: self._store.hand_back(claim, after_s))
        except GatefoldError as error:
            await self._refuse(claim, error)
        except Exception:
            logger.exception("line %s of batch %s failed", claim.line, claim.batch_id)
            await self._refuse(claim, internal_error())

    async def _call(self, claim: LineClaim) -> None:
        with carrying(Carried(key_prefix=name_of(claim.caller))):
            await self._answer(claim)

    async def _answer(self, claim: LineClaim) -> None:
        fields = call_fields(claim.url, claim.body, self._limits)
        with self._active.current() as services:
            if isinstance(fields, requests.SearchQuery):
                found = await search_for(services, query_of(fields, services.release))
                answer = found.model_dump(mode="json")
                await self._persist(lambda: self._store.answer(claim, 200, answer))
                return
            spec = replace(await make_spec(services, asked_for(None, fields)), carried=current())
        await self._store.create_job(claim, spec, fields.webhook)

    async def _refuse(self, claim: LineClaim, error: GatefoldError) -> None:
        problem = problem_of(error, claim.url).model_dump(mode="json")
        with suppress(LeaseLost):
            await self._persist(lambda: self._store.answer(claim, error.status, problem))

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        await until_written(write, self._limits.jobs_poll_s)


def _name(claim: LineClaim) -> str:
    return f"line {claim.line} of batch {claim.batch_id}"
