"""Spans sent by OpenTelemetry, as OTLP over HTTP, by a thread of their own. Needs the extra `traces`.

A provider of its own, so that nothing else of the process is touched, and Ray Serve's own tracing can run beside. It
reads no environment: what a replica has there is that of its node. A collector that does not answer costs spans and
nothing else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags

from serve.observability.tracing import TRACEPARENT, Attribute, OpenSpan, SpanKind, TraceArgs

_EXPORT_EVERY_S = 1.0
_EXPORT_WITHIN_S = 3.0  # also what the end of a process may wait for
_KEPT = 4096  # spans that wait to be exported; further ones are dropped
_EXPORTED_AT_ONCE = 512
_KINDS = {"internal": trace.SpanKind.INTERNAL, "server": trace.SpanKind.SERVER}


class OtlpTracer:
    """A Tracer.

    Whether a trace is recorded depends on its id alone: all processes agree, and no caller decides it.

    Args:
        processor: what ended spans are handed to; the collector's that `args` names when None.
    """

    def __init__(self, args: TraceArgs, processor: SpanProcessor | None = None) -> None:
        resource = Resource({"service.name": args.service})
        self._provider = TracerProvider(sampler=TraceIdRatioBased(args.share), resource=resource)
        self._provider.add_span_processor(processor or _to_collector(args))
        self._tracer = self._provider.get_tracer("gatefold")

    @contextmanager
    def open(
        self, name: str, parent: str | None, kind: SpanKind, attributes: Mapping[str, str]
    ) -> Iterator[OpenSpan]:
        """As `Tracer.open`."""
        span = self._tracer.start_span(name, _context_of(parent), _KINDS[kind], attributes)
        opened = _Opened(span)
        try:
            yield opened
        except BaseException as error:
            opened.fail(type(error).__name__)
            raise
        finally:
            span.end()


class _Opened:
    """An OpenSpan."""

    def __init__(self, span: Span) -> None:
        self._span = span
        known = span.get_span_context()
        self.traceparent = f"00-{known.trace_id:032x}-{known.span_id:016x}-{int(known.trace_flags):02x}"

    def set(self, attribute: str, value: Attribute) -> None:
        self._span.set_attribute(attribute, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


def _to_collector(args: TraceArgs) -> SpanProcessor:
    exporter = OTLPSpanExporter(f"{args.endpoint}/v1/traces", headers=args.headers, timeout=_EXPORT_WITHIN_S)
    return BatchSpanProcessor(
        exporter,
        max_queue_size=_KEPT,
        schedule_delay_millis=_EXPORT_EVERY_S * 1000,
        max_export_batch_size=_EXPORTED_AT_ONCE,
        export_timeout_millis=_EXPORT_WITHIN_S * 1000,
    )


def _context_of(parent: str | None) -> Context:
    """A context with this parent; an empty one, which begins a trace, where it is none."""
    found = TRACEPARENT.fullmatch(parent or "")
    if found is None:
        return Context()
    known = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(int(found[3], 16)))
    return trace.set_span_in_context(NonRecordingSpan(known), Context())
