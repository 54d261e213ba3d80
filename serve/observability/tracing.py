"""Spans of a request, from its upload to the pictures, over every process that works on it.

A span is opened by name where work begins; its parent is the one that is carried (`serve.observability.carried`), from
another process too. Where they are sent is decided where the endpoint is deployed, and given to each replica as an
argument; without that nothing is recorded, and OpenTelemetry is not imported. Knows nothing of HTTP or of Ray.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from gatefold.errors import InvalidSettings
from serve.observability.carried import carrying, current

ENDPOINT, HEADERS, SERVICE = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME"
"""variables of OpenTelemetry's own specification that are read"""
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""of W3C Trace Context: trace, span, flags"""
_ATTRIBUTES = ("request_id", "job_id")

SpanKind = Literal["internal", "server"]
Attribute = str | int | float | bool


class TraceArgs(BaseModel):
    """Where spans go."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    endpoint: str
    """of a collector that takes OTLP over HTTP, without its path: http://collector:4318"""
    headers: dict[str, str] = Field({}, repr=False)
    """of each export, such as a token"""
    service: str = "gatefold"
    """`service.name` of all spans"""
    share: float = Field(1.0, ge=0, le=1)
    """of the traces that are recorded"""


class OpenSpan(Protocol):
    """A span that has not ended."""

    @property
    def traceparent(self) -> str:
        """As `Carried` has it."""

    def set(self, attribute: str, value: Attribute) -> None:
        """Adds an attribute, by its full name."""

    def rename(self, name: str) -> None:
        """Names it anew."""

    def fail(self, kind: str) -> None:
        """It ended in an error of this kind."""


class Tracer(Protocol):
    """What records spans."""

    def open(
        self, name: str, parent: str | None, kind: SpanKind, attributes: Mapping[str, str]
    ) -> AbstractContextManager[OpenSpan]:
        """A span that ends with the block, as failed where that raises.

        Args:
            attributes: by their full names.
            parent: its `traceparent`; None where it is the first of its trace.
        """


class _NoSpan:
    """The span of a process that records none."""

    traceparent = ""

    def set(self, attribute: str, value: Attribute) -> None:
        """Nothing."""

    def rename(self, name: str) -> None:
        """Nothing."""

    def fail(self, kind: str) -> None:
        """Nothing."""


_active: Tracer | None = None
_started: TraceArgs | None = None


def use(tracer: Tracer | None) -> None:
    """All spans of this process go there from now on; None records none."""
    global _active, _started
    _active, _started = tracer, None


def start(args: TraceArgs | None) -> None:
    """Records the spans of this process, where there are arguments for it; the same ones again change nothing.

    Raises: InvalidSettings without the extra `traces`.
    """
    global _started
    if args is None or args == _started:
        return
    check_installed(args.endpoint)
    from serve.observability.otel import OtlpTracer  # here alone: an extra

    use(OtlpTracer(args))
    _started = args


@contextmanager
def span(name: str, kind: SpanKind = "internal") -> Iterator[OpenSpan]:
    """A span around the block, below the one that is carried; what the block calls carries this one."""
    if _active is None:
        yield _NoSpan()
        return
    carried = current()
    known = carried.record()
    attributes = {f"gatefold.{field}": known[field] for field in _ATTRIBUTES if field in known}
    with (
        _active.open(name, carried.traceparent, kind, attributes) as opened,
        carrying(replace(carried, traceparent=opened.traceparent)),
    ):
        yield opened


def trace_args(environment: Mapping[str, str], share: float) -> TraceArgs | None:
    """Where this environment wants spans to go; None where it names no collector.

    Args:
        share: of the traces that are recorded, 0 to 1.

    Raises: InvalidSettings for a value that cannot be used, or without the extra `traces`.
    """
    endpoint = environment.get(ENDPOINT, "").strip()
    if not endpoint:
        return None
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise InvalidSettings(f"{ENDPOINT} = '{endpoint}': it must be the URL of a collector: http://HOST:4318")
    check_installed(endpoint)
    named = {"service": environment[SERVICE]} if environment.get(SERVICE) else {}
    headers = _headers(environment.get(HEADERS, ""))
    return TraceArgs(endpoint=endpoint.rstrip("/"), headers=headers, share=share, **named)


def check_installed(endpoint: str) -> None:
    """Raises: InvalidSettings where spans are to go there and the extra `traces` is missing."""
    try:
        found = find_spec(_EXPORTER)
    except ModuleNotFoundError:  # of a package above it
        found = None
    if found is None:
        raise InvalidSettings(
            f"traces are to go to '{endpoint}' ({ENDPOINT}), which needs the extra 'traces': "
            "pip install 'gatefold[traces]', or unset that variable"
        )


def _headers(text: str) -> dict[str, str]:
    """Raises: InvalidSettings, which does not repeat what may be a token."""
    headers: dict[str, str] = {}
    for position, part in enumerate(filter(None, (one.strip() for one in text.split(","))), start=1):
        name, separator, value = part.partition("=")
        if not separator or not name.strip():
            raise InvalidSettings(f"{HEADERS}: entry {position} must read NAME=VALUE, entries separated by commas")
        headers[name.strip().lower()] = unquote(value.strip())
    return headers
