"""What the tests of metrics and traces watch the endpoint by: a registry and a tracer in memory, and a collector."""

import itertools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import ray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serve.observability.metrics import EndpointMetric
from serve.observability.tracing import Attribute

T = TypeVar("T")
OF_RAY_SERVE = {
    "ray_serve_deployment_replica_healthy",
    "ray_serve_http_request_latency_ms_bucket",
    "ray_serve_num_http_requests_total",
}
"""metrics of Ray Serve that dashboard and alerts read; tests/integration/test_serve.py sees that they are exported"""


class Counted:
    """A Registry that keeps every value, under the metric's name and the values of its labels."""

    def __init__(self) -> None:
        self.values: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    def record(self, metric: EndpointMetric, value: float, labels: Mapping[str, str]) -> None:
        self.values[metric.name, *(labels[name] for name in metric.labels)].append(value)

    def of(self, metric: EndpointMetric, *labels: str) -> list[float]:
        return self.values.get((metric.name, *labels), [])


@dataclass
class Seen:
    """A span, open or ended."""

    name: str
    trace: str
    id: str
    parent: str | None
    kind: str
    attributes: dict[str, Attribute] = field(default_factory=dict)
    failure: str | None = None
    ended: bool = False

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{self.id}-01"

    def set(self, attribute: str, value: Attribute) -> None:
        self.attributes[attribute] = value

    def rename(self, name: str) -> None:
        self.name = name

    def fail(self, kind: str) -> None:
        self.failure = kind


class Traced:
    """A Tracer that keeps every span."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self._numbers = itertools.count(1)

    @contextmanager
    def open(self, name: str, parent: str | None, kind: str, attributes: Mapping[str, str]) -> Iterator[Seen]:
        trace, above = (parent.split("-")[1], parent.split("-")[2]) if parent else (f"{next(self._numbers):032x}", None)
        seen = Seen(name, trace, f"{next(self._numbers):016x}", above, kind, dict(attributes))
        self.spans.append(seen)
        try:
            yield seen
        except BaseException as error:
            seen.fail(type(error).__name__)
            raise
        finally:
            seen.ended = True

    def named(self, name: str) -> Seen:
        (found,) = [one for one in self.spans if one.name == name]
        return found


class Collector:
    """Takes spans as OTLP over HTTP on a loopback port, until it is closed.

    Args:
        answer: its status.
    """

    def __init__(self, answer: int = 200) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces" and answer == 200:
                    collector.take(data, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(answer)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, data: bytes, headers: dict[str, str]) -> None:
        request = ExportTraceServiceRequest.FromString(data)
        self.headers.append(headers)
        for resource in request.resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(named["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def within(seconds: float, ask: Callable[[], T], is_enough: Callable[[T], bool]) -> T:
    """What the last question gave, which was enough; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not is_enough(found := ask()):
        assert time.monotonic() < deadline, f"within {seconds} s there was only {found}"
        time.sleep(0.2)
    return found


def logged(request_id: str) -> set[tuple[str, str | None]]:
    """Deployment and job of each line with this request_id in the logs of the Ray of this process, which are JSON."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    lines = [line for file in folder.glob("replica_*.log") for line in file.read_text().splitlines()]
    records = [json.loads(line) for line in lines if line.startswith("{")]  # other tests' replicas log text
    ours = [one for one in records if one.get("request_id") == request_id]
    return {(one["deployment"].rpartition("_")[2], one.get("covers_job_id")) for one in ours}


def names_exported() -> set[str]:
    """Names of all metrics of this node."""
    node = ray.nodes()[0]
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}
