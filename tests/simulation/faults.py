"""What goes wrong in a simulation, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.broker import Message
from tests.simulation.database import Row
from tests.simulation.scheduler import Process

if TYPE_CHECKING:
    from tests.simulation.world import World


class Faults:
    """Strikes at random, until it ends and everything heals."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scheduler = world.scheduler
        self.count = 0
        self.database_errors = 0.0
        self.lost_answers = 0.0
        self.is_over = False
        self.zombies: set[Process] = set()

    def begin(self) -> None:
        """Choose how bad it gets, and strike a first time."""
        world, chance, broker = self.world, self.scheduler.chance, self.world.broker
        broker.lost = chance.choice((0.0, 0.05, 0.3))
        broker.doubled = chance.choice((0.0, 0.1, 0.5))
        broker.shuffled = chance.choice((0.0, 0.5, 1.0))
        self.interval = world.storm / chance.choice((2.0, 6.0, 15.0))
        # Each seed has some of the faults only: too many at once hide one another (A. Groce and others,
        # "Swarm Testing", ISSTA 2012).
        known = (
            self._kill_one,
            self._freeze_one,
            self._make_zombie,
            self._wipe,
            self._broker_away,
            self._repeat_message,
            self._database_away,
            self._answers_lost,
            self._endpoint_away,
            self._endpoint_refuses,
            self._clock_jumps,
        )
        self.kinds = chance.sample(known, chance.randint(1, len(known))) + [self._make_zombie] * chance.randint(0, 3)
        self.scheduler.after(chance.expovariate(1 / self.interval), self._strike)

    def end(self) -> None:
        """Nothing goes wrong any more, and what is broken heals."""
        self.is_over = True
        self.database_errors = self.lost_answers = 0.0
        broker, endpoint = self.world.broker, self.world.endpoint
        broker.lost = broker.doubled = 0.0
        broker.come_back()
        endpoint.is_away = endpoint.is_busy = endpoint.refuses = False
        for process in self.world.workers:
            if process not in self.zombies:  # they wake by themselves, when it hurts most
                self._thaw(process)
            process.skew = 0.0

    def database_fails(self) -> bool:
        """Whether a transaction that is about to begin finds the database away."""
        return self.database_errors > 0 and self.scheduler.chance.random() < self.database_errors

    def answer_is_lost(self) -> bool:
        """Whether whoever has just committed does not learn of it."""
        return self.lost_answers > 0 and self.scheduler.chance.random() < self.lost_answers

    def kill(self, process: Process) -> None:
        """End a process; the one that follows it comes by itself."""
        world, chance = self.world, self.scheduler.chance
        if not process.alive:
            return
        self.scheduler.kill(process)
        world.workers.remove(process)
        # Most brokers notice; sometimes the message of a dead worker is never seen again.
        if chance.random() < 0.8:
            self.scheduler.after(chance.uniform(0, 2), lambda: world.broker.give_back(process))
        else:
            world.broker.acknowledge(process)
        number = int(process.name.rpartition(" ")[2])
        again = world.start_worker if process.name.startswith("worker") else lambda: world.start_beat(number)
        self.scheduler.after(chance.uniform(0.1, 5), again)

    def _strike(self) -> None:
        if self.is_over:
            return
        self.count += 1
        self.scheduler.chance.choice(self.kinds)()
        self.scheduler.after(self.scheduler.chance.expovariate(1 / self.interval), self._strike)

    def _kill_one(self) -> None:
        # Half of the kills hit somebody who is at work, if there is one.
        busy = [worker for worker in self.world.workers if worker in self.world.history.in_hand]
        among = busy if busy and self.scheduler.chance.random() < 0.5 else self.world.workers
        if among:
            process = self.scheduler.chance.choice(among)
            self.scheduler.note(f"kills {process.name}")
            self.kill(process)

    def _freeze_one(self) -> None:
        if self.world.workers:
            process = self.scheduler.chance.choice(self.world.workers)
            seconds = self.scheduler.chance.uniform(0, 3) * self.world.lease
            self.scheduler.note(f"freezes {process.name} for {seconds:.1f} s")
            process.frozen = True
            process.troubled_at = self.scheduler.now + seconds
            self.scheduler.after(seconds, lambda: self._thaw(process))

    def _make_zombie(self) -> None:
        """Freeze whoever works on a unit until another has taken it, and so is about to be disturbed."""
        history = self.world.history
        busy = [worker for worker in self.world.workers if worker in history.in_hand and not worker.frozen]
        if not busy:
            return
        process = self.scheduler.chance.choice(busy)
        unit_id, _ = history.in_hand[process]
        self.scheduler.note(f"freezes {process.name} until another has its unit")
        process.frozen = True
        self.zombies.add(process)

        def look(again: int) -> None:
            owner, _ = history.owners.get(unit_id, (process, 0))
            if owner is process and again:
                self.scheduler.after(0.2, lambda: look(again - 1))
            else:
                self.scheduler.after(self.world.endpoint.latency * self.scheduler.chance.random(), thaw)

        def thaw() -> None:
            self.zombies.discard(process)
            self._thaw(process)

        look(200)

    def _thaw(self, process: Process) -> None:
        if process.frozen:
            process.frozen = False
            process.troubled_at = self.scheduler.now
            self.scheduler.note(f"wakes {process.name}")

    def _wipe(self) -> None:
        self.scheduler.note("wipes the broker")
        self.world.broker.wipe()

    def _broker_away(self) -> None:
        self.scheduler.note("takes the broker away")
        self.world.broker.is_away = True
        self.scheduler.after(self.scheduler.chance.uniform(0, self.world.storm / 3), self.world.broker.come_back)

    def _repeat_message(self) -> None:
        """The message of any unit there is turns up, as if it had been on its way for long."""
        if self.scheduler.chance.random() < 0.5:
            self._repeat(list(self.world.history.units.values()))
        else:
            self._repeat_when_waiting(40)

    def _repeat_when_waiting(self, looks: int) -> None:
        """The same of a unit that must wait, as soon as there is one."""
        now = self.scheduler.instant.strftime("%Y-%m-%d %H:%M:%S.%f")
        units = self.world.history.units.values()
        waiting = [unit for unit in units if unit["state"] == "ready" and unit["not_before"] > now]
        if waiting:
            self._repeat(waiting)
        elif looks and not self.is_over:
            self.scheduler.after(0.2, lambda: self._repeat_when_waiting(looks - 1))

    def _repeat(self, units: list[Row]) -> None:
        if units:
            unit = self.scheduler.chance.choice(units)
            self.scheduler.note(f"repeats the message of unit {unit['key']}")
            self.world.broker.messages.append(Message(unit["kind"], unit["id"], unit["queue"]))
            self.world.broker.arrived.set()

    def _database_away(self) -> None:
        self.scheduler.note("lets the database fail")
        self.database_errors = self.scheduler.chance.choice((0.3, 1.0))
        self._heal_later("database_errors", 6)

    def _answers_lost(self) -> None:
        self.scheduler.note("lets answers of the database get lost")
        self.lost_answers = self.scheduler.chance.choice((0.2, 0.5))
        self._heal_later("lost_answers", 4)

    def _heal_later(self, name: str, most: float) -> None:
        self.scheduler.after(self.scheduler.chance.uniform(0, most), lambda: setattr(self, name, 0.0))

    def _endpoint_away(self) -> None:
        trouble = self.scheduler.chance.choice(("is_away", "is_away", "is_busy"))
        self.scheduler.note(f"lets it be so that the model server {trouble}")
        setattr(self.world.endpoint, trouble, True)
        back = self.scheduler.chance.uniform(0, self.world.storm / 2)
        self.scheduler.after(back, lambda: setattr(self.world.endpoint, trouble, False))

    def _endpoint_refuses(self) -> None:
        if self.scheduler.chance.random() < 0.3:
            self.scheduler.note("lets the model server refuse for good")
            self.world.endpoint.refuses = True
            self.scheduler.after(3, lambda: setattr(self.world.endpoint, "refuses", False))

    def _clock_jumps(self) -> None:
        if self.world.workers:
            process = self.scheduler.chance.choice(self.world.workers)
            process.skew = self.scheduler.chance.choice((-3600.0, 3600.0, 0.5, -0.5))
            self.scheduler.note(f"sets the clock of {process.name} by {process.skew} s")
