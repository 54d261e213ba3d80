"""Routes of usage and audit."""

import re
from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator

from gatefold.config import ServeSettings
from gatefold.errors import Forbidden
from serve.access.audit import AuditLog
from serve.access.callers import Caller, name_of
from serve.access.contracts import AuditEntryView, AuditList, UsageList, UsageView
from serve.access.usage import DayOfUsage, UsageCounter
from serve.api.limits import ROW_NUMBER_MAX

DAYS_MAX = 366
"""days of one answer; of more, those up to the last are given"""
AUDIT_LISTED_MAX = 1000
"""entries of one answer"""


def _only_a_date(value: object) -> object:
    """The same; a number, which pydantic would take for seconds since 1970, is none."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("must be a date, as in 2026-01-31")
    return value


Day = Annotated[date, BeforeValidator(_only_a_date)]


class AccessRoutes:
    """Handlers of the routes.

    Args:
        limits: `prices` is used.
    """

    def __init__(self, usage: UsageCounter, audit: AuditLog, limits: ServeSettings) -> None:
        self._usage, self._audit, self._prices = usage, audit, limits.prices

    def router(self) -> APIRouter:
        """The routes of usage and audit."""
        router = APIRouter(tags=["access"])
        router.add_api_route("/usage", self.usage)
        router.add_api_route("/audit", self.audit)
        return router

    async def usage(
        self,
        request: Request,
        first: Annotated[Day | None, Query(alias="from", description="the first of this month without it")] = None,
        last: Annotated[Day | None, Query(alias="to", description="today without it")] = None,
        all: Annotated[bool, Query(description="of every caller, which needs the scope admin")] = False,
    ) -> UsageList:
        """What the caller used, by day in UTC; of more than a year, the last 366 days."""
        caller: Caller = request.state.caller
        if all:
            request.state.audit = await self._audit.begin(caller.id, "GET /v1/usage?all=true", request.url.path)
        if all and caller.owner is not None:
            raise Forbidden(f"all = true needs an API key with the scope admin; '{caller.name}' has not")
        today = datetime.now(UTC).date()
        last = last or today
        first = max(first or last.replace(day=1), date.fromordinal(max(1, last.toordinal() - DAYS_MAX + 1)))
        await self._usage.flush()  # what this process has counted; others write theirs within seconds
        found = await self._usage.read(None if all else caller.id, first, last)
        return UsageList(
            first=first,
            last=last,
            currency=None if self._prices is None else self._prices.currency,
            days=[self._view(day) for day in found],
        )

    async def audit(
        self,
        limit: Annotated[int, Query(ge=1, le=AUDIT_LISTED_MAX, description="entries in the answer, at most")] = 100,
        before: Annotated[
            int | None, Query(ge=1, le=ROW_NUMBER_MAX, description="number of an entry to go on from")
        ] = None,
    ) -> AuditList:
        """Calls that needed the scope `admin`, and changes of keys, the last first."""
        found = await self._audit.read(limit, before)
        return AuditList(entries=[AuditEntryView(**vars(one) | {"caller": name_of(one.caller)}) for one in found])

    def _view(self, day: DayOfUsage) -> UsageView:
        cost = None
        if (prices := self._prices) is not None:
            cost = day.searches * prices.search + day.covers * prices.cover + day.generation_s * prices.generation_s
        return UsageView(**vars(day) | {"caller": name_of(day.caller)}, cost=cost)
