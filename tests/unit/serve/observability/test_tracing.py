"""Spans: where they go, what they carry on, and that nothing is lost but spans where no collector answers."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gatefold.errors import InvalidSettings
from serve.observability import tracing
from serve.observability.carried import Carried, carrying, current
from serve.observability.otel import OtlpTracer
from serve.observability.tracing import TraceArgs, span, trace_args
from tests.observed import Collector

ARGS = TraceArgs(endpoint="http://127.0.0.1:9")
SENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    tracing.use(OtlpTracer(ARGS, SimpleSpanProcessor(kept)))
    yield kept
    tracing.use(None)


@pytest.fixture
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


def test_without_arguments_no_span_is_recorded_and_opentelemetry_not_imported() -> None:
    program = """
import sys
from serve.observability import tracing
from serve.observability.carried import current
tracing.start(None)
with tracing.span("work") as opened:
    opened.set("a", 1)
    assert current().traceparent is None
print([name for name in sys.modules if name.startswith(("opentelemetry", "ray"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_spans_continue_the_trace_that_is_carried_and_nest(exporter: InMemorySpanExporter) -> None:
    with carrying(Carried(request_id="r-1", traceparent=SENT)):
        with span("outer", "server") as outer:
            outer.set("http.route", "/v1/covers")
            with span("inner"):
                assert (current().traceparent or "")[3:35] == "ab" * 16
        assert current().traceparent == SENT
    inner, outer_span = exporter.get_finished_spans()
    assert f"{outer_span.context.trace_id:032x}" == f"{inner.context.trace_id:032x}" == "ab" * 16
    assert outer_span.parent is not None
    assert f"{outer_span.parent.span_id:016x}" == "cd" * 8
    assert inner.parent is not None
    assert inner.parent.span_id == outer_span.context.span_id
    assert dict(outer_span.attributes or {}) == {"gatefold.request_id": "r-1", "http.route": "/v1/covers"}
    assert outer_span.resource.attributes == {"service.name": "gatefold"}


@pytest.mark.parametrize("sent", ["", "00-short-1-01", f"01-{'ab' * 16}-{'cd' * 8}-01", f"00-{0:032x}-{0:016x}-01"])
def test_what_is_no_parent_begins_a_trace(exporter: InMemorySpanExporter, sent: str) -> None:
    with carrying(Carried(traceparent=sent)), span("first"):
        pass
    (only,) = exporter.get_finished_spans()
    assert only.parent is None
    assert only.context.trace_id


def test_a_span_whose_block_raises_has_failed_with_the_kind_of_the_error_alone(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(InvalidSettings), span("work"):
        raise InvalidSettings("secret: s3://bucket")
    (only,) = exporter.get_finished_spans()
    assert not only.status.is_ok
    assert dict(only.attributes or {}) == {"error.type": "InvalidSettings"}
    assert "secret" not in only.to_json()


def test_a_share_of_the_traces_is_recorded_whatever_the_caller_wants() -> None:
    kept = InMemorySpanExporter()
    args = ARGS.model_copy(update={"share": 0.25})
    tracers = [OtlpTracer(args, SimpleSpanProcessor(kept)) for _ in range(2)]  # as of two processes
    try:
        for number in range(400):
            trace = f"{number * (2**64 // 400):032x}"
            for tracer in tracers:
                tracing.use(tracer)
                with carrying(Carried(traceparent=f"00-{trace[:-1]}1-{1:016x}-01")), span("work"):
                    pass
    finally:
        tracing.use(None)
    recorded = [one.context.trace_id for one in kept.get_finished_spans()]
    assert 90 <= len(set(recorded)) <= 110
    assert len(recorded) == 2 * len(set(recorded))  # both processes record the same ones


def test_spans_arrive_at_the_collector_with_its_headers(collector: Collector) -> None:
    args = TraceArgs(endpoint=collector.url, headers={"x-token": "t"}, service="covers")
    tracer = OtlpTracer(args)
    tracing.use(tracer)
    try:
        with span("work"):
            pass
        tracer._provider.force_flush()
    finally:
        tracing.use(None)
    assert [one.name for one in collector.spans] == ["work"]
    assert collector.services == {"covers"}
    assert collector.headers[0]["x-token"] == "t"
    assert "'t'" not in repr(args)


@pytest.mark.filterwarnings("ignore")
def test_a_collector_that_refuses_or_is_away_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.observability.otel._EXPORT_WITHIN_S", 0.2)
    refusing = Collector(answer=400)
    for endpoint in (refusing.url, "http://127.0.0.1:9"):
        tracer = OtlpTracer(TraceArgs(endpoint=endpoint))
        tracing.use(tracer)
        began = time.perf_counter()
        for _ in range(1000):
            with span("work"):
                pass
        tracing.use(None)
        assert time.perf_counter() - began < 60  # a wait for each would take 200 s
        tracer._provider.shutdown()  # or its thread goes on trying
    refusing.close()


def test_the_environment_names_collector_headers_and_service() -> None:
    assert trace_args({}, 1.0) is None
    assert trace_args({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, 1.0) is None
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20abc, x=1",
        "OTEL_SERVICE_NAME": "covers",
    }
    expected = TraceArgs(
        endpoint="http://collector:4318", headers={"authorization": "Bearer abc", "x": "1"}, service="covers", share=0.5
    )
    assert trace_args(environment, 0.5) == expected


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "'collector:4317': it must be the URL of a collector"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,secret", "entry 2 must read NAME=VALUE"),
    ],
)
def test_what_cannot_be_used_of_the_environment_is_named_and_no_token_repeated(
    variable: str, value: str, said: str
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"} | {variable: value}
    with pytest.raises(InvalidSettings, match=said) as refused:
        trace_args(environment, 1.0)
    assert "secret" not in str(refused.value)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("serve.observability.tracing.find_spec", missing)
    with pytest.raises(InvalidSettings, match=r"pip install 'gatefold\[traces\]', or unset that variable"):
        trace_args({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, 1.0)
    with pytest.raises(InvalidSettings, match=r"needs the extra 'traces'"):
        tracing.start(ARGS)


def test_the_same_arguments_again_start_nothing_new() -> None:
    try:
        tracing.start(ARGS)
        first = tracing._active
        tracing.start(ARGS)
        assert tracing._active is first is not None
    finally:
        tracing.use(None)
