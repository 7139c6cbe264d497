"""The intake: what a launch reports is kept once, and what a launch that is over reports is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.training_v2 import Progress, Run, RunState, ValidationError, intake
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.fence import Orders
from orchestrator.training_v2.logs import keep_log, read_log
from orchestrator.training_v2.measured import LONGEST_TAG, NewMetric
from orchestrator.training_v2.runtime import Exited
from tests.support.ledger import at_once
from tests.support.training import Scene, StageRuntime, drive, fall_silent, history, row, running, state, take_step

REPORTS: dict[str, Callable[[str, int], object]] = {
    "claim": lambda run_id, launch: intake.claim(run_id, launch, "late"),
    "arrive": lambda run_id, launch: intake.arrive(run_id, launch, "late"),
    "beat": intake.beat,
    "orders": intake.orders,
    "metrics": lambda run_id, launch: intake.record_metrics(run_id, launch, 0, [NewMetric(1, "loss", 1.0)]),
    "progress": lambda run_id, launch: intake.record_progress(run_id, launch, []),
    "begin": lambda run_id, launch: intake.begin_checkpoint(run_id, launch, 1),
    "discard": lambda run_id, launch: intake.discard_checkpoint(run_id, launch, "any"),
    "complete": lambda run_id, launch: intake.complete_checkpoint(run_id, launch, "any", []),
    "leave": lambda run_id, launch: intake.leave(run_id, launch, Exited(0)),
}


def completed(run_id: str, runtime: StageRuntime) -> int:
    intake.leave(run_id, 1, Exited(0))
    return 1


def lost(run_id: str, runtime: StageRuntime) -> int:
    fall_silent(run_id)
    take_step(run_id, runtime)
    return 1


def lost_and_stopped(run_id: str, runtime: StageRuntime) -> int:
    lost(run_id, runtime)
    Run.from_id(run_id).stop()
    return 1


def launched_again(run_id: str, runtime: StageRuntime) -> int:
    lost(run_id, runtime)
    for _ in range(3):
        take_step(run_id, runtime)
    intake.arrive(run_id, 2, "another")
    return 1


def never_was(run_id: str, runtime: StageRuntime) -> int:
    return 2


@pytest.mark.parametrize("fate", [completed, lost, lost_and_stopped, launched_again, never_was])
def test_a_launch_that_is_over_can_write_nothing(
    scene: Scene, runtime: StageRuntime, fate: Callable[[str, StageRuntime], int]
) -> None:
    run_id = running(scene, runtime)
    launch = fate(run_id, runtime)
    before, events = row(run_id), history(run_id)
    for report in REPORTS.values():
        with pytest.raises(StaleLaunch, match=f"launch {launch} "):
            report(run_id, launch)
    after = row(run_id)
    assert (after.heartbeat_at, after.supervisor, after.progress, after.metrics_seen) == (
        before.heartbeat_at,
        before.supervisor,
        before.progress,
        before.metrics_seen,
    )
    assert history(run_id) == events
    assert after.stale_writes == len(REPORTS) - 1  # who only asks for orders writes nothing
    assert Run.from_id(run_id).get_checkpoints() == []


def test_nobody_can_report_on_a_run_that_is_not_there(database: object) -> None:
    for report in REPORTS.values():
        with pytest.raises(StaleLaunch):
            report("nobody", 1)


def test_metrics_come_back_newest_first_each_at_an_instant_of_its_own(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    position = intake.record_metrics(run_id, 1, 0, [NewMetric(n, "loss", n / 2) for n in range(5)])
    intake.record_metrics(run_id, 1, position, [NewMetric(5, "train/acc\t\\ ü", 3)])
    found = Run.from_id(run_id).get_metrics()
    assert [(metric.global_step, metric.tag, metric.value) for metric in found] == [
        (5, "train/acc\t\\ ü", 3),
        *((n, "loss", n / 2) for n in reversed(range(5))),
    ]
    instants = [metric.created_at for metric in found]
    assert sorted(set(instants), reverse=True) == instants
    assert len({metric.id for metric in found}) == 6
    assert {(metric.run_id, metric.job_id) for metric in found} == {(run_id, f"{run_id}-1")}


def test_numbers_that_are_none_are_counted_and_not_kept(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    values = [1.0, None, math.nan, math.inf, -math.inf, 1e308, -0.0, 5e-324]
    assert intake.record_metrics(run_id, 1, 0, [NewMetric(n, "x", value) for n, value in enumerate(values)]) == 8
    kept = {metric.global_step: metric.value for metric in Run.from_id(run_id).get_all_metrics()}
    assert kept == {0: 1.0, 5: 1e308, 6: 0.0, 7: 5e-324}


def test_a_batch_that_is_sent_again_is_kept_once(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    batch = [NewMetric(n, "loss", n) for n in range(10)]
    assert intake.record_metrics(run_id, 1, 0, batch[:6]) == 6
    assert intake.record_metrics(run_id, 1, 0, batch[:6]) == 6
    assert intake.record_metrics(run_id, 1, 3, batch[3:]) == 10
    with pytest.raises(ValidationError, match=r"metrics 10 to 11 .* are missing"):
        intake.record_metrics(run_id, 1, 12, batch)
    assert [metric.global_step for metric in reversed(Run.from_id(run_id).get_metrics())] == list(range(10))


@pytest.mark.parametrize(
    "wrong", [NewMetric(-1, "loss", 1), NewMetric(1 << 63, "loss", 1), NewMetric(1, "", 1), NewMetric(1, "x" * 501, 1)]
)
def test_a_step_or_tag_that_is_none_is_refused_with_its_batch(
    scene: Scene, runtime: StageRuntime, wrong: NewMetric
) -> None:
    run_id = running(scene, runtime)
    with pytest.raises(ValidationError):
        intake.record_metrics(run_id, 1, 0, [NewMetric(1, "y" * LONGEST_TAG, 1), wrong])
    assert Run.from_id(run_id).get_metrics() == []


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.none() | st.lists(st.integers(0, 9), max_size=3),
    tags=st.none() | st.lists(st.sampled_from(["a", "b", "c", "no such"]), max_size=3),
    limit=st.integers(0, 12),
)
def test_pages_by_keyset_find_every_metric_once(
    scene: Scene, runtime: StageRuntime, steps: list[int] | None, tags: list[str] | None, limit: int
) -> None:
    run_id = running(scene, runtime)
    intake.record_metrics(run_id, 1, 0, [NewMetric(n // 3, "abc"[n % 3], n) for n in range(30)])
    wanted = [
        n for n in reversed(range(30)) if (steps is None or n // 3 in steps) and (tags is None or "abc"[n % 3] in tags)
    ]
    run = Run.from_id(run_id)
    assert [metric.value for metric in run.get_metrics(steps, tags, limit)] == wanted[:limit]
    found, before = [], None
    while page := run.get_metrics(steps, tags, 4, before):
        found += [metric.value for metric in page]
        before = page[-1].created_at
    assert found == wanted


def test_all_metrics_are_read_page_by_page(
    scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.training_v2.metrics.PAGE", 7)
    run_id = running(scene, runtime)
    intake.record_metrics(run_id, 1, 0, [NewMetric(n, "loss", n) for n in range(23)])
    assert sorted(metric.global_step for metric in Run.from_id(run_id).get_all_metrics()) == list(range(23))


def test_reports_at_the_same_moment_are_all_kept(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    batch = [NewMetric(n, "loss", n) for n in range(50)]
    assert at_once([partial(intake.record_metrics, run_id, 1, 0, batch)] * 4) == [50] * 4
    assert len(Run.from_id(run_id).get_metrics()) == 50


def test_progress_is_replaced_as_a_whole(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    first = [Progress(operation=name, value=1, final_value=2.5, units="steps") for name in ("load", "train")]
    intake.record_progress(run_id, 1, first)
    intake.record_progress(run_id, 1, first[1:])
    run = Run.from_id(run_id)
    assert run.progress == first[1:]
    assert run.progress_updated_at is not None
    with pytest.raises(ValidationError, match="finite"):
        intake.record_progress(run_id, 1, [Progress(operation="x", value=math.nan, final_value=1, units="")])


def test_a_launch_is_claimed_once_and_is_not_running_until_its_supervisor_arrives(
    scene: Scene, runtime: StageRuntime
) -> None:
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    for _ in range(2):
        assert intake.claim(run_id, 1, "first") == {"epochs": 3}
    assert state(run_id) is RunState.JOB_SUBMITTED
    for report in (intake.claim, intake.arrive):
        with pytest.raises(StaleLaunch):
            report(run_id, 1, "second")
    intake.arrive(run_id, 1, "first")
    assert state(run_id) is RunState.JOB_RUNNING


def test_orders_are_to_go_on_until_somebody_stops_the_run(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    assert intake.orders(run_id, 1) == intake.beat(run_id, 1) == Orders()
    Run.from_id(run_id).stop()
    orders = intake.orders(run_id, 1)
    assert orders.stop
    assert 590 < orders.grace <= 600


def test_of_two_that_report_the_end_one_is_heard(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)

    def leave(code: int) -> bool:
        try:
            intake.leave(run_id, 1, Exited(code))
        except StaleLaunch:
            return False
        return True

    assert sorted(at_once([partial(leave, code) for code in (0, 1, 0, 1)])) == [False, False, False, True]
    assert len(history(run_id)) == 5


def test_logs_are_read_in_order_and_from_where_one_was(scene: Scene) -> None:
    run_id = scene.create()
    for number, text in enumerate((b"one\n", b"two\n", b"three\n")):
        keep_log(run_id, 1, number, text)
    assert b"".join(read_log(run_id, 1)) == b"one\ntwo\nthree\n"
    assert list(read_log(run_id, 1, 2)) == [b"three\n"]
    assert list(read_log(run_id, 2)) == []


def test_progress_may_be_of_anything_that_a_program_can_name(scene: Scene, runtime: StageRuntime) -> None:
    """Also a file whose name is no text: no database takes it as it is, and nothing would be stored after it."""
    run_id = running(scene, runtime)
    intake.record_progress(run_id, 1, [Progress(operation="caf\udce9\0", value=1, final_value=2, units="\0")])
    (progress,) = Run.from_id(run_id).progress or []
    assert progress.operation.startswith("caf")
