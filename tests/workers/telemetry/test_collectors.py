"""The ledger's figures as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from orchestrator import ledger
from orchestrator.bulk_inference import abort_bulk_inference_job, submit_bulk_inference_job
from orchestrator.database import transact, writing
from orchestrator.ledger import gates
from orchestrator.ledger.pulses import beat
from tests.support.bulk_inference import set_scene
from tests.support.ledger import Wire, become_due, one_unit, open_job
from workers.telemetry.collectors import LedgerCollector

pytestmark = pytest.mark.usefixtures("database")


def value(name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(LedgerCollector())
    return registry.get_sample_value(name, labels)


def test_units_and_their_window_are_shown_by_queue() -> None:
    open_job(40)
    ledger.dispatch(Wire())
    become_due(one_unit())
    assert value("orchestrator_units", queue="inference", state="ready") == 9
    assert value("orchestrator_units", queue="inference", state="published") == 32
    assert value("orchestrator_dispatch_window", queue="inference") == 32
    assert (value("orchestrator_oldest_ready_unit_seconds", queue="inference") or 0) >= 86_400
    assert value("orchestrator_oldest_ready_unit_seconds", queue="planning") == 0
    assert value("orchestrator_jobs", paused="false") == 2


def test_workers_are_counted_by_queue_and_health_and_ticks_have_an_age() -> None:
    with writing() as session:
        beat(session, "worker:one@here", {"queues": ["inference", "planning"]})
        beat(session, "worker:two@here", {"queues": ["inference"], "health": {"healthy": False, "reasons": ["x"]}})
        beat(session, "tick:dispatch", {})
    assert value("orchestrator_workers", queue="inference", healthy="true") == 1
    assert value("orchestrator_workers", queue="inference", healthy="false") == 1
    assert value("orchestrator_workers", queue="ticks", healthy="true") == 0
    assert value("orchestrator_tick_age_seconds", tick="dispatch") is not None


def test_a_shut_endpoint_is_shown_under_its_model_s_name_until_it_answers(tmp_path: Path) -> None:
    scene = set_scene(tmp_path, 1)
    model_id = scene.model_id
    submit_bulk_inference_job(scene.request())
    labels = {"model": "classifier", "model_id": model_id}
    assert value("orchestrator_endpoint_shut", **labels) is None
    transact(gates.shut, model_id, "nobody answers")
    assert value("orchestrator_endpoint_shut", **labels) == 1
    transact(gates.open_up, model_id)
    assert value("orchestrator_endpoint_shut", **labels) == 0


def test_a_database_that_cannot_be_read_is_a_figure_and_no_error() -> None:
    assert value("orchestrator_ledger_up") == 1
    with writing() as session:
        session.execute(text("ALTER TABLE work_units RENAME TO moved"))
    assert value("orchestrator_ledger_up") == 0
    assert value("orchestrator_jobs", paused="false") is None


def test_an_endpoint_that_nobody_asks_any_more_is_not_shown_as_shut(tmp_path: Path) -> None:
    scene = set_scene(tmp_path, 1)
    job_id = submit_bulk_inference_job(scene.request())
    transact(gates.shut, scene.model_id, "nobody answers")
    labels = {"model": "classifier", "model_id": scene.model_id}
    assert value("orchestrator_endpoint_shut", **labels) == 1
    abort_bulk_inference_job(job_id)
    assert value("orchestrator_endpoint_shut", **labels) == 0
