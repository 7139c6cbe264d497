"""What every runtime promises the control plane, told with real trainers; each runtime's tests inherit it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.training_v2.runtime import (
    Alive,
    Exited,
    Gone,
    Launch,
    LaunchName,
    Observation,
    Runtime,
    Waiting,
)
from tests.support.processes import wait_until

#: A new launch whose trainer is this command.
NewLaunch = Callable[[Sequence[str]], Launch]

NO_TIME = timedelta()
MUCH_TIME = timedelta(seconds=60)

#: A trainer that writes its number into a file, then waits; on SIGTERM it leaves another file and ends well.
PATIENT = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def end(*_):
    (folder / "told").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
with (folder / "started").open("a") as started:
    print(os.getpid(), file=started)
time.sleep(600)
"""
#: The same, but that SIGTERM does nothing.
STUBBORN = PATIENT.replace("signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")


class RuntimeContract:
    """Needs the fixtures `runtime` and `new_launch`."""

    def test_a_trainer_that_ends_well_is_seen_to_have_ended_with_0(
        self, runtime: Runtime, new_launch: NewLaunch
    ) -> None:
        launch = new_launch(["python", "-c", "pass"])
        runtime.submit(launch)
        assert ended(runtime, launch) == Exited(0)

    def test_an_exit_code_is_handed_on(self, runtime: Runtime, new_launch: NewLaunch) -> None:
        launch = new_launch(["python", "-c", "raise SystemExit(3)"])
        runtime.submit(launch)
        end = ended(runtime, launch)
        assert isinstance(end, Exited)
        assert (end.code, end.signalled) == (3, False)

    def test_a_launch_is_started_once_however_often_it_is_submitted(
        self, runtime: Runtime, new_launch: NewLaunch, tmp_path: Path
    ) -> None:
        launch = new_launch(["python", "-c", PATIENT, str(tmp_path)])
        for _ in range(3):
            runtime.submit(launch)
        seen(runtime, launch, Alive)
        wait_until((tmp_path / "started").exists, "the trainer has started")
        assert isinstance(runtime.submit(launch), Alive)
        runtime.terminate(launch, NO_TIME)
        ended(runtime, launch)
        assert not isinstance(runtime.submit(launch), Alive | Waiting)
        assert len(pids(tmp_path)) == 1

    def test_two_launches_of_a_run_are_two_trainers(
        self, runtime: Runtime, new_launch: NewLaunch, tmp_path: Path
    ) -> None:
        first = new_launch(["python", "-c", "raise SystemExit(4)"])
        runtime.submit(first)
        assert isinstance(ended(runtime, first), Exited)
        second = LaunchName(first.run_id, first.number + 1, first.place)
        assert list(runtime.observe([second])) == [Gone()]

    def test_a_launch_that_was_never_submitted_cannot_be_after_it_was_terminated(
        self, runtime: Runtime, new_launch: NewLaunch, tmp_path: Path
    ) -> None:
        launch = new_launch(["python", "-c", PATIENT, str(tmp_path)])
        assert runtime.observe([launch])[0] == Gone()
        for _ in range(2):
            runtime.terminate(launch, MUCH_TIME)
        assert not isinstance(runtime.submit(launch), Alive | Waiting)
        assert not isinstance(runtime.observe([launch])[0], Alive | Waiting)
        assert not (tmp_path / "started").exists()

    def test_a_trainer_that_is_told_may_end_by_itself(
        self, runtime: Runtime, new_launch: NewLaunch, tmp_path: Path
    ) -> None:
        launch = self.started(runtime, new_launch, tmp_path, PATIENT)
        for _ in range(2):
            runtime.terminate(launch, MUCH_TIME)
        told_to(ended(runtime, launch))
        assert (tmp_path / "told").exists()

    def test_a_trainer_that_does_not_listen_is_killed_after_the_grace_period(
        self, runtime: Runtime, new_launch: NewLaunch, tmp_path: Path
    ) -> None:
        launch = self.started(runtime, new_launch, tmp_path, STUBBORN)
        runtime.terminate(launch, timedelta(seconds=1))
        told_to(ended(runtime, launch))
        assert_nothing_is_left(tmp_path)

    def test_a_grace_period_may_be_shortened_and_not_prolonged(
        self, runtime: Runtime, new_launch: NewLaunch, tmp_path: Path
    ) -> None:
        launch = self.started(runtime, new_launch, tmp_path, STUBBORN)
        runtime.terminate(launch, timedelta(hours=1))
        assert isinstance(runtime.observe([launch])[0], Alive)
        runtime.terminate(launch, NO_TIME)
        runtime.terminate(launch, timedelta(hours=1))
        told_to(ended(runtime, launch))
        assert_nothing_is_left(tmp_path)

    def test_many_launches_are_observed_in_their_order(self, runtime: Runtime, new_launch: NewLaunch) -> None:
        launches = [new_launch(["python", "-c", f"raise SystemExit({code})"]) for code in (5, 6)]
        for launch in launches:
            runtime.submit(launch)
        for launch in launches:
            ended(runtime, launch)
        unknown = replace(launches[0], number=7)
        observed = runtime.observe([launches[1], unknown, launches[0]])
        assert [one.code if isinstance(one, Exited) else one for one in observed] == [6, Gone(), 5]

    def started(self, runtime: Runtime, new_launch: NewLaunch, folder: Path, program: str) -> Launch:
        """A launch whose trainer hears SIGTERM by now, one way or the other."""
        launch = new_launch(["python", "-c", program, str(folder)])
        runtime.submit(launch)
        wait_until(lambda: (folder / "started").exists() and pids(folder), "the trainer has started")
        seen(runtime, launch, Alive)
        return launch


def seen(runtime: Runtime, launch: LaunchName, kind: type[Observation]) -> Observation:
    """What the runtime sees once it sees something of this kind."""

    def look() -> Observation | None:
        observation = runtime.observe([launch])[0]
        return observation if isinstance(observation, kind) else None

    found = wait_until(look, f"the launch is {kind.__name__}")
    assert found is not None
    return found


def ended(runtime: Runtime, launch: LaunchName) -> Observation:
    """What the runtime sees once nothing of the launch is left."""

    def look() -> Observation | None:
        observation = runtime.observe([launch])[0]
        return observation if isinstance(observation, Exited | Gone) else None

    found = wait_until(look, "the launch has ended")
    assert found is not None
    return found


def told_to(end: Observation) -> None:
    """It ended because it was told to; a runtime may have forgotten how."""
    assert isinstance(end, Gone) or (isinstance(end, Exited) and end.signalled)


def pids(folder: Path) -> list[int]:
    """The trainers that were ever started."""
    return [int(line) for line in (folder / "started").read_text().split()]


def assert_nothing_is_left(folder: Path) -> None:
    for pid in pids(folder):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
