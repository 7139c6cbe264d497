"""A broker in memory: it delivers in any order, twice or not at all, forgets everything, or does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.errors import Unavailable
from orchestrator.queues import Publishable
from tests.simulation.scheduler import Process, Scheduler


@dataclass(eq=False, slots=True)
class Message:
    """A unit's id on its way to a worker."""

    kind: str
    unit_id: str
    queue: str


class Broker:
    """Queues of messages, and the chances that one gets lost or doubled."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.messages: list[Message] = []
        self.held: dict[Process, Message] = {}
        self.arrived = scheduler.event()
        self.is_away = False
        self.lost = self.doubled = self.shuffled = 0.0

    def send(self, message: Message) -> None:
        """Take a message, and perhaps lose or double it."""
        if self.is_away:
            raise Unavailable("the broker does not answer")
        fate = self.scheduler.chance.random()
        copies = 0 if fate < self.lost else 2 if fate < self.lost + self.doubled else 1
        self.messages += [Message(message.kind, message.unit_id, message.queue) for _ in range(copies)]
        self.arrived.set()

    def take(self, process: Process) -> Message | None:
        """A message for the process, unless there is none; it is kept until the process acknowledges it."""
        if self.is_away or not self.messages:
            self.arrived.clear()
            return None
        chance = self.scheduler.chance
        place = chance.randrange(len(self.messages)) if chance.random() < self.shuffled else 0
        self.held[process] = message = self.messages.pop(place)
        return message

    def acknowledge(self, process: Process) -> None:
        """The process is done with its message."""
        self.held.pop(process, None)

    def give_back(self, process: Process) -> None:
        """The process is gone: its message goes to another, unless it had been wiped."""
        message = self.held.pop(process, None)
        if message is not None:
            self.messages.append(message)
            self.arrived.set()

    def wipe(self) -> None:
        """FLUSHALL: what waits is gone, and so is what was to be given back."""
        self.messages.clear()
        self.held.clear()

    def come_back(self) -> None:
        """Answer again."""
        self.is_away = False
        self.arrived.set()


class BrokerPublisher:
    """What stands in for `CeleryPublisher`; a process may be killed before each message."""

    def __init__(self, broker: Broker, sends: Callable[[str], None]) -> None:
        self.broker = broker
        self.sends = sends

    def publish(self, units: Iterable[Publishable]) -> None:
        """Send one message for each unit."""
        for unit in units:
            self.broker.scheduler.sleep(0)
            self.sends(unit.id)
            self.broker.send(Message(unit.kind, unit.id, unit.queue))

    def depth(self, queue: str) -> int:
        """How many messages wait."""
        if self.broker.is_away:
            raise Unavailable("the broker does not answer")
        return sum(message.queue == queue for message in self.broker.messages)
