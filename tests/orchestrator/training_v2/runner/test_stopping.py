"""A trainer hears SIGTERM when it listens, ends by it when it does not, and keeps its own handlers."""

from __future__ import annotations

import signal

import pytest

from tests.support.processes import wait_until
from tests.support.trainers import Supervised, supervised
from tests.support.training import Scene, StageRuntime, running

#: What differs between databases is the intake's, which is tested on both.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def run_id(scene: Scene, runtime: StageRuntime) -> str:
    """A run whose first launch has arrived."""
    return running(scene, runtime)


def stop(ours: Supervised, code: str) -> int:
    """Start a trainer, tell it to end once it is `ready()`, and return how it ended."""
    trainer = ours.start("ready = (Path(os.environ['ORCHESTRATOR_RUN_FOLDER']) / 'ready').touch\n" + code)
    wait_until((ours.folder / "ready").exists, "the trainer is ready")
    trainer.send_signal(signal.SIGTERM)
    ended = trainer.wait(60)
    ours.close()
    return ended


def test_a_loop_asks_whether_it_is_to_end(run_id: str) -> None:
    with supervised(run_id) as ours:
        ended = stop(
            ours,
            """
step = 0
while not runner.stop_requested():
    ready()
    step += 1
with runner.save_checkpoint(step) as folder:
    (folder / "step").write_text(str(step))
print("saved", runner.wait_for_stop(0.0))
sys.exit(5)
""",
        )
        assert ended == 5, ours.log()
        assert ours.log() == "saved True\n"


def test_who_waits_is_woken_and_who_wants_to_is_called(run_id: str) -> None:
    with supervised(run_id) as ours:
        ended = stop(
            ours,
            """
called = []
def fail():
    called.append("first")
    raise KeyError("of the callback")
runner.on_stop(fail)
runner.on_stop(lambda: called.append(runner.stop_requested()))
assert not runner.wait_for_stop(0.01)
ready()
assert runner.wait_for_stop()
runner.on_stop(lambda: called.append("late"))
while len(called) < 3:
    time.sleep(0.01)
assert sorted(map(str, called)) == ["True", "first", "late"], called
""",
        )
        assert ended == 0, ours.log()
        assert "of the callback" in ours.log()


def test_a_trainer_that_never_listened_ends_at_once(run_id: str) -> None:
    with supervised(run_id) as ours:
        assert stop(ours, "ready()\ntime.sleep(60)") == -signal.SIGTERM


def test_the_trainer_s_own_handler_is_called_too(run_id: str) -> None:
    with supervised(run_id) as ours:
        ended = stop(
            ours,
            """
class Interrupted(Exception):
    pass
def mine(number, frame):
    raise Interrupted(number)
signal.signal(signal.SIGTERM, mine)
try:
    assert not runner.stop_requested()
    ready()
    time.sleep(60)
except Interrupted:
    assert runner.stop_requested()
    sys.exit(6)
""",
        )
        assert ended == 6, ours.log()


def test_a_handler_that_the_trainer_sets_later_may_pass_the_signal_on(run_id: str) -> None:
    with supervised(run_id) as ours:
        ended = stop(
            ours,
            """
runner.stop_requested()
def mine(number, frame):
    print("mine")
    before(number, frame)
before = signal.signal(signal.SIGTERM, mine)
ready()
assert runner.wait_for_stop(60)
""",
        )
        assert ended == 0, ours.log()
        assert ours.log() == "mine\n"


def test_a_stop_while_a_checkpoint_is_saved_lets_it_be_saved(run_id: str) -> None:
    with supervised(run_id) as ours:
        ended = stop(
            ours,
            """
runner.stop_requested()
with runner.save_checkpoint(7) as folder:
    ready()
    runner.wait_for_stop(60)
    (folder / "weights").write_text("whole")
latest = runner.load_latest_checkpoint()
sys.exit(7 if (latest.path / "weights").read_text() == "whole" else 1)
""",
        )
        assert ended == 7, ours.log()


def test_a_thread_may_ask_once_the_main_thread_did(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            def ask():
                try:
                    answers.append(runner.stop_requested())
                except runner.RunnerError as error:
                    answers.append(str(error))
            answers = []
            for _ in range(2):
                thread = threading.Thread(target=ask)
                thread.start()
                thread.join()
                runner.stop_requested()
            assert "main thread" in answers[0] and answers[1] is False, answers
            listeners = [each for each in threading.enumerate() if each.name == "runner-stop"]
            assert len(listeners) == 1, listeners
        """)


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGTERM, lambda *_: os._exit(8))"])
def test_processes_of_the_trainer_are_ended_as_ever(run_id: str, handler: str) -> None:
    with supervised(run_id) as ours:
        ours.run(f"""
            import multiprocessing
            {handler or "pass"}
            runner.stop_requested()
            context = multiprocessing.get_context("fork")
            started = context.Event()
            def work():
                started.set()
                time.sleep(60)
            child = context.Process(target=work)
            child.start()
            assert started.wait(30)
            child.terminate()
            child.join(30)
            assert child.exitcode == {8 if handler else -15}, child.exitcode
            assert not runner.stop_requested()
        """)


def test_no_signal_is_lost_in_a_busy_loop(run_id: str) -> None:
    """The handler runs wherever the main thread is, also inside the library's own locks."""
    with supervised(run_id) as ours:
        ended = stop(
            ours,
            """
runner.on_stop(runner.flush)
step = 0
while not runner.stop_requested():
    runner.save_metric("x", 1, step)
    runner.wait_for_stop(0)
    if step % 100 == 0:
        ready()
        runner.flush()
    step += 1
""",
        )
        assert ended == 0, ours.log()
