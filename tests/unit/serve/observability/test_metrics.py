"""The declarations of metrics: names, labels, buckets; the table in the documents; and Ray's metrics made of them."""

import re
from pathlib import Path

import pytest
from ray.util import metrics as ray_metrics

from serve.observability import metrics
from serve.observability.metrics import Histogram
from serve.observability.ray_registry import RayRegistry
from tests.observed import Counted

ROOT = Path(__file__).parents[4]
SOURCES = [path for path in (ROOT / "serve").rglob("*.py") if path.name != "metrics.py"]


def test_names_have_our_prefix_and_the_suffix_of_their_kind() -> None:
    names = [one.name for one in metrics.declared()]
    assert len(names) == len(set(names)) > 10
    for one in metrics.declared():
        assert re.fullmatch(r"gatefold_[a-z_]+", one.name)
        assert one.name.endswith("_total") == (one.kind == "counter"), one.name
        assert one.name.endswith("_seconds") or one.kind != "histogram", one.name
        assert one.help


def test_buckets_rise() -> None:
    for one in metrics.declared():
        if isinstance(one, Histogram):
            assert len(one.buckets) > 5
            assert list(one.buckets) == sorted(set(one.buckets))
            assert one.buckets[0] > 0


def test_every_metric_is_counted_somewhere() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)
    constants = [name for name, value in vars(metrics).items() if isinstance(value, metrics.EndpointMetric)]
    assert [name for name in constants if not re.search(rf"\b{name}\.(add|set|observe|time)\(", code)] == []


def test_a_value_with_other_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="metric 'gatefold_jobs' has the labels state, queue, not none"):
        metrics.JOBS.set(1)
    with pytest.raises(ValueError, match="metric 'gatefold_covers_total' has the labels none, not kind"):
        metrics.COVERS.add(kind="x")


def test_what_raises_is_not_observed_and_nothing_is_not_counted(counted: Counted) -> None:
    with pytest.raises(RuntimeError), metrics.DECODE.time():
        raise RuntimeError
    metrics.COVERS.add(0)
    assert counted.values == {}
    with metrics.DECODE.time():
        pass
    (seconds,) = counted.of(metrics.DECODE)
    assert 0 <= seconds < 30


def test_a_clock_that_runs_behind_another_observes_no_negative_seconds(counted: Counted) -> None:
    metrics.OPTOUT_LAG.observe(-3.0)
    assert counted.of(metrics.OPTOUT_LAG) == [0.0]


def test_the_documents_have_the_table_that_the_code_makes() -> None:
    assert metrics.markdown_table() in (ROOT / "docs" / "operating.md").read_text()


def test_ray_is_given_each_metric_as_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[tuple[str, float, dict[str, str]]] = []

    def keep(metric: ray_metrics.Metric, value: float, tags: dict[str, str] | None = None) -> None:
        metric._validate_tags(tags or {})
        recorded.append((metric.info["name"], value, tags or {}))

    monkeypatch.setattr(ray_metrics.Metric, "_record", keep)
    registry = RayRegistry()
    for one in metrics.declared() * 2:
        registry.record(one, 1.5, dict.fromkeys(one.labels, "x"))
    expected = [(one.name, 1.5, dict.fromkeys(one.labels, "x")) for one in metrics.declared()]
    assert recorded == expected * 2
    made = registry._made[metrics.JOB_WAIT.name]
    assert made.info["boundaries"] == list(metrics.JOB_WAIT.buckets)
