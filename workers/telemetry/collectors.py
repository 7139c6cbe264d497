"""Figures that are read when somebody asks: of the ledger, and of a worker's health."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import case, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from orchestrator.database import reading
from orchestrator.ledger.overview import Overview, overview
from orchestrator.ledger.pulses import SILENCE, Pulse, pulses
from orchestrator.ledger.tables import GateRow, UnitRow, is_unfinished
from orchestrator.queues import QueueName
from orchestrator.registry.tables import ModelRow
from orchestrator.settings import settings
from workers.telemetry.vitals import Verdict, Vitals

log = structlog.get_logger(__name__)


class LedgerCollector(Collector):
    """The whole ledger's figures, read from the database at each scrape; served by beat, so that they come once."""

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: a registry that does not know the names asks for no database at its start."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The figures; without a database only that there is none."""
        up = GaugeMetricFamily("orchestrator_ledger_up", "Whether the ledger could be read for this scrape.")
        try:
            with reading() as session:
                metrics = [*ledger_metrics(overview(session)), gate_metric(session), *pulse_metrics(session)]
        except SQLAlchemyError as error:
            log.warning("ledger_not_read", error=str(error))
            metrics = []
        up.add_metric([], float(bool(metrics)))
        return [up, *metrics]


def ledger_metrics(found: Overview) -> Iterable[Metric]:
    """Units, windows and jobs."""
    units = GaugeMetricFamily(
        "orchestrator_units", "Unfinished units of work, by queue and state.", labels=["queue", "state"]
    )
    window = GaugeMetricFamily(
        "orchestrator_dispatch_window", "Units of a queue that may wait in the broker at a time.", labels=["queue"]
    )
    oldest = GaugeMetricFamily(
        "orchestrator_oldest_ready_unit_seconds",
        "How long the oldest unit that could be dispatched has waited for it; 0 when none waits.",
        labels=["queue"],
    )
    for queue, view in found.queues.items():
        window.add_metric([queue], settings().dispatch_window)
        oldest.add_metric([queue], view.oldest_ready.total_seconds() if view.oldest_ready else 0)
        for state, count in view.units.items():
            units.add_metric([queue, state.value], count)
    jobs = GaugeMetricFamily(
        "orchestrator_jobs", "Jobs that have not ended, by whether they are paused.", labels=["paused"]
    )
    jobs.add_metric(["false"], found.open_jobs - found.paused_jobs)
    jobs.add_metric(["true"], found.paused_jobs)
    return [units, window, oldest, jobs]


def gate_metric(session: Session) -> Metric:
    """Which models' endpoints keep their units waiting."""
    shut = GaugeMetricFamily(
        "orchestrator_endpoint_shut",
        "Whether units of the model are kept back because its endpoint did not answer the last of them.",
        labels=["model", "model_id"],
    )
    # Not until when: that passes and comes again as long as the endpoint is away.
    has_answered = GateRow.reason == ""
    # Where nobody has anything to ask any more, such as after an abort, nobody finds out that it is back.
    is_asked = select(UnitRow.id).where(UnitRow.gate == GateRow.name, is_unfinished()).exists()
    is_shut = case((has_answered, False), else_=is_asked)
    known = select(GateRow.name, is_shut, ModelRow.name).outerjoin(ModelRow, ModelRow.id == GateRow.name)
    for gate, keeps_back, model in session.execute(known.order_by(GateRow.name)):
        shut.add_metric([model or gate, gate], float(keeps_back))
    return shut


def pulse_metrics(session: Session) -> Iterable[Metric]:
    """Who is alive."""
    workers = GaugeMetricFamily(
        "orchestrator_workers",
        "Workers that announced themselves lately, by the queue they serve and whether they can claim and finish.",
        labels=["queue", "healthy"],
    )
    alive = [pulse for pulse in pulses(session, "worker:") if pulse.age <= SILENCE]
    for queue in QueueName:
        serving = [pulse for pulse in alive if queue.value in pulse.details.get("queues", ())]
        well = sum(is_healthy(pulse) for pulse in serving)
        workers.add_metric([queue.value, "true"], well)
        workers.add_metric([queue.value, "false"], len(serving) - well)
    ticks = GaugeMetricFamily(
        "orchestrator_tick_age_seconds", "How long ago a tick of beat was last run.", labels=["tick"]
    )
    for pulse in pulses(session, "tick:"):
        ticks.add_metric([pulse.name.removeprefix("tick:")], pulse.age.total_seconds())
    return [workers, ticks]


def is_healthy(worker: Pulse) -> bool:
    """What the worker last said of itself; one that says nothing is taken to be well."""
    return bool(worker.details.get("health", {}).get("healthy", True))


class HealthCollector(Collector):
    """A process's verdict on itself."""

    def __init__(self, judge: Callable[[], Verdict], vitals: Vitals | None = None) -> None:
        self.judge = judge
        self.vitals = vitals

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The verdict, and what led to it."""
        verdict = self.judge()
        yield GaugeMetricFamily(
            "orchestrator_healthy", "Whether this process can do what it is there for.", value=float(verdict.healthy)
        )
        checks = GaugeMetricFamily(
            "orchestrator_check_age_seconds", "How long ago each check of health went well.", labels=["check"]
        )
        for name, age in verdict.checks.items():
            if age is not None:
                checks.add_metric([name], age)
        yield checks
        if self.vitals is not None:
            slots = GaugeMetricFamily(
                "orchestrator_pool_places", "Places in the pool, by signs of life.", labels=["state"]
            )
            for state, count in self.vitals.slots().items():
                slots.add_metric([state], count)
            yield slots
