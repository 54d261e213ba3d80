"""Jobs as their callers may see them: each its own, and one with the scope `admin` all, which the audit shows."""

from fastapi import Request

from serve.access.audit import AuditLog
from serve.access.authorization import operation_of
from serve.access.callers import Caller
from serve.jobs.jobs import Job
from serve.jobs.store import JobStore


class OwnJobs:
    """The jobs of the callers of requests, which have passed `serve.access.authorization`."""

    def __init__(self, store: JobStore, audit: AuditLog) -> None:
        self._store, self._audit = store, audit

    async def get(self, request: Request, job_id: str) -> Job:
        """The job. Raises: UnknownJob where there is none, or it is another caller's."""
        caller: Caller = request.state.caller
        job = await self._store.get(job_id, caller.owner)
        if job.caller != caller.id:
            request.state.audit = await self._audit.begin(caller.id, operation_of(request), request.url.path)
        return job

    async def cancel(self, request: Request, job_id: str) -> Job:
        """The job, cancelled if it had not ended. Raises: as `get`."""
        await self.get(request, job_id)
        return await self._store.cancel(job_id)
