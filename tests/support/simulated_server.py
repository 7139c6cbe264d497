"""A model server and its clients on a virtual clock: minutes of congestion control in a second.

It is a simulation of `workers.inference.loop`: a client has so many consumers as its limit says, a refused batch keeps
its consumer while it waits for its next try, and a server's `Retry-After` closes the whole client.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from workers.inference.aimd import Aimd
from workers.inference.bisect import RetryPolicy
from workers.inference.failures import Overloaded

#: Seconds that a refusal takes, and that a client takes between an answer and the next request.
REFUSAL, TURNAROUND = 0.0005, 0.0001
#: How much a service time varies, up and down.
JITTER = 0.1


@dataclass
class Server:
    """Works on `parallel` requests at a time and queues the others; refuses what is more than `capacity` in all."""

    service: float = 0.005
    parallel: int = 1_000_000
    capacity: int = 1_000_000
    retry_after: float | None = None
    #: Seconds until a refusal; as long as a service where a proxy queues first.
    refusal: float = REFUSAL
    in_flight: int = 0
    served: int = 0
    refused: int = 0


@dataclass
class SimulatedClient:
    """A process: its controller, and how many of its consumers are in flight or wait to try again."""

    control: Aimd = field(default_factory=Aimd)
    in_flight: int = 0
    #: Refused batches that wait, by how often they were tried.
    waiting: int = 0
    opens_at: float = 0.0
    served: int = 0


class World:
    """Clients that want to send for ever, and one server."""

    def __init__(self, server: Server, clients: int, *, seed: int = 0, policy: RetryPolicy | None = None) -> None:
        self.server = server
        self.clients = [SimulatedClient() for _ in range(clients)]
        self.random = random.Random(seed)
        self.policy = policy or RetryPolicy()
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.ties = count()
        self.queue: list[Callable[[], None]] = []
        self.working = 0
        self.unreachable = 0
        for client in self.clients:
            self.at(0.0, lambda client=client: self.fill(client))  # type: ignore[misc]  # mypy infers no lambda with defaults

    def run(self, seconds: float) -> tuple[float, float]:
        """Let time pass; say requests served a second, and the share of all requests that were refused."""
        served, refused, end = self.server.served, self.server.refused, self.now + seconds
        while self.events and self.events[0][0] <= end:
            self.now, _, event = heapq.heappop(self.events)
            event()
        self.now = end
        served, refused = self.server.served - served, self.server.refused - refused
        return served / seconds, refused / max(1, served + refused)

    def at(self, moment: float, event: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self.events, (moment, next(self.ties), event))

    def fill(self, client: SimulatedClient) -> None:
        """Send as much as the client may."""
        if self.now < client.opens_at:
            return
        while client.in_flight + client.waiting < int(client.control.limit):
            self.send(client, 1)

    def send(self, client: SimulatedClient, tries: int) -> None:
        """One request, its batch's `tries`-th."""
        client.in_flight += 1
        sent_at, flying = self.now, client.in_flight
        server = self.server
        if server.in_flight >= server.capacity:
            server.refused += 1
            self.at(self.now + server.refusal, lambda: self.refuse(client, sent_at, flying, tries))
            return
        server.in_flight += 1
        self.queue.append(lambda: self.answer(client, sent_at))
        self.work()

    def work(self) -> None:
        """Begin with what waits at the server, if it has a hand free."""
        while self.queue and self.working < self.server.parallel:
            self.working += 1
            duration = self.server.service * self.random.uniform(1 - JITTER, 1 + JITTER)
            self.at(self.now + duration, self.queue.pop(0))

    def answer(self, client: SimulatedClient, sent_at: float) -> None:
        """A request is served."""
        self.working -= 1
        self.server.in_flight -= 1
        self.server.served += 1
        client.served += 1
        client.control.succeeded(self.now, sent_at, client.in_flight)
        client.in_flight -= 1
        self.at(self.now + self.random.uniform(0, 2 * TURNAROUND), lambda: self.fill(client))
        self.work()

    def refuse(self, client: SimulatedClient, sent_at: float, flying: int, tries: int) -> None:
        """A request is refused, and waits for its next try."""
        pause = self.server.retry_after or 0.0
        client.control.overloaded(self.now, sent_at, flying, pause)
        client.in_flight -= 1
        client.waiting += 1
        client.opens_at = max(client.opens_at, self.now + pause)
        if pause:
            self.at(client.opens_at, lambda: self.fill(client))
        self.unreachable += tries >= self.policy.tries
        delay = self.policy.delay(tries, Overloaded("busy", retry_after=self.server.retry_after))
        self.at(self.now + delay, lambda: self.again(client, tries + 1))

    def again(self, client: SimulatedClient, tries: int) -> None:
        """A refused batch comes again, as soon as there is a place."""
        if self.now < client.opens_at or client.in_flight >= int(client.control.limit):
            self.at(max(client.opens_at, self.now + 0.001), lambda: self.again(client, tries))
            return
        client.waiting -= 1
        self.send(client, tries)


def limits(clients: Sequence[SimulatedClient]) -> list[int]:
    """What each client allows itself."""
    return [int(client.control.limit) for client in clients]
