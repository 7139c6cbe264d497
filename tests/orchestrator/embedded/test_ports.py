"""Ports of an instance's processes."""

from __future__ import annotations

from orchestrator.embedded.ports import metrics_ports, targets


def test_free_ports_are_as_many_as_names_and_no_two_are_the_same() -> None:
    found = metrics_ports([f"worker-{number}" for number in range(20)])
    assert len(set(found.values())) == 20
    assert 0 not in found.values()


def test_ports_that_somebody_chose_follow_each_other() -> None:
    assert metrics_ports(["beat", "worker-1"], 9800) == {"beat": 9800, "worker-1": 9801}


def test_targets_are_what_prometheus_reads() -> None:
    assert targets({"beat": "http://127.0.0.1:9800/metrics"}) == [
        {"targets": ["127.0.0.1:9800"], "labels": {"process": "beat"}}
    ]
