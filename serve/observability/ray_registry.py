"""The registry of a process of Ray: each metric becomes one of Ray's own, which every node exports to Prometheus.

`ray.serve.metrics` would add the id of the replica to the labels, so that a counter ends with its replica, and a gauge
stands twice while one replaces another. A series of ours is the same for all replicas of a node.
"""

from collections.abc import Mapping
from typing import Any

from ray.util import metrics as ray_metrics

from serve.observability.metrics import EndpointMetric, Histogram


class RayRegistry:
    """Makes Ray's metric of each of ours when its first value comes."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def record(self, metric: EndpointMetric, value: float, labels: Mapping[str, str]) -> None:
        """As `Registry.record`; Ray passes the value on within ten seconds."""
        made = self._made.get(metric.name)
        if made is None:  # two threads may both make it: they are the same to Ray
            made = self._made[metric.name] = _ray_metric(metric)
        if metric.kind == "counter":
            made.inc(value, dict(labels))
        elif metric.kind == "gauge":
            made.set(value, dict(labels))
        else:
            made.observe(value, dict(labels))


def _ray_metric(metric: EndpointMetric) -> Any:
    if isinstance(metric, Histogram):
        return ray_metrics.Histogram(metric.name, metric.help, list(metric.buckets), metric.labels)
    kind = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
    return kind(metric.name, metric.help, metric.labels)
