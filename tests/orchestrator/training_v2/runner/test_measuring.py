"""Metrics and progress: every one that a trainer reports is kept, once and in order, however the trainer ends."""

from __future__ import annotations

import pytest

from orchestrator.training_v2 import Run
from orchestrator.training_v2.metrics import all_metrics
from tests.support.processes import wait_until
from tests.support.trainers import supervised
from tests.support.training import Scene, StageRuntime, row, running

#: Where it makes no difference which database it is.
on_one = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def run_id(scene: Scene, runtime: StageRuntime) -> str:
    """A run whose first launch has arrived."""
    return running(scene, runtime)


def measured(run_id: str) -> list[tuple[str, float, int]]:
    """The run's metrics as tag, value and step, oldest first."""
    return [(each.tag, each.value, each.global_step) for each in reversed(list(all_metrics(run_id)))]


def test_metrics_are_kept_in_their_order(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            runner.save_metric("loss", 0.5, 1)
            runner.save_metrics([runner.Metric("accuracy", 1, 1), {"tag": "loss", "value": 0.25, "global_step": 2}])
            runner.save_metrics(runner.Metric("many", n / 7, n) for n in range(5000))
        """)
    first = [("loss", 0.5, 1), ("accuracy", 1, 1), ("loss", 0.25, 2)]
    assert measured(run_id) == first + [("many", n / 7, n) for n in range(5000)]


def test_values_that_are_not_finite_are_counted_and_not_kept(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            values = [1.0, None, float("nan"), float("inf"), float("-inf"), 2.0]
            runner.save_metrics(runner.Metric("x", value, step) for step, value in enumerate(values))
        """)
    assert measured(run_id) == [("x", 1, 0), ("x", 2, 5)]
    assert row(run_id).metrics_seen == 6


@on_one
def test_numbers_of_other_libraries_are_numbers(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            import numpy
            runner.save_metric("loss", numpy.float32(0.5), numpy.int64(7))
            runner.save_metric("loss", numpy.array([0.25])[0], numpy.uint8(8))
        """)
    assert measured(run_id) == [("loss", 0.5, 7), ("loss", 0.25, 8)]


def test_a_tag_may_be_any_text(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run(r"""
            for tag in ("tab\t, \\ and 'quote'", "\n", "\N{SNOWMAN}" * 500, "nul \0", "\ud800"):
                runner.save_metric(tag, 1, 1)
        """)
    tags = [tag for tag, _, _ in measured(run_id)]
    assert tags == ["tab\t, \\ and 'quote'", "\n", "\N{SNOWMAN}" * 500, "nul \N{REPLACEMENT CHARACTER}", "?"]


@on_one
def test_what_is_wrong_is_refused_where_it_is_reported(run_id: str) -> None:
    with supervised(run_id) as ours:
        printed = ours.run("""
            for wrong in [("", 1, 1), ("x" * 501, 1, 1), (None, 1, 1), ("x", "much", 1), ("x", 10**400, 1),
                          ("x", 1, -1), ("x", 1, 2**63), ("x", 1, 1.5)]:
                try:
                    runner.save_metrics([runner.Metric("good", 1, 1), runner.Metric(*wrong)])
                except runner.ValidationError as error:
                    print("refused", error)
            for wrong in [{"tag": "x", "value": 1}, {"tag": "x", "value": 1, "global_step": 1, "more": 1}]:
                try:
                    runner.save_metrics([wrong])
                except runner.ValidationError as error:
                    print("refused", error)
            good = runner.Progress("train", 1, 1, "epochs")
            for wrong in [[good._replace(value=float("nan"))], [good._replace(operation="x" * (17 << 20))],
                          [good._replace(units="x" * 101)], (good for _ in iter(int, 1))]:
                try:
                    runner.save_progress(wrong)
                except runner.ValidationError as error:
                    print("refused", error)
            runner.save_metric("good", 1, 1)
        """)
    assert printed.count("refused") == 14
    assert measured(run_id) == [("good", 1, 1)]


def test_progress_is_replaced_as_a_whole(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            runner.save_progress([runner.Progress("load", 1, 1, "files"), runner.Progress("train", 0, 3, "epochs")])
            runner.flush()
            for epoch in range(4):
                runner.save_progress([{"operation": "train", "value": epoch, "final_value": 3, "units": "epochs"}])
        """)
    progress = [each.model_dump() for each in Run.from_id(run_id).progress or []]
    assert progress == [{"operation": "train", "value": 3, "final_value": 3, "units": "epochs"}]


