"""The composition root of chaos with a publisher that sends messages ten times, in any order, late, or not at all."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from orchestrator.queues import CeleryPublisher, Publishable
from tests.chaos.faulty import app

__all__ = ["app"]

#: Messages for each unit, and the share of units that get none.
COPIES = 10
LOST = 0.05
#: The share of messages that are sent with the units of a later call.
LATE = 0.3

_chance = random.Random()
_late: list[Publishable] = []
_publish = CeleryPublisher.publish


@app.on_configure.connect
def _name_this_module(sender: Any, **_: Any) -> None:
    # Connected after that of `faulty`: a spawned child imports this, and with it all the others.
    sender.conf.imports = (__name__,)


def publish(self: CeleryPublisher, units: Iterable[Publishable]) -> None:
    """In the place of `CeleryPublisher.publish`."""
    found = [unit for unit in units if _chance.random() >= LOST]
    copies = [*_late, *(unit for unit in found for _ in range(COPIES))]
    _chance.shuffle(copies)
    late = int(len(copies) * LATE)
    _late[:] = copies[:late]
    _publish(self, copies[late:])


CeleryPublisher.publish = publish  # type: ignore[method-assign]  # that is the point
