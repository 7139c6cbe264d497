"""The alerts and the dashboard ask for metrics that exist, under labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestrator import meters
from orchestrator.database import writing
from orchestrator.ledger import gates
from orchestrator.ledger.pulses import beat
from tests.support.processes import ROOT
from workers.telemetry.collectors import HealthCollector, LedgerCollector
from workers.telemetry.vitals import Vitals

if TYPE_CHECKING:
    from tests.conftest import Database

DEPLOY = ROOT / "deploy"
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"][0]["rules"]
SCRAPE: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "orchestrator.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())

#: What Prometheus adds to every series.
ADDED = {"instance", "job", "le"}


@pytest.fixture
def served(database: Database, tmp_path: Path) -> Mapping[str, set[str]]:
    """Every series' name, as workers and beat serve it, and its labels."""
    with writing() as session:
        beat(session, "tick:dispatch", {})
        gates.shut(session, "model", "nobody answers")
        beat(session, "worker:one@here", {"queues": ["inference"]})
    found: dict[str, set[str]] = {}
    vitals = Vitals(tmp_path)
    for collector in (LedgerCollector(), HealthCollector(vitals.judge, vitals)):
        for family in collector.collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    for metric in meters.REGISTRY._collector_to_names:
        labels = set(getattr(metric, "_labelnames", ()))
        found |= dict.fromkeys(meters.REGISTRY._collector_to_names[metric], labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression stands, and the expression."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_every_expression_asks_for_metrics_and_labels_that_are_served(served: Mapping[str, set[str]]) -> None:
    for place, expression in expressions():
        names = re.findall(r"\borchestrator_\w+", expression)
        assert names, place
        assert set(names) <= set(served), place
        asked = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(", ")}
        asked |= set(re.findall(r"[{,]\s*(\w+)(?:=|!=)", expression))
        assert asked <= ADDED.union(*(served[name] for name in names)), place


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_every_label_that_an_alert_or_a_legend_names_is_left_by_its_expression(
    served: Mapping[str, set[str]],
) -> None:
    texts = [(rule["expr"], " ".join(rule["annotations"].values())) for rule in RULES]
    texts += [(target["expr"], target["legendFormat"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for expression, text in texts:
        named = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text))
        aggregated = re.match(r"(?:sum|histogram_quantile)\b", expression)
        by = re.search(r"\bby \(([^)]*)\)", expression)
        left = set(by.group(1).split(", ")) if aggregated and by else set()
        if not aggregated:
            left = ADDED.union(*(served[name] for name in re.findall(r"\borchestrator_\w+", expression)))
        assert named <= left, expression


def test_alerts_have_what_whoever_is_woken_needs() -> None:
    for rule in RULES:
        assert {"alert", "expr", "labels", "annotations"} <= set(rule)
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"].endswith(".")
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_prometheus_scrapes_every_service_that_serves_metrics() -> None:
    (found,) = SCRAPE["scrape_configs"][0]["dns_sd_configs"]
    serving = {
        name: service["environment"]["ORCHESTRATOR_METRICS_PORT"]
        for name, service in COMPOSE["services"].items()
        if "ORCHESTRATOR_METRICS_PORT" in service.get("environment", {})
    }
    assert serving == dict.fromkeys(found["names"], found["port"])
    mounted = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["prometheus"]["volumes"])
    assert all((DEPLOY / source).exists() for source in mounted if source.startswith("."))
    assert mounted["./prometheus/rules.yaml"] in SCRAPE["rule_files"]
