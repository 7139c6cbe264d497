"""What a test of training starts from: a project and a blueprint, a make-believe runtime, runs without workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select, update

from orchestrator import ledger, registry
from orchestrator.database import db_now, reading, transact, writing
from orchestrator.errors import Unavailable
from orchestrator.ids import new_id
from orchestrator.ledger import Again, Outcome
from orchestrator.ledger.tables import UnitRow
from orchestrator.storage import blobs
from orchestrator.training_v2 import intake
from orchestrator.training_v2.blueprint import create_blueprint
from orchestrator.training_v2.checkpoint_files import CheckpointFile
from orchestrator.training_v2.finish import finish
from orchestrator.training_v2.models import NewBlueprint, Resources, RunState
from orchestrator.training_v2.quantities import Demand
from orchestrator.training_v2.run import create_run
from orchestrator.training_v2.runtime import (
    Alive,
    Exited,
    Gone,
    Launch,
    LaunchName,
    LaunchRefused,
    Observation,
    Runtime,
    Waiting,
)
from orchestrator.training_v2.step import step
from orchestrator.training_v2.tables import RunRow
from orchestrator.transitions import events_of

SCHEMA = {
    "type": "object",
    "properties": {"epochs": {"type": "integer", "minimum": 1}, "rate": {"type": "number", "exclusiveMinimum": 0}},
    "required": ["epochs"],
}
SMALL = Resources(cpu="1", memory="1Gi")
#: Longer than any test takes.
FOREVER = timedelta(hours=1)


@dataclass(frozen=True)
class Scene:
    """A project with one blueprint."""

    project_id: str
    blueprint_id: str

    def create(self, name: str = "digits", **overrides: Any) -> str:
        """A new run; returns its id."""
        values: dict[str, Any] = {
            "name": name,
            "version": "1",
            "resources": SMALL,
            "config": {"epochs": 3},
            "task_type": "Image Classification",
            "blueprint_id": self.blueprint_id,
            "project_id": self.project_id,
            **overrides,
        }
        return create_run(**values)


def set_scene(**blueprint: Any) -> Scene:
    """A project, and a blueprint with these fields beside the usual ones."""
    values: dict[str, Any] = {
        "name": f"classifier {new_id()}",
        "version": "1.0",
        "entry_point": ["python", "-m", "train"],
        "config_schema": SCHEMA,
        **blueprint,
    }
    project = registry.create_project(f"project {new_id()}")
    return Scene(project.id, create_blueprint(NewBlueprint(**values)).id)


@dataclass
class Trainer:
    """What the make-believe runtime knows of a launch."""

    seen: Observation
    launch: Launch | None = None
    #: Every grace period that it was told of.
    told: list[timedelta] = field(default_factory=list)


class StageRuntime:
    """A runtime whose trainers do as the test says."""

    def __init__(self, place: str = "here", cores: int | None = None) -> None:
        self.place = place
        self.capacity = None if cores is None else Demand(Decimal(cores), 1 << 40)
        self.trainers: dict[tuple[str, int], Trainer] = {}
        #: What a launch that is submitted meets: an observation, or an error to raise.
        self.greets: Observation | Exception = Alive()
        self.is_away = False
        self.starts = 0

    def submit(self, launch: Launch) -> Observation:
        self._check()
        if isinstance(self.greets, Exception):
            raise self.greets
        known = self.trainers.get((launch.run_id, launch.number))
        if known is None:
            known = self.trainers[launch.run_id, launch.number] = Trainer(self.greets)
            self.starts += 1
        known.launch = known.launch or launch
        if isinstance(known.seen, Waiting):
            known.seen = self.greets
        return known.seen

    def observe(self, launches: Sequence[LaunchName]) -> Sequence[Observation]:
        self._check()
        return [self.of(launch.run_id, launch.number).seen for launch in launches]

    def terminate(self, launch: LaunchName, grace: timedelta) -> None:
        self._check()
        trainer = self.trainers.setdefault((launch.run_id, launch.number), Trainer(Gone()))
        trainer.told.append(grace)
        if not grace and isinstance(trainer.seen, Alive | Waiting):
            trainer.seen = Exited(-9, signalled=True)

    def of(self, run_id: str, number: int) -> Trainer:
        """What became of a launch."""
        return self.trainers.get((run_id, number), Trainer(Gone()))

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable("the runtime does not answer")


def refuse(why: str = "no such image") -> LaunchRefused:
    """What a runtime raises that will never start a launch."""
    return LaunchRefused(why)


def runtimes(runtime: Runtime) -> Mapping[str, Runtime]:
    return {"local": runtime}


def take_step(run_id: str, runtime: Runtime) -> Outcome:
    """Do what the run's unit does next, whenever it is due, and settle it."""
    return _work(run_id, runtime, "training.step")