@on_one
def test_progress_may_be_taken_back(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            runner.save_progress([runner.Progress("train", 0, 3, "epochs")])
            runner.flush()
            runner.save_progress([])
        """)
    assert Run.from_id(run_id).progress == []


def test_what_was_flushed_is_there(run_id: str) -> None:
    with supervised(run_id) as ours:
        trainer = ours.start("""
            runner.save_metric("loss", 1, 1)
            runner.flush()
            print("flushed")
            time.sleep(60)
        """)
        ours.wait_for("flushed")
        assert measured(run_id) == [("loss", 1, 1)]
        assert trainer.poll() is None


@on_one
@pytest.mark.parametrize(
    "ending, code", [("pass", 0), ("sys.exit(3)", 3), ("raise KeyError", 1), ("os._exit(4)", 4)], ids=str
)
def test_nothing_is_lost_however_the_trainer_leaves(run_id: str, ending: str, code: int) -> None:
    hurry = "runner.flush()" if "_exit(4" in ending else ""
    with supervised(run_id) as ours:
        trainer = ours.start(f"""
            runner.save_metrics(runner.Metric("x", n, n) for n in range(3000))
            {hurry}
            {ending}
        """)
        assert trainer.wait(60) == code
        ours.close()
    assert [step for _, _, step in measured(run_id)] == list(range(3000))


@on_one
def test_what_a_killed_trainer_had_handed_over_is_kept(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.start("""
            runner.save_metrics(runner.Metric("x", n, n) for n in range(3000))
            runner.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """).wait(60)
        ours.close()
    assert len(measured(run_id)) == 3000


def test_many_threads_may_report_at_a_time(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            def report(thread):
                for n in range(500):
                    runner.save_metric(f"thread {thread}", n, n)
                    if n % 100 == 0:
                        runner.flush()
            threads = [threading.Thread(target=report, args=[n]) for n in range(8)]
            for thread in threads:
                thread.start()
        """)
    found = measured(run_id)
    assert len(found) == 4000
    for thread in range(8):
        assert [step for tag, _, step in found if tag == f"thread {thread}"] == list(range(500))


@on_one
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "os.fork"])
def test_every_process_of_a_trainer_reports_for_itself(run_id: str, method: str) -> None:
    with supervised(run_id) as ours:
        script = ours.folder / "train.py"
        script.write_text(f"""
import multiprocessing, os, threading
from orchestrator.training_v2 import runner

def report(name):
    runner.save_metrics(runner.Metric(name, n, n) for n in range(100))

if __name__ == "__main__":
    runner.save_metric("parent", 0, 0)
    if {method!r} == "os.fork":
        child = os.fork()
        if not child:
            descriptors = [os.readlink("/proc/self/fd/" + each) for each in os.listdir("/proc/self/fd")[:-1]]
            assert not [each for each in descriptors if "socket" in each], "the parent's connection is not kept"
            report("child 0")
            report("child 1")
            runner.flush()
            os._exit(0)
        report("parent")
        assert os.waitpid(child, 0)[1] == 0
    else:
        context = multiprocessing.get_context({method!r})
        children = [context.Process(target=report, args=[f"child {{n}}"]) for n in range(2)]
        for child in children:
            child.start()
        report("parent")
        for child in children:
            child.join()
            assert child.exitcode == 0
""")
        ours.run(f"""
            import subprocess
            subprocess.run([sys.executable, {str(script)!r}], check=True)
        """)
    found = measured(run_id)
    assert len(found) == 301
    for name, count in (("parent", 101), ("child 0", 100), ("child 1", 100)):
        assert len([tag for tag, _, _ in found if tag == name]) == count


@on_one
def test_a_trainer_whose_supervisor_has_gone_is_told_so(run_id: str) -> None:
    with supervised(run_id) as ours:
        trainer = ours.start("""
            runner.save_metric("x", 1, 1)
            runner.flush()
            while not (Path(os.environ["ORCHESTRATOR_RUN_FOLDER"]) / "gone").exists():
                time.sleep(0.01)
            refusals = 0
            for attempt in (lambda: runner.save_metrics(runner.Metric("x", n, n) for n in range(10**9)), runner.flush,
                            lambda: runner.save_progress([]), runner.load_latest_checkpoint):
                try:
                    attempt()
                except (runner.SupervisorGone, runner.StaleLaunch):
                    refusals += 1
            sys.exit(40 + refusals)
        """)
        wait_until(lambda: measured(run_id), "the first metric is kept")
        # The connection is still open: what comes after the end of a launch is cut off.
        assert not ours.reports.close(0)
        (ours.folder / "gone").touch()
        assert trainer.wait(60) == 44


def test_a_launch_that_is_over_is_told_so(run_id: str) -> None:
    with supervised(run_id, launch=2) as ours:
        trainer = ours.start("""
            runner.save_metric("x", 1, 1)
            try:
                runner.flush()
            except runner.StaleLaunch:
                sys.exit(42)
        """)
        assert trainer.wait(60) == 42
        assert ours.reports.stale
        assert not ours.reports.close(1)
    assert measured(run_id) == []
    assert row(run_id).stale_writes == 1
