"""How long a job is waited for, how often it is looked at, and what its end means. No I/O."""

import math
import time
from collections.abc import Callable

from gatefold.client.errors import JobCancelled, JobFailed, JobUnfinished
from gatefold.client.models import JobStatus

FIRST_POLL_S, LAST_POLL_S = 0.2, 2.0
"""seconds between two looks at a job: it begins with the first, and grows by half each time"""
OnStatus = Callable[[JobStatus], object]


class Wait:
    """One wait for a job.

    Args:
        timeout_s: at most; None is without end.
        on_progress: called with each change that is seen.

    Raises: ValueError.
    """

    def __init__(self, timeout_s: float | None, on_progress: OnStatus | None) -> None:
        if timeout_s is not None and not (math.isfinite(timeout_s) and timeout_s >= 0):
            raise ValueError(f"timeout_s = {timeout_s}: a number of seconds, at least 0, or None")
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._seen: tuple[object, ...] | None = None
        self._poll_s = FIRST_POLL_S

    @property
    def left_s(self) -> float | None:
        """Seconds left, at least 0; None where there is no end."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def saw(self, status: JobStatus) -> None:
        """Notes the job as it is, and calls on_progress where it changed."""
        now = status.state, status.position, status.progress
        if now != self._seen:
            self._seen = now
            if self._on_progress is not None:
                self._on_progress(status)

    def pause(self, status: JobStatus) -> float:
        """Seconds until the job is looked at again. Raises: JobUnfinished where no time is left."""
        left_s = self.left_s
        if left_s == 0:
            raise self.unfinished(status)
        poll_s, self._poll_s = self._poll_s, min(LAST_POLL_S, self._poll_s * 1.5)
        return poll_s if left_s is None else min(poll_s, left_s)

    def unfinished(self, status: JobStatus) -> JobUnfinished:
        """The error that says so."""
        return JobUnfinished(
            f"job '{status.job_id}' is still {status.state} after {self._timeout_s:g} s, and goes on", status
        )


def check_succeeded(status: JobStatus) -> None:
    """Nothing, for a job that succeeded. Raises: JobFailed; JobCancelled; JobUnfinished."""
    if not status.ended:
        raise JobUnfinished(f"job '{status.job_id}' is still {status.state}; wait for it first", status)
    if status.state == "cancelled":
        raise JobCancelled(f"job '{status.job_id}' was cancelled", status)
    if status.state != "succeeded":
        problem = status.problem
        said = f"{problem.code}: {problem.detail}" if problem else "the endpoint gives no reason"
        raise JobFailed(f"job '{status.job_id}' {status.state}: {said}", status)
