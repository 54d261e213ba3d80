"""What a request carries through every process that works on it: its id, its job, who sent it, and its trace.

Within a process it is in a context variable, which tasks inherit and `bound` takes along to a thread. From process to
process it goes as an argument: `call` of `serve.deployments.handles` sends it, a deployment that is `observed` takes it
up. With a job it lies in the job's specification. Knows nothing of HTTP or of Ray.
"""

import contextvars
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Carried:
    """All of it; what is not known is None."""

    request_id: str | None = None
    job_id: str | None = None
    key_prefix: str | None = None
    """of the API key that the request came with, short enough to be no secret"""
    traceparent: str | None = None
    """of the span that is open, as W3C Trace Context writes it"""

    def record(self) -> dict[str, str]:
        """What is known, as JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NOTHING = Carried()
_current: contextvars.ContextVar[Carried] = contextvars.ContextVar("carried", default=NOTHING)


def current() -> Carried:
    """What is carried here and now."""
    return _current.get()


def add(**known: str | None) -> None:
    """Carries this as well, until the task ends or `carrying` does.

    Args:
        known: fields of `Carried`.
    """
    _current.set(replace(_current.get(), **known))


@contextmanager
def carrying(carried: Carried) -> Iterator[None]:
    """Carries this, and nothing else, within the block."""
    before = _current.get()
    _current.set(carried)
    try:
        yield
    finally:
        _current.set(before)


def carried_of(record: Mapping[str, Any]) -> Carried:
    """What `Carried.record` was made of; a field that is not known any more is left out."""
    return Carried(**{name: value for name, value in record.items() if name in Carried.__dataclass_fields__})


def as_argument() -> dict[str, Carried]:
    """The named argument with which a call of an `observed` deployment carries it on; none where nothing is known."""
    carried = _current.get()
    return {} if carried == NOTHING else {"carried": carried}


def bound(work: Callable[P, T]) -> Callable[P, T]:
    """The same work for a thread, where it finds what is carried here."""
    context = contextvars.copy_context()
    return lambda *arguments, **named: context.run(work, *arguments, **named)
