"""The composition root: `celery -A workers worker|beat|flower`."""

from __future__ import annotations

import gc
from typing import Any

from celery.signals import (
    beat_init,
    setup_logging,
    worker_init,
    worker_process_init,
    worker_ready,
    worker_shutting_down,
)

import workers.tasks.bulk_inference
import workers.tasks.exports
import workers.tasks.inference_index
import workers.tasks.retention
import workers.tasks.schedules
import workers.tasks.submissions
import workers.tasks.ticks
import workers.tasks.training  # noqa: F401  as those above, for their tasks
from orchestrator.database import dispose
from orchestrator.logs import configure_logging
from orchestrator.queues import QueueName, app
from orchestrator.settings import settings
from workers import presence
from workers.telemetry import wiring

__all__ = ["app"]

#: Objects that may pile up before a child looks for garbage; a flush makes some ten thousand at a time.
GARBAGE = 50_000

#: This process's, if it is a worker's parent.
_telemetry: wiring.WorkerTelemetry | None = None


@app.on_configure.connect
def _name_task_modules(sender: Any, **_: Any) -> None:
    # A spawned pool child gets a copy of the app and imports what this names.
    sender.conf.imports = (__name__,)
    sender.conf.worker_consumer = "workers.consumer:Consumer"


@app.on_after_configure.connect
def _schedule_ticks(sender: Any, **_: Any) -> None:
    config = settings()
    # In memory: when a tick was last due is nothing that a beat needs to remember.
    sender.conf.beat_scheduler = "celery.beat:Scheduler"
    ticks, training = QueueName.TICKS.value, QueueName.TRAINING.value
    for name, seconds, queue in (
        ("ticks.dispatch", config.dispatch_interval, ticks),
        ("ticks.reconcile", config.reconcile_interval, ticks),
        ("ticks.schedules", config.schedule_interval, ticks),
        ("ticks.purge", config.purge_interval, ticks),
        ("ticks.exports", config.purge_interval, ticks),
        # Only where trainers are launched can anybody see how they fare.
        ("ticks.training", config.training_interval, training),
        ("ticks.checkpoints", config.purge_interval, training),
    ):
        # A tick that nobody took in time is worthless: the next one does the same.
        sender.add_periodic_task(seconds, sender.signature(name), name=name, queue=queue, expires=60)


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure_logging()


@worker_init.connect
def _start_worker(sender: Any, **_: Any) -> None:
    global _telemetry
    _telemetry = wiring.WorkerTelemetry(sender.hostname)


@beat_init.connect
def _start_beat(**_: Any) -> None:
    wiring.start_beat()


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    dispose()  # a forked child must not use its parent's connections
    wiring.start_child()
    # What was imported stays for good. Looking through it again and again took a seventh of a fast unit's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 50)


@worker_ready.connect
def _announce(sender: Any, **_: Any) -> None:
    assert _telemetry is not None, "a worker begins before it is ready"
    sender.on_round = _telemetry.go_round
    _telemetry.ready(sender)
    presence.start(sender.hostname, [queue.name for queue in sender.task_consumer.queues], _telemetry.report)


@worker_shutting_down.connect
def _depart(**_: Any) -> None:
    if _telemetry is not None:
        _telemetry.vitals.stopping = True
    presence.stop()
