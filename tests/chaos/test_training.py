"""Training runs whose workers, supervisors and trainers are killed and frozen, and stopped as they end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from orchestrator.training_v2.checkpoint import latest_checkpoint
from orchestrator.training_v2.models import RunState
from orchestrator.training_v2.tables import TERMINAL
from tests.chaos.harness import Harness
from tests.conftest import forget_settings
from tests.support.local_runs import Stage, is_running, named
from tests.support.seed import SEED
from tests.support.training import history, row, set_scene, state

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

#: Seconds that a trainer may outlive its supervisor.
ORPHANED = 10.0
#: A trainer that proves to be the only one of its run, and goes on from its latest checkpoint.
WITNESS = """
import fcntl, time
from orchestrator.training_v2 import runner
home = folder.resolve().parent.parent
witness = open(home / ("witness-" + os.environ["ORCHESTRATOR_RUN_ID"]), "a")
try:
    fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    (home / "two-trainers").touch()
print(os.environ["ORCHESTRATOR_LAUNCH"], file=witness, flush=True)
ready()
saved = runner.load_latest_checkpoint()
step = saved.global_step if saved else 0
while step < {steps}:
    step += 1
    time.sleep(0.1)
    runner.save_metric("step", step, step)
    if step % 5 == 0:
        with runner.save_checkpoint(step) as path:
            (path / "step").write_text(str(step))
"""
#: A trainer that ends well at an instant which it is given late.
PUNCTUAL = """
import time
os.mkfifo(folder / "at")
ready()
at = (folder / "at").open().readline()
time.sleep(max(0, float(at) - time.time()))
os._exit(0)
"""


@pytest.fixture
def stage(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Local runs, driven by the harness's workers; silence is noticed soon, and no restart is one too many."""
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_HEARTBEAT_SECONDS", "6")
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_RESTARTS", "1000")
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_INTERVAL", "0.5")
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_MEMORY", "1Ti")
    forget_settings()
    stage = Stage(set_scene(entry_point=["python", "-c", "pass"]))
    yield stage
    stage.close()


