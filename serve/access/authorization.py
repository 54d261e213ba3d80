"""What a request passes before its route: its key, its rate, the scope that its operation needs. A dependency of all
routes under /v1 but health."""

import logging

from fastapi import Request
from fastapi.security import HTTPBearer

from gatefold.errors import Forbidden
from serve.access.audit import AuditLog
from serve.access.callers import ANYONE, Caller
from serve.access.key_ring import KeyRing
from serve.access.rates import RateLimits
from serve.access.scopes import is_audited, needed_scopes
from serve.observability.carried import add

logger = logging.getLogger(__name__)

PREFIX = "/v1"
"""of all routes that need a key"""
_BEARER = HTTPBearer(auto_error=False)


class Authorization:
    """The dependency. It notes in the request's state `caller`, `rate` (None without a limit) and, of a call that is
    audited, `audit` (its number)."""

    def __init__(self, ring: KeyRing, rates: RateLimits, audit: AuditLog) -> None:
        self._ring, self._rates, self._audit = ring, rates, audit

    async def __call__(self, request: Request) -> None:
        """Lets in who may do this. Raises: Unauthorized, RateLimited, Forbidden; DatabaseUnavailable."""
        shown = await _BEARER(request)
        caller = request.state.caller = self._ring.caller(shown.credentials if shown else None)
        if caller != ANYONE:
            add(key_prefix=caller.name)
        request.state.rate, refusal = self._rates.count(caller)
        if refusal is not None:
            raise refusal
        operation = operation_of(request)
        if is_audited(operation):
            request.state.audit = await self._audit.begin(caller.id, operation, request.url.path)
        _check_scope(caller, operation)


def operation_of(request: Request) -> str:
    """The operation that a request asks for, as `GET /v1/covers/{job_id}`."""
    return f"{request.method} {PREFIX}{request.scope['route'].path_format}"


def _check_scope(caller: Caller, operation: str) -> None:
    needed = needed_scopes(operation)
    if caller.may(needed):
        return
    logger.info("%s may not %s", caller.name, operation)
    raise Forbidden(
        f"{operation} needs an API key with the scope {' or '.join(sorted(needed))}; '{caller.name}' has "
        f"{', '.join(sorted(caller.scopes))}; ask the operator for another"
    )
