"""One simulation: some jobs, some workers, beat, users, and everything that goes wrong for as long as it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from orchestrator import bulk_inference
from orchestrator.bulk_inference import NewBulkInferenceJobRequest
from orchestrator.errors import OrchestratorError, RequestIdReused
from orchestrator.queues import app
from orchestrator.settings import settings
from tests.simulation.broker import Broker, BrokerPublisher
from tests.simulation.database import Change, Database, Row, answer_lost, away
from tests.simulation.faults import Faults
from tests.simulation.history import History, Violation, describe
from tests.simulation.scene import Scene
from tests.simulation.scheduler import Killed, Process, Scheduler, Thread
from tests.simulation.stand_ins import Stage, forget, outcome_of
from workers.inference.failures import Busy, EndpointRefused, Unreachable
from workers.tasks import ticks

#: Simulated seconds for which things go wrong, most of the time and now and then; and within which
#: all must be done afterwards.
STORMS = (6.0, 6.0, 10.0, 10.0, 10.0, 40.0)
CALM = 240.0
#: What a datum that kills whoever asks for it may take longer in each job: three attempts or four, each as long as the
#: slowest server and then a lease.
DEADLY = 80.0
MOST_STEPS = 20_000


@dataclass
class Endpoint:
    """A model server: whether it answers, and what it refuses."""

    is_away: bool = False
    #: It has more to do than it bears.
    is_busy: bool = False
    #: It will never serve the model.
    refuses: bool = False
    #: Ordinals that it cannot read, and those whose reading kills whoever asked.
    poison: frozenset[int] = frozenset()
    deadly: frozenset[int] = frozenset()
    latency: float = 0.1

    @property
    def is_in_trouble(self) -> bool:
        """Whether it answers nothing."""
        return self.refuses or self.is_away or self.is_busy

    def trouble(self) -> OrchestratorError:
        """What it answers instead."""
        if self.refuses:
            return EndpointRefused("no such model")
        return Unreachable("nobody answers") if self.is_away else Busy("too much at once")


@dataclass
class Result:
    """How a simulation went."""

    seed: int
    violation: str = ""
    trace: list[tuple[float, str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0


class World:
    """Everything there is under one seed."""

    def __init__(self, seed: int, stage: Stage, database: Database, scene: Scene) -> None:
        self.seed = seed
        self.database = database
        self.scene = scene
        self.scheduler = scheduler = Scheduler(seed)
        chance = scheduler.chance
        self.violation: str | None = None
        self.storm = chance.choice(STORMS)
        self.broker = Broker(scheduler)
        self.publisher = BrokerPublisher(self.broker, self._sends)
        config = settings()
        config.lease_seconds = chance.choice((2.0, 4.0, 8.0))
        config.republish_seconds = chance.choice((5.0, 15.0))
        config.republish_empty_seconds = chance.choice((2.0, 5.0))
        config.dispatch_window = chance.randint(1, 6)
        self.lease = config.lease_seconds
        self.history = History(scheduler, window=config.dispatch_window, lease=self.lease)
        self.endpoint = Endpoint(latency=chance.choice((0.01, 0.3, self.lease / 2)))
        self.workers: list[Process] = []
        self.born = 0
        self.accepted: list[str] = []
        self.requests: list[str] = []
        self.users_left = 0
        self.is_calm = False
        self.faults = Faults(self)
        stage.world = self

    def run(self) -> Result:
        """Storm, then calm; the first violation ends it."""
        forget()
        self.database.empty()
        self.database.witness = self
        try:
            self._populate()
            self.scheduler.run(lambda: self.violation is not None, until=self.storm, most_steps=MOST_STEPS)
            if self.violation is None:
                self._calm_down()
                self.scheduler.run(self._is_over, until=self.scheduler.now + self.calm, most_steps=2 * MOST_STEPS)
            if self.violation is None:
                self._check_the_end()
        finally:
            self.database.witness = None
            for process in {thread.process: None for thread in self.scheduler.threads}:
                self.scheduler.kill(process)
        scheduler = self.scheduler
        counts = {**self.history.counts, "faults": self.faults.count, "jobs": len(self.history.jobs)}
        return Result(self.seed, self.violation or "", scheduler.trace, counts, scheduler.steps, scheduler.now)

    # What happens, as the database tells it.

    def begins(self) -> None:
        """Let others run first; then the database may turn out to be away."""
        scheduler = self.scheduler
        thread = scheduler.current
        if thread is None:
            return
        pause = scheduler.chance.random()
        scheduler.sleep(0.0 if pause < 0.9 else (pause - 0.9) * 2)
        if self.faults.database_fails():
            thread.process.troubled_at = scheduler.now
            scheduler.note("finds the database away")
            raise away()

    def changed(self, table: str, old: Row | None, new: Row | None) -> None:
        """A row was changed by a transaction that may yet be undone."""
        self.history.pending.append((table, old, new))

    def undone(self) -> None:
        """The transaction was undone."""
        self.history.pending = []

    def commits(self) -> None:
        """The transaction is about to be committed."""
        thread = self.scheduler.current
        changes = self.history.pending
        if thread is None or self.violation is not None:
            self.history.pending = []
            return
        for change in changes:
            self._note(change)
        self._judge(lambda: self.history.commit(thread.process))

    def committed(self) -> None:
        """The transaction took effect; whoever made it may not learn of it."""
        thread = self.scheduler.current
        if thread is not None and self.faults.answer_is_lost():
            thread.process.troubled_at = self.scheduler.now
            self.scheduler.note("does not learn that its transaction was committed")
            raise answer_lost()

    def _sends(self, unit_id: str) -> None:
        self._judge(lambda: self.history.sends(self._process(), unit_id))

    def _judge(self, judgement: Callable[[], None]) -> None:
        try:
            judgement()
        except Violation as violation:
            self._fail(str(violation))

    def _note(self, change: Change) -> None:
        table, old, new = change
        row = new or old or {}
        name = row.get("key") or row.get("ordinal") or row.get("to_state") or ""
        verb = "adds" if old is None else "deletes" if new is None else "changes"
        job = row.get("job_id") or row.get("bulk_inference_job_id") or row.get("subject_id") or row.get("id")
        self.scheduler.note(f"{verb} {table} {name} of job …{str(job)[-6:]}: {describe(old)} -> {describe(new)}")

    def _fail(self, violation: str) -> None:
        if self.violation is None:
            self.violation = violation
            self.scheduler.note(f"VIOLATION: {violation}")

    # Who takes part.

    def owner(self) -> str:
        """The name of the process that runs just now."""
        thread = self.scheduler.current
        assert thread is not None
        return thread.process.name

    def _populate(self) -> None:
        chance = self.scheduler.chance
        everything = range(self.scene.largest)
        if chance.random() < 0.4:
            self.endpoint.poison = frozenset(chance.sample(everything, 2))
        if chance.random() < 0.3:
            self.endpoint.deadly = frozenset(chance.sample(everything, 1))
        for _ in range(chance.randint(1, 3)):
            self.start_worker()
        for number in range(chance.choice((1, 1, 2))):
            self.start_beat(number + 1)
        for number in range(chance.choice((1, 1, 2))):
            self.users_left += 1
            self.start(Process(f"user {number + 1}"), "main", partial(self._use, number))
        self.faults.begin()

    def start(self, process: Process, name: str, body: Callable[[], Any]) -> Thread:
        """Begin a thread whose errors are expected to be of a kind that is known."""

        def guarded() -> None:
            try:
                body()
            except Killed:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, nobody foresaw it
                self._fail(f"{process.name} ended with {type(error).__name__}: {error}")

        return self.scheduler.start(process, name, guarded)

    def start_worker(self) -> None:
        """Another worker process."""
        self.born += 1
        process = Process(f"worker {self.born}")
        self.workers.append(process)
        self.start(process, "main", lambda: self._work(process))

    def start_beat(self, number: int) -> None:
        """Another beat, whose ticks come at intervals of its own."""
        process = Process(f"beat {number}")
        self.workers.append(process)
        self.start(process, "dispatch", lambda: self._tick(ticks.dispatch, 2.0, 10.0))
        self.start(process, "reconcile", lambda: self._tick(ticks.reconcile, 3.0, 12.0))

    def _tick(self, task: Any, shortest: float, longest: float) -> None:
        while True:
            self.scheduler.sleep(self.scheduler.chance.uniform(shortest, longest))
            self._call(task.run)

    def _call(self, work: Callable[..., Any], *args: Any) -> None:
        """Call a task as Celery would: an error of the database or of a unit ends the task, and nothing else."""
        try:
            work(*args)
        except (OrchestratorError, SQLAlchemyError) as error:
            self.scheduler.note(f"ends its task with {type(error).__name__}")

    def _work(self, process: Process) -> None:
        while True:
            message = self.broker.take(process)
            if message is None:
                self.broker.arrived.wait(5.0)
                continue
            self.scheduler.note(f"receives a message for unit …{message.unit_id[-6:]}")
            self.scheduler.sleep(0)
            self._call(app.tasks[message.kind].run, message.unit_id)
            self.history.task_ended(process)
            self.scheduler.sleep(0)
            self.broker.acknowledge(process)

    def infer(self, job: Any, references: Iterable[Any], sink: Callable[..., bool]) -> tuple[bool, int]:
        """What a worker does with a model server: ask, and flush what it answered now and then."""
        scheduler, chance, endpoint = self.scheduler, self.scheduler.chance, self.endpoint
        self._judge(lambda: self.history.asks(self._process()))
        waiting: list[Any] = []
        position, size = 0, chance.randint(1, 3)
        for reference in references:
            scheduler.sleep(endpoint.latency * 2 * chance.random())
            if endpoint.is_in_trouble:
                if waiting:
                    sink(waiting, 0)
                raise endpoint.trouble()
            ordinal = reference[0]
            if ordinal in endpoint.deadly:
                scheduler.note(f"dies of datum {ordinal}")
                self.faults.kill(self._process())
                raise Killed
            position = ordinal + 1
            waiting.append(outcome_of(reference, ordinal in endpoint.poison))
            if len(waiting) >= size:
                wanted = sink(waiting, 1)
                waiting = []
                if not wanted or chance.random() < 0.1:
                    return False, position
        if waiting:
            sink(waiting, 0)
        return True, position

    def _process(self) -> Process:
        assert self.scheduler.current is not None
        return self.scheduler.current.process

    # What users do.

    def _use(self, number: int) -> None:
        chance = self.scheduler.chance
        for turn in range(chance.randint(1, 2)):
            self.scheduler.sleep(chance.uniform(0, self.storm / 3))
            self._submit(f"request {number}-{turn}" if chance.random() < 0.8 else "request of several")
        for _ in range(chance.randint(0, 4)):
            self.scheduler.sleep(chance.uniform(0, self.storm / 3))
            if not self.accepted:
                continue
            job_id = chance.choice(self.accepted)
            door = chance.choice(("pause", "pause", "resume", "abort", "retry", "retry"))
            self.scheduler.note(f"asks to {door} job …{job_id[-6:]}")
            self._call(getattr(bulk_inference, f"{door}_bulk_inference_job"), job_id)
        self.users_left -= 1

    def _submit(self, request_id: str) -> None:
        """Submit until it is accepted: whoever does not learn what became of it asks again."""
        chance = self.scheduler.chance
        request = NewBulkInferenceJobRequest(**self.scene.request(chance), batch_size=chance.randint(1, 2))
        threshold, priority = chance.choice((0.0, 0.2, 1.0)), chance.randint(0, 2)
        while True:
            try:
                job_id = bulk_inference.submit_bulk_inference_job(
                    request, request_id=request_id, failure_threshold=threshold, priority=priority
                )
            except OperationalError:  # the database is away, or its answer was lost
                self.scheduler.sleep(1.0)
                continue
            except RequestIdReused:
                self.scheduler.note(f"was refused {request_id!r}, under which something else was submitted")
                return
            self.accepted.append(job_id)
            self.requests.append(request_id)
            self.scheduler.note(f"submitted {request_id!r} as job …{job_id[-6:]}")
            return

    # How it ends.

    def _calm_down(self) -> None:
        self.scheduler.note("nothing goes wrong any more")
        self.is_calm = True
        self.faults.end()
        self.start(Process("user of the end"), "main", self._resume_all)

    def _resume_all(self) -> None:
        while self.users_left:
            self.scheduler.sleep(1.0)
        for job in [job for job in self.history.jobs.values() if job.paused]:
            self._call(bulk_inference.resume_bulk_inference_job, job.id)
        self.users_left = -1

    @property
    def calm(self) -> float:
        """Simulated seconds within which all must be done once nothing goes wrong any more."""
        return CALM + DEADLY * len(self.endpoint.deadly) * len(self.history.jobs)

    def _is_over(self) -> bool:
        if self.violation is not None:
            return True
        if self.users_left >= 0:
            return False
        return all(job.closed for job in self.history.jobs.values()) and all(
            unit["state"] in ("done", "dead", "cancelled") for unit in self.history.units.values()
        )

    def _check_the_end(self) -> None:
        for job in self.history.jobs.values():
            rest = [f"{unit['key']} {unit['state']}" for unit in job.units.values()]
            if not job.closed:
                self._fail(f"job {job.id} is {job.state} {self.calm:.0f} s after the last fault: {', '.join(rest)}")
        if not self._is_over():
            self._fail(f"it does not come to an end: {self.scheduler.steps} steps")
        self.database.witness = None
        for violation in self.scene.check(self.database, self.accepted, self.requests):
            self._fail(violation)