class Orphans:
    """Trainers without a supervisor, and since when."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.since: dict[int, float] = {}

    def check(self) -> None:
        """None of them may be one for long."""
        now, found = time.monotonic(), set(self._find())
        self.since = {pid: self.since.get(pid, now) for pid in found}
        assert not any(now - since > ORPHANED for since in self.since.values())

    def _find(self) -> Iterator[int]:
        for process in psutil.process_iter():
            name = named(process)
            if name.get("ORCHESTRATOR_RUN_ID") in self.stage.run_ids:
                folder = self.stage.folder(name["ORCHESTRATOR_RUN_ID"], int(name["ORCHESTRATOR_LAUNCH"]))
                if folder.supervisor is None or not is_running(folder.supervisor.pid):
                    yield process.pid


def kill_and_train(harness: Harness, stage: Stage, *, kills: int, runs: int, steps: int) -> None:
    """Kill workers, their children and supervisors at random while runs train; then let them complete."""
    members = harness.start(workers=2)
    run_ids = [stage.create(WITNESS.replace("{steps}", str(steps))) for _ in range(runs)]
    orphans = Orphans(stage)

    def are_over() -> bool:
        orphans.check()
        return all(state(run_id) in TERMINAL for run_id in run_ids)

    harness.until(lambda: any(stage.folder(each).trainer for each in run_ids), "a trainer trains", within=60)
    for number in range(kills):
        chance = harness.chance.random()
        if chance < 0.2:
            harness.kill(harness.chance.choice(members))
        elif chance < 0.5:
            harness.kill_child(harness.chance.choice(members))
        else:
            kill_supervisor(stage, harness.chance)
        orphans.check()
        harness.pause(harness.chance.uniform(0.1, 2.0) if number + 1 < kills else 0)
    harness.until(are_over, "the runs have ended", within=180 + 3 * kills)
    assert [state(run_id) for run_id in run_ids] == ["job_completed"] * runs
    home = stage.runtime.root.parent
    assert not (home / "two-trainers").exists()
    for run_id in run_ids:
        launches = (home / f"witness-{run_id}").read_text().split()
        assert len(launches) == len(set(launches)) > 0, "a launch is started once"
        assert sum(each in TERMINAL for each in history(run_id)) == 1
        saved = latest_checkpoint(run_id)
        assert saved is not None
        assert saved.global_step == steps
    harness.until(lambda: not any(stage.processes(run_id) for run_id in run_ids), "nothing is left", within=ORPHANED)


def kill_supervisor(stage: Stage, chance: random.Random) -> None:
    """SIGKILL a supervisor of a run that has not ended."""
    live = [run_id for run_id in stage.run_ids if state(run_id) not in TERMINAL]
    for run_id in chance.sample(live, len(live)):
        supervisor = stage.folder(run_id).supervisor if row(run_id).launch else None
        if supervisor is not None and is_running(supervisor.pid):
            with suppress(ProcessLookupError):
                os.kill(supervisor.pid, signal.SIGKILL)
            return


@on_sqlite
def test_no_trainer_is_orphaned_or_doubled_by_a_few_kills(harness: Harness, stage: Stage) -> None:
    kill_and_train(harness, stage, kills=5, runs=2, steps=15)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_no_trainer_is_orphaned_or_doubled_by_a_hundred_kills(harness: Harness, stage: Stage) -> None:
    kill_and_train(harness, stage, kills=100, runs=4, steps=150)


@pytest.mark.endurance
def test_a_frozen_trainer_is_ended_and_launched_again_once(harness: Harness, stage: Stage) -> None:
    harness.start(workers=1)
    run_id = stage.create(WITNESS.replace("{steps}", "40"))
    harness.until(lambda: row(run_id).metrics_seen, "metrics arrive", within=60)
    trainer = stage.trainer(run_id)
    os.kill(trainer, signal.SIGSTOP)
    harness.until(lambda: state(run_id) in TERMINAL, "the run has ended", within=90)
    assert (state(run_id), row(run_id).launch, row(run_id).restarts) == ("job_completed", 2, 1)
    assert not is_running(trainer)


def stop_around_exit(stage: Stage, chance: random.Random, count: int) -> Counter[str]:
    """Stop so many runs at the moment at which their trainers end; how they ended."""
    run_ids = [stage.create(PUNCTUAL) for _ in range(count)]
    stage.step_all_until(run_ids, RunState.JOB_RUNNING, *map(RunState, TERMINAL), within=120)
    for run_id in run_ids:
        stage.wait_ready(run_id)
    with ExitStack() as calls:
        for run_id in run_ids:
            # Open for both, which waits for nobody, and until the end, or what nobody has read yet would be lost.
            call = os.open(stage.folder(run_id).path / "at", os.O_RDWR)
            calls.callback(os.close, call)
            os.write(call, f"{time.time() + chance.uniform(0.0, 0.6)}\n".encode())
            time.sleep(chance.uniform(0.0, 0.2))
            stage.stop(run_id, grace=5)
            for _ in range(chance.randrange(3)):
                stage.step(run_id)
        stage.step_all_until(run_ids, *map(RunState, TERMINAL), within=60)
    ends = Counter(str(state(run_id)) for run_id in run_ids)
    for run_id in run_ids:
        stage.wait_cleared(run_id)
        assert sum(each in TERMINAL for each in history(run_id)) == 1, history(run_id)
        assert history(run_id)[-1] in ("job_completed", "job_terminated")
        assert stage.step(run_id) in TERMINAL
    return ends


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence does not matter: many supervisors at once on a busy machine may be late with a word on SQLite."""
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_HEARTBEAT_SECONDS", "60")
    forget_settings()


@pytest.mark.faults
@on_sqlite
def test_a_few_stops_around_the_moment_of_exit_end_in_one_state_each(stage: Stage, calm: None) -> None:
    assert sum(stop_around_exit(stage, random.Random(SEED), 5).values()) == 5


@pytest.mark.endurance
@pytest.mark.timeout(3600)
def test_a_thousand_stops_around_the_moment_of_exit_end_in_one_state_each(stage: Stage, calm: None) -> None:
    # On each of two databases five hundred.
    chance, ends = random.Random(SEED), Counter[str]()
    for _ in range(25):
        ends += stop_around_exit(stage, chance, 20)
    assert ends.total() == 500
    assert set(ends) == {"job_completed", "job_terminated"}
