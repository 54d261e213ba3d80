"""Models of what the routes of usage and audit answer."""

from datetime import date, datetime

from serve.api.contracts import Body


class UsageView(Body):
    """What a caller used on a day."""

    caller: str
    """how its API key begins"""
    day: date
    """in UTC"""
    searches: int
    """songs searched for or embedded, successfully"""
    covers: int
    """new covers made"""
    generation_s: float
    """seconds of generation, of jobs that ended on this day"""
    cost: float | None
    """at the operator's prices; null where there are none"""


class UsageList(Body):
    """Usage by day and caller."""

    first: date
    last: date
    currency: str | None
    """of `cost`"""
    days: list[UsageView]
    """the first day first; days without usage are left out"""


class AuditEntryView(Body):
    """A call that needed the scope `admin`, or a change of a key."""

    number: int
    at: datetime
    caller: str
    """how an API key begins, or who used the command line"""
    action: str
    target: str
    result: str | None
    """status of the answer, or `done`; null where the endpoint ended before"""


class AuditList(Body):
    """A page of the audit."""

    entries: list[AuditEntryView]
    """the last first"""
