"""Metrics, their page in docs/, the alert rules and the dashboard know the same names and the same bounds."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.monitoring import health_issues, status_metrics
from app.monitoring.health_issues import HealthIssue
from app.telemetry import metrics

_CHECKOUT = Path(__file__).parent.parent.parent
_NAME = re.compile(r"\blariba_[a-z0-9_]+")
_PARTS_OF_A_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")
_GRID_WIDTH = 24
_UNITS = {
    "1",
    "s",
    "events",
    "rows",
    "partitions",
    "connections",
    "processes",
    "consumers",
    "jobs",
    "time (Unix, s)",
    "yes or no",
}


def _known() -> dict[str, str]:
    """What each metric means, by name."""
    counted = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.documentation
        for family in metrics.REGISTRY.collect()
    }
    return counted | status_metrics.described()


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((_CHECKOUT / "deploy" / "alert-rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    """Rows among them; none is collapsed, so that each panel is in the list itself."""
    panels: list[dict[str, Any]] = json.loads((_CHECKOUT / "deploy" / "grafana-dashboard.json").read_text())["panels"]
    return panels


def _expressions() -> dict[str, list[str]]:
    targets = [target["expr"] for panel in _panels() for target in panel.get("targets", [])]
    return {"grafana-dashboard.json": targets, "alert-rules.yaml": [rule["expr"] for rule in _rules()]}


def _documented() -> dict[str, list[str]]:
    page = (_CHECKOUT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(lariba_\w+)` \|(.*)\|$", page, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


@pytest.mark.parametrize("file", ["grafana-dashboard.json", "alert-rules.yaml"])
def test_what_is_watched_exists(file: str) -> None:
    expressions = _expressions()[file]
    watched = {name for expression in expressions for name in _NAME.findall(expression)}

    assert len(expressions) > 10
    assert {name for name in watched if not {name, _PARTS_OF_A_HISTOGRAM.sub("", name)} & set(_known())} == set()


def test_the_dashboard_shows_every_metric() -> None:
    names = [name for it in _expressions()["grafana-dashboard.json"] for name in _NAME.findall(it)]

    assert set(_known()) - {_PARTS_OF_A_HISTOGRAM.sub("", name) for name in names} == set()


def test_the_panels_of_the_dashboard_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in _panels()]
    taken: dict[tuple[int, int], str] = {}
    for panel in _panels():
        at, title = panel["gridPos"], panel["title"]
        assert at["x"] + at["w"] <= _GRID_WIDTH, title
        for cell in product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, (title, taken[cell])
            taken[cell] = title

    assert len(set(ids)) == len(ids)


def test_metrics_md_lists_every_metric_with_its_labels_and_unit() -> None:
    documented = _documented()

    assert set(documented) == set(_known())
    for name, (labels, unit, meaning) in documented.items():
        assert unit in _UNITS, name
        assert ("_seconds" in name) == (unit in ("s", "time (Unix, s)")), name
        assert name.startswith("lariba_task_") == ("`task`" in labels), name
        assert meaning.endswith("."), name


def test_metrics_md_lists_every_alert() -> None:
    page = (_CHECKOUT / "docs" / "metrics.md").read_text()

    assert set(re.findall(r"^\| `(Lariba\w+)` \|", page, re.MULTILINE)) == {rule["alert"] for rule in _rules()}


def test_every_rule_says_what_is_wrong_and_what_to_look_at() -> None:
    for rule in _rules():
        assert set(rule["annotations"]) == {"summary", "runbook"}, rule["alert"]
        assert rule["annotations"]["runbook"].endswith("."), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]


def test_status_and_the_rules_have_the_same_bounds() -> None:
    bounds = {rule["alert"]: re.search(r"[<>=]+ [\d.]+$", rule["expr"]) for rule in _rules()}

    assert {alert: bounds[alert] and bounds[alert][0] for alert in _alerts_of_status()} == {  # type: ignore[index]
        "LaribaDatabaseAway": "== 0",
        "LaribaClockSkewed": f"> {health_issues.CLOCK_SKEW_SECONDS_MAX}",
        "LaribaTaskOverdue": "== 1",
        "LaribaTaskFailing": f"> {health_issues.FAILURES_IN_A_ROW_MAX}",
        "LaribaUsageOutboxLags": f"> {health_issues.OUTBOX_LAG_SECONDS_MAX}",
        "LaribaExpiredRecordsPileUp": f"> {health_issues.EXPIRED_LAG_SECONDS_MAX}",
        "LaribaJobStalls": f"> {health_issues.STALLED_JOB_SECONDS_MAX}",
        "LaribaMoveCutOff": f"> {health_issues.FROZEN_SECONDS_MAX}",
        "LaribaEventsInDefaultPartition": "> 0",
        "LaribaPartitionsRunOut": f"< {health_issues.PARTITIONS_AHEAD_SECONDS_MIN}",
        "LaribaRetentionBehind": f"> {health_issues.RETENTION_SLACK_SECONDS}",
    }


def _alerts_of_status() -> set[str]:
    source = Path(health_issues.__file__).read_text()
    assert HealthIssue.__doc__
    return set(re.findall(r'"(Lariba\w+)"', source))


def test_every_metric_is_named_as_prometheus_asks() -> None:
    for family in metrics.REGISTRY.collect():
        assert re.fullmatch(r"lariba_[a-z0-9_]+", family.name)
        assert not re.search(r"millis|_ms\b|minutes|hours|days", family.name)
        assert family.documentation.endswith(".")
