"""A worker's counters as the doctor reads them: how much each has grown within the last hour."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

#: How far back the doctor looks, in seconds.
SPAN = 3600.0
#: Counters by the name that the doctor knows, and the label, if any, that tells its parts apart.
NAMES = {
    "orchestrator_leases_lost_total": ("leases_lost", "reason"),
    "orchestrator_stale_writes_refused_total": ("stale_writes_refused", None),
    "orchestrator_reconcile_actions_total": ("reconciled", "action"),
    "orchestrator_datums_total": ("datums", "outcome"),
}

Tally = Mapping[str, float]


class Tallies:
    """Remembers what the counters said over the last hour."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.history: deque[tuple[float, Tally]] = deque([(time.monotonic(), {})])

    def last_hour(self) -> dict[str, int]:
        """How much each counter has grown; those that have not are left out."""
        now = time.monotonic()
        tally = read(self.registry)
        while len(self.history) > 1 and self.history[1][0] <= now - SPAN:
            self.history.popleft()
        before = self.history[0][1]
        self.history.append((now, tally))
        grown = {name: int(value - before.get(name, 0)) for name, value in tally.items()}
        return {name: growth for name, growth in grown.items() if growth > 0}


def read(registry: CollectorRegistry) -> Tally:
    """What the counters say now, by name or by `name:part`."""
    tally: defaultdict[str, float] = defaultdict(float)
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name in NAMES:
                name, label = NAMES[sample.name]
                tally[f"{name}:{sample.labels[label]}" if label else name] += sample.value
    return tally
