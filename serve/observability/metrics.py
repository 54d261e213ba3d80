"""The endpoint's metrics, all declared here: name, kind, labels, help, and the buckets of histograms.

They count in whichever process does the work, through the registry of that process: Ray's, which exports them to
Prometheus under these names with `ray_` before them (`serve.observability.ray_registry`), or none, as in a program
without Ray. Knows nothing of Ray or of HTTP.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

EXPORTED_PREFIX = "ray_"
"""what Ray puts before each name"""

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class EndpointMetric:
    """A metric, and the labels that every value of it has.

    Raises: ValueError for a value with other labels.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: ClassVar[Kind]

    def _record(self, value: float, labels: Mapping[str, str]) -> None:
        if set(labels) != set(self.labels):
            wanted = ", ".join(self.labels) or "none"
            raise ValueError(f"metric '{self.name}' has the labels {wanted}, not {', '.join(labels) or 'none'}")
        _active.record(self, value, labels)


class Counter(EndpointMetric):
    """Counts up."""

    kind = "counter"

    def add(self, count: float = 1, **labels: str) -> None:
        """Counts so many more; nothing where that is 0."""
        if count:
            self._record(count, labels)


class Gauge(EndpointMetric):
    """Has a value that rises and falls."""

    kind = "gauge"

    def set(self, value: float, **labels: str) -> None:
        """It is this now."""
        self._record(value, labels)


@dataclass(frozen=True)
class Histogram(EndpointMetric):
    """Distribution of seconds."""

    buckets: tuple[float, ...] = ()
    """upper bounds, in seconds"""
    kind: ClassVar[Kind] = "histogram"

    def observe(self, seconds: float, **labels: str) -> None:
        """It took so long."""
        self._record(max(0.0, seconds), labels)

    @contextmanager
    def time(self, **labels: str) -> Iterator[None]:
        """Observes how long the block takes, unless it raises."""
        began = time.perf_counter()
        yield
        self.observe(time.perf_counter() - began, **labels)


class Registry(Protocol):
    """Where values go."""

    def record(self, metric: EndpointMetric, value: float, labels: Mapping[str, str]) -> None:
        """Counts, sets or observes the value, as the metric's kind is.

        Args:
            labels: exactly those of the metric.
        """


class NoRegistry:
    """Drops everything: of a process that is not seen by Prometheus."""

    def record(self, metric: EndpointMetric, value: float, labels: Mapping[str, str]) -> None:
        """Nothing."""


_active: Registry = NoRegistry()


def use(registry: Registry) -> None:
    """All values of this process go there from now on."""
    global _active
    _active = registry


def declared() -> list[EndpointMetric]:
    """Every metric, in the order in which they are declared below."""
    return [one for one in globals().values() if isinstance(one, EndpointMetric)]


def markdown_table() -> str:
    """The metrics as docs/operating.md lists them, under the names that Prometheus has."""
    rows = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for one in declared():
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{EXPORTED_PREFIX}{one.name}` | {one.kind} | {labels} | {one.help} |")
    return "\n".join(rows)


_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_MINUTES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

JOBS = Gauge(
    "gatefold_jobs", "jobs that have not ended, of all callers; `queue` is `single` or `batch`", ("state", "queue")
)
OLDEST_QUEUED = Gauge(
    "gatefold_oldest_queued_seconds",
    "seconds since the oldest queued job was accepted, but for those of batches; 0 where none is queued",
)
JOB_WAIT = Histogram(
    "gatefold_job_wait_seconds", "seconds from a job's acceptance to the beginning of its generation", buckets=_MINUTES
)
JOBS_ENDED = Counter("gatefold_jobs_ended_total", "jobs that ended: succeeded, failed or cancelled", ("state",))
JOB_FAILURES = Counter("gatefold_job_failures_total", "jobs that failed, by code of the error", ("code",))
DECODE = Histogram("gatefold_decode_seconds", "seconds that decoding an uploaded song took", buckets=_SECONDS)
ENCODE = Histogram("gatefold_encode_seconds", "seconds that embedding a decoded song took", buckets=_SECONDS)
SEARCH = Histogram(
    "gatefold_search_seconds", "seconds that the index took to answer a group of searches", buckets=_FRACTIONS
)
SEARCHES = Counter("gatefold_searches_total", "searches that the index answered, those of generation included")
GENERATE = Histogram("gatefold_generate_seconds", "seconds that generating the covers of a job took", buckets=_MINUTES)
COVERS = Counter("gatefold_covers_total", "covers that were generated and not refused")
REFUSALS = Counter("gatefold_refusals_total", "covers refused for their originality, by reason", ("reason",))
EXPORT_FAILURES = Counter(
    "gatefold_export_failures_total",
    "covers that could not be exported, by code of the error; `preflight_failed` is a broken rule of a store",
    ("code",),
)
WEBHOOK_ATTEMPTS = Counter(
    "gatefold_webhook_attempts_total",
    "attempts to deliver a webhook: `accepted`, `refused` with another status, or `unanswered`",
    ("result",),
)
WEBHOOKS_GIVEN_UP = Counter(
    "gatefold_webhooks_given_up_total",
    "webhooks that will not be tried again: `expired` after `serve.webhooks.retry_for_s`, or `gone`, refused with 410",
    ("reason",),
)
OPTOUT_LAG = Histogram(
    "gatefold_optout_lag_seconds",
    "seconds from the writing of an opt-out to when a replica of the API applied it",
    buckets=_MINUTES,
)
OPTOUT_READ_FAILURES = Counter("gatefold_optout_read_failures_total", "times that opt-outs could not be read again")
DATABASE_FAILURES = Counter("gatefold_database_failures_total", "times that the database of jobs did not answer")
