"""A generation job as plain data: what is to be generated, how far it is, what came of it. Knows nothing of HTTP, of
Ray, or of where jobs are kept.

Shape legend: n = new covers.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from gatefold.errors import GatefoldError
from gatefold.generator.interface import Share
from gatefold.records import Match
from serve.interfaces import GenerationJob, ServedRelease
from serve.observability.carried import NOTHING, Carried

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class JobSpec:
    """What is to be generated, every default filled in."""

    release: ServedRelease
    """the release that it was made for; once the job runs, the one that runs it"""
    job: GenerationJob
    matches: tuple[Match, ...]
    """the covers that were allowed as sources when it was created"""
    n: int
    seed: int
    """of the first cover; cover i has seed + i"""
    size: int
    """pixels a side of the pictures handed out"""
    song_name: str | None = None
    """file name of an uploaded song, whose bytes are stored until the job ends; None for a song of the catalogue"""
    carried: Carried = NOTHING
    """by the request that it came with"""


@dataclass(frozen=True)
class StoredCover:
    """A new cover without its pixels, or why there is none."""

    record: dict[str, Any]
    """as `gatefold.generator.records.cover_record` makes it"""
    closest: Match | None
    """the cover of the catalogue most like it; None for a refused one"""

    @property
    def is_refused(self) -> bool:
        """Whether there is a reason in the place of a picture."""
        return "refused" in self.record

    @property
    def shares(self) -> tuple[Share, ...] | None:
        """Of each source, the largest first; None where the generator cannot say."""
        sources = self.record.get("sources")
        return None if sources is None else tuple(Share(**source) for source in sources)


@dataclass(frozen=True)
class JobResult:
    """The result of a job; its pictures lie in the store."""

    folder: str
    """name of the folder under the job's that holds them"""
    matches: tuple[Match, ...]
    """the covers that were sources when generation began"""
    covers: tuple[StoredCover, ...]
    """one for each seed"""


@dataclass(frozen=True)
class Webhook:
    """Where a caller wants to know of a job's end."""

    url: str = field(repr=False)
    """which may hold a secret"""
    events: tuple[str, ...] | None = None
    """`WebhookEventType` of serve.webhooks.contracts; all when None"""


@dataclass(frozen=True)
class Job:
    """A job at one moment."""

    job_id: str
    caller: str
    spec: JobSpec
    created_at: datetime
    state: State = "queued"
    position: int | None = None
    """jobs ahead of it, while queued"""
    progress: float = 0.0
    """share of the work done"""
    started_at: datetime | None = None
    """when the generation began that runs or that ended it"""
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    """once ended: when it is deleted with its results"""
    result: JobResult | None = None
    """once succeeded"""
    error: GatefoldError | None = None
    """once failed"""
    last_event: int = 1
    """number of its last change"""
    webhook: Webhook | None = None
    cancel_at: datetime | None = None
    """when it is cancelled if it has not ended"""

    @property
    def ended(self) -> bool:
        """Whether its state is one that does not change any more."""
        return self.state in ENDED

    @property
    def queued_s(self) -> float | None:
        """Seconds from acceptance to the beginning of generation; None before that, or without it."""
        return None if self.started_at is None else (self.started_at - self.created_at).total_seconds()

    @property
    def generation_s(self) -> float | None:
        """Seconds from the beginning of generation to the end; None before that, or without it."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class Claim:
    """The right to run a job, for as long as no later claim has a higher token and the job has not ended."""

    job: Job
    token: int


@dataclass(frozen=True)
class Idempotency:
    """A caller's key, and a digest of what was asked with it."""

    key: str
    digest: str
