"""Prometheus' configuration and alerts, and Grafana's dashboard, against Prometheus itself and the names that the code
exports."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.observability import metrics
from tests.observed import OF_RAY_SERVE

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "infra" / "prometheus"
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "infra" / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
_NAME = re.compile(r"\bray_\w+")


def promtool(*arguments: str | Path) -> str:
    assert shutil.which("promtool"), "promtool is missing; install it: apt-get install prometheus"
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def exported() -> dict[str, set[str]]:
    """The names under which each metric is seen by Prometheus."""
    return {
        one.name: {f"ray_{one.name}{suffix}" for suffix in (("_bucket",) if one.kind == "histogram" else ("",))}
        for one in metrics.declared()
    }


def names_in(expressions: list[str]) -> set[str]:
    return {name for one in expressions for name in _NAME.findall(one)}


def test_prometheus_takes_its_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_prometheus_takes_the_alerts() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", PROMETHEUS / "alerts.yml")


def test_every_alert_is_raised_by_what_it_is_for_and_by_nothing_else() -> None:
    promtool("test", "rules", Path(__file__).parent / "alerts_test.yml")
    tried = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"]
    raised = {one["alertname"] for test in tried for one in test.get("alert_rule_test", []) if one["exp_alerts"]}
    assert raised == {alert["alert"] for alert in ALERTS}


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    asked = [query.replace("$__rate_interval", "5m") for panel in PANELS for query in queries(panel)]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


@pytest.mark.parametrize("where", ["alerts", "dashboard"])
def test_alerts_and_dashboard_read_only_what_is_exported(where: str) -> None:
    shown = [query for panel in PANELS for query in queries(panel)]
    asked = {"alerts": [alert["expr"] for alert in ALERTS], "dashboard": shown}
    known = set().union(*exported().values()) | OF_RAY_SERVE
    assert names_in(asked[where]) - known == set()


def test_whatever_is_exported_is_on_the_dashboard() -> None:
    shown = names_in([query for panel in PANELS for query in queries(panel)])
    assert [name for name, names in exported().items() if not names & shown] == []
    assert shown >= OF_RAY_SERVE


def test_labels_in_queries_are_those_of_the_metric() -> None:
    labels = {name: set(one.labels) for one in metrics.declared() for name in exported()[one.name]}
    for alert in ALERTS:
        for name, chosen in re.findall(r"(ray_gatefold_\w+)\{([^}]*)\}", alert["expr"]):
            assert set(re.findall(r"(\w+)\s*!?=", chosen)) <= labels[name], alert["alert"]


def test_the_documents_name_every_alert_and_no_other() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    assert set(re.findall(r"^\| `(Gatefold\w+)` \|", text, re.MULTILINE)) == {alert["alert"] for alert in ALERTS}


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_says_what_it_shows_and_asks_for_the_source_that_is_chosen() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    for panel in PANELS:
        assert panel["description"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
