"""What is counted while units run, for Prometheus: labelled by kind, model or queue, never by a job or a unit.

Counting costs a dictionary look-up and an addition, so it is done once a unit or a flush, never once
a datum. In a child of a worker's pool the counts go to the worker's folder, where its parent reads
them; anywhere else they stay in memory. A child goes by its place in the pool and not by its process
id: the next child in that place goes on with the counts of the one before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from billiard.process import current_process
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

#: Names the folder of the worker that started this process.
FOLDER = "ORCHESTRATOR_WORKER_FOLDER"


def slot() -> str:
    """This process's place in its worker's pool; for a process of no pool, a name of its own."""
    index = getattr(current_process(), "index", None)
    return f"pid{os.getpid()}" if index is None else str(index)


def folder() -> Path | None:
    """The folder of the worker that started this process, if one did."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None


if (_folder := folder()) is not None and _folder.is_dir():
    # Every metric below has a label, so that no file is opened before this process knows its place.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_folder)
    values.ValueClass = values.MultiProcessValue(slot)  # type: ignore[no-untyped-call]  # the library types its front only

#: Not the library's own: a program that only submits jobs has metrics of its own there.
REGISTRY = CollectorRegistry()

CLAIMS = Counter(
    "orchestrator_claims",
    "Messages taken from the broker, by whether their unit was to be had.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
ATTEMPTS = Histogram(
    "orchestrator_attempt_seconds",
    "How long attempts at units took, by how they ended.",
    ["kind", "outcome"],
    registry=REGISTRY,
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
LEASES_LOST = Counter(
    "orchestrator_leases_lost",
    "Attempts that found their lease gone: taken by another attempt, or cancelled with their job.",
    ["kind", "reason"],
    registry=REGISTRY,
)
STALE_WRITES = Counter(
    "orchestrator_stale_writes_refused",
    "Writes of attempts without a lease, each of them refused.",
    ["kind"],
    registry=REGISTRY,
)
DATUMS = Counter(
    "orchestrator_datums",
    "Datums that got an outcome, by model.",
    ["model", "model_id", "outcome"],
    registry=REGISTRY,
)
PUBLISHED = Counter(
    "orchestrator_units_published",
    "Units that dispatch sent to the broker, by what made it look.",
    ["by"],
    registry=REGISTRY,
)
RECONCILED = Counter(
    "orchestrator_reconcile_actions",
    "What reconcile put right.",
    ["action"],
    registry=REGISTRY,
)
OCCURRENCES = Counter(
    "orchestrator_schedule_occurrences",
    "Instants at which schedules were due, by what was decided.",
    ["state"],
    registry=REGISTRY,
)
RETAINED = Counter(
    "orchestrator_retention_inferences",
    "Inferences that retention dealt with: deleted (soft, hard), or kept without their data (blob).",
    ["action"],
    registry=REGISTRY,
)
RETENTION_PAGES = Histogram(
    "orchestrator_retention_transaction_seconds",
    "How long the transactions of retention took, for which writers may have waited.",
    ["action"],
    registry=REGISTRY,
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)
IN_FLIGHT = Gauge(
    "orchestrator_requests_in_flight",
    "Requests that wait for an answer of the endpoint now.",
    ["endpoint", "model", "model_id"],
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
LIMIT = Gauge(
    "orchestrator_request_limit",
    "Requests that may be in flight to the endpoint, as congestion control has it now.",
    ["endpoint", "model", "model_id"],
    registry=REGISTRY,
    multiprocess_mode="livesum",
)


def begin(kinds: Iterable[str]) -> None:
    """Show at zero what must not happen: Prometheus sees no growth in a series that begins with its first event."""
    for kind in kinds:
        STALE_WRITES.labels(kind)
        for reason in ("taken", "cancelled"):
            LEASES_LOST.labels(kind, reason)


class Window(Protocol):
    """How many requests are, and may be, in flight."""

    in_flight: int

    @property
    def limit(self) -> int: ...


_windows: WeakKeyDictionary[Window, tuple[str, str, str]] = WeakKeyDictionary()
#: Labels of every window that `sample` has seen.
_sampled: set[tuple[str, str, str]] = set()
#: What people call the models that this process has called, by id.
_names: dict[str, str] = {}
_lock = threading.Lock()


def watch(window: Window, *, model_id: str, model: str, url: str) -> None:
    """Have `sample` read this window, of a model that answers at `url`, for as long as it is in use."""
    endpoint = urlsplit(url).netloc.rpartition("@")[2]  # never a password
    with _lock:
        _names[model_id] = model
        _windows[window] = (endpoint, model, model_id)


def sample() -> None:
    """Set the gauges to what the watched windows say now; for a thread that does so again and again."""
    with _lock:
        found = list(_windows.items())
    # A window that is gone counts as nothing from now on, so that nothing stale is left.
    sums = dict.fromkeys(_sampled, (0, 0))
    for window, labels in found:
        in_flight, limit = sums.get(labels, (0, 0))
        sums[labels] = (in_flight + window.in_flight, limit + window.limit)
    for labels, (in_flight, limit) in sums.items():
        IN_FLIGHT.labels(*labels).set(in_flight)
        LIMIT.labels(*labels).set(limit)
    _sampled.update(sums)


def count_datums(model_id: str, outcomes: Mapping[str, int]) -> None:
    """Add a flush's datums, by outcome."""
    for outcome, count in outcomes.items():
        if count:
            DATUMS.labels(_names.get(model_id, model_id), model_id, outcome).inc(count)