def take_finish(run_id: str, runtime: Runtime) -> Outcome:
    """Do what the unit does that finishes the run."""
    return _work(run_id, runtime, "training.finish")


def _work(run_id: str, runtime: Runtime, kind: str) -> Outcome:
    lease = ledger.claim(due_unit(run_id, kind), "test")
    assert lease is not None, "nobody else works on it"
    outcome = (step if kind == "training.step" else finish)(lease, runtimes(runtime))
    transact(ledger.conclude, lease, outcome)
    return outcome


def due_unit(run_id: str, kind: str = "training.step") -> str:
    """The run's unit of this kind, made due."""
    unfinished = select(UnitRow.id).where(UnitRow.job_id == run_id, UnitRow.kind == kind, UnitRow.finished_at.is_(None))
    with writing() as session:
        unit_id = session.scalars(unfinished).one()
        session.execute(update(UnitRow).where(UnitRow.id == unit_id).values(not_before=UnitRow.created_at))
    return unit_id


def drive(run_id: str, runtime: StageRuntime, to: RunState, *, most: int = 12) -> None:
    """Take steps until the run is where it should come to."""
    for _ in range(most):
        if state(run_id) is to:
            return
        take_step(run_id, runtime)
    assert state(run_id) is to


def running(scene: Scene, runtime: StageRuntime, **overrides: Any) -> str:
    """A run whose first launch has arrived; returns its id."""
    run_id = scene.create(**overrides)
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    intake.arrive(run_id, 1, f"supervisor of {run_id}")
    return run_id


def row(run_id: str) -> RunRow:
    with reading() as session:
        return session.get_one(RunRow, run_id)


def state(run_id: str) -> RunState:
    return RunState(row(run_id).state)


def history(run_id: str) -> list[str]:
    """The states that the run has been in, in order; its events must have no gap."""
    with reading() as session:
        events = events_of(session, run_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.from_state for event in events] == [None, *(event.to_state for event in events[:-1])]
    return [event.to_state for event in events]


def fall_silent(run_id: str, since: timedelta = FOREVER) -> None:
    """Let the run's last sign of life, and whatever happened to it, be so long ago."""
    then = db_now(-since)
    with writing() as session:
        session.execute(update(RunRow).where(RunRow.id == run_id).values(heartbeat_at=then, status_updated_at=then))


def is_asleep(outcome: Outcome) -> bool:
    """Whether a step comes back later, and not at once."""
    return isinstance(outcome, Again) and outcome.delay > 0


def save_checkpoint(run_id: str, step_number: int, files: Mapping[str, bytes] | None = None, *, launch: int = 1) -> str:
    """A complete checkpoint, saved as a supervisor does; returns its id."""
    draft = intake.begin_checkpoint(run_id, launch, step_number)
    contents = {"weights.bin": b"weights of step %d" % step_number} if files is None else files
    intake.complete_checkpoint(run_id, launch, draft.id, put_files(draft.prefix, contents))
    return draft.id


def put_files(prefix: str, contents: Mapping[str, bytes]) -> list[CheckpointFile]:
    """Store files where a draft wants them, and say what they are."""
    for number, data in enumerate(contents.values()):
        blobs().put(f"{prefix}/{number:06}", data)
    return [CheckpointFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in contents.items()]


def blob_keys(run_id: str) -> list[str]:
    """The keys of the run's blobs."""
    return sorted(info.key for info in blobs().list(f"training/{run_id}"))


def ids(found: Iterable[Any]) -> list[str]:
    return [each.id for each in found]
