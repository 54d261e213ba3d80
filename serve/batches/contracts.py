"""Models of what is answered about batches, each with its fields' ranges and units."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from serve.api.contracts import Body, Problem


class BatchCounts(Body):
    """Lines of a batch, by what became of them."""

    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    """never run, since the batch was cancelled or its time was over"""


class BatchView(Body):
    """A batch at one moment."""

    batch_id: str
    state: Literal["running", "completed", "cancelled", "expired"]
    created_at: datetime
    ends_at: datetime
    """when it expires if it is not completed"""
    finished_at: datetime | None
    expires_at: datetime | None
    """once ended: when it is deleted with its answers and its jobs"""
    lines: int
    counts: BatchCounts
    output_url: str
    errors_url: str


class BatchLineResponse(Body):
    """What the call of a line answered."""

    status_code: int
    body: dict[str, Any]
    """as the call by itself answers: the job, the matches, or a problem"""


class BatchLineError(Body):
    """Why a line was not run."""

    code: Literal["batch_cancelled", "batch_expired", "job_cancelled"]
    message: str


class BatchLineAnswer(Body):
    """A line of the output, or of the errors."""

    line: int
    """in the file that was sent, from 1"""
    custom_id: str
    response: BatchLineResponse | None
    error: BatchLineError | None


class BatchLineFault(Body):
    """What is wrong with a line that was sent."""

    line: int
    detail: str


class BatchProblem(Problem):
    """A batch that was refused for its lines."""

    lines: list[BatchLineFault] = Field([])
    """all that are wrong, where it is refused for them"""
