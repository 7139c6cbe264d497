"""Runs: created once and checked first, found by any filter, read, reloaded and deleted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from orchestrator import ledger
from orchestrator.database import reading, transact, writing
from orchestrator.errors import ProjectNotFound, Unavailable
from orchestrator.ledger import holds
from orchestrator.ledger.tables import UnitRow
from orchestrator.settings import settings as configured
from orchestrator.storage import blobs
from orchestrator.training_v2 import (
    BlueprintDoesNotExistError,
    CheckpointDoesNotExistError,
    Gpu,
    Progress,
    Resources,
    Run,
    RunDoesNotExistError,
    RunState,
    TrainingConflict,
    ValidationError,
    create_run,
    delete_checkpoints,
    get_runs,
    intake,
)
from orchestrator.training_v2.checkpoint_files import subject_of
from orchestrator.training_v2.lifecycle import end
from orchestrator.training_v2.logs import keep_log
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.runtime import Exited
from orchestrator.training_v2.steering import sweep_deleted
from orchestrator.training_v2.submit import NewRun, submit
from orchestrator.training_v2.tables import CheckpointRow, MetricRow, RunRow
from orchestrator.transitions import EventRow
from tests.support.bulk_inference import row_count
from tests.support.training import (
    SMALL,
    Scene,
    StageRuntime,
    blob_keys,
    drive,
    due_unit,
    ids,
    put_files,
    row,
    running,
    save_checkpoint,
    set_scene,
)


def test_a_created_run_is_read_as_it_was_asked_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configured(), "user", "ada")
    wanted = Resources(cpu="500m", memory="5Gi", gpu=Gpu(count=1, type="A100"))
    run = Run.from_id(scene.create(resources=wanted, notes="über alles", config={"epochs": 2, "nested": {"a": [1.5]}}))
    assert (run.name, run.version, run.status, run.user_id) == ("digits", "1", "run_created", "ada")
    assert (run.resources, run.config, run.notes) == (wanted, {"epochs": 2, "nested": {"a": [1.5]}}, "über alles")
    assert (run.project_id, run.blueprint_id, run.progress) == (scene.project_id, scene.blueprint_id, [])
    assert run.created_at is not None
    assert run.created_at.tzinfo is not None
    (event,) = run.get_events()
    assert (event.sequence, event.status, event.run_id, event.details) == (1, "run_created", run.id, {})


@pytest.mark.parametrize(
    "wrong, error, said",
    [
        ({"config": {"rate": -1}}, ValidationError, "config.epochs: is missing"),
        ({"resources": Resources(cpu="lots", memory="1Gi")}, ValidationError, "resources.cpu"),
        ({"name": ""}, ValidationError, "no name for a run"),
        ({"version": "a\0"}, ValidationError, "run version"),
        ({"task_type": ""}, ValidationError, "task_type"),
        ({"notes": "a\0"}, ValidationError, "notes"),
        ({"blueprint_id": "nobody"}, BlueprintDoesNotExistError, "nobody"),
        ({"project_id": "nobody"}, ProjectNotFound, "nobody"),
        ({"config": {"epochs": 1, "start": {"checkpoint_id": "gone"}}}, CheckpointDoesNotExistError, "gone"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_written(
    scene: Scene, wrong: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        scene.create(**wrong)
    assert get_runs() == []
    assert ledger.list_units() == []


def test_a_blueprint_says_which_task_types_and_runtimes_it_is_for(
    database: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = set_scene(task_types=["Object Detection"], entry_point=None, image="trainer:1")
    with pytest.raises(ValidationError, match="only Object Detection"):
        scene.create()
    with pytest.raises(ValidationError, match="no entry point"):
        scene.create(task_type="Object Detection")
    monkeypatch.setattr(configured(), "training_runtime", "kubernetes")
    assert row(scene.create(task_type="Object Detection")).runtime == "kubernetes"


def test_a_request_id_makes_two_submissions_one_run(scene: Scene) -> None:
    new = NewRun("digits", "1", SMALL, {"epochs": 1}, "any", scene.blueprint_id, scene.project_id)
    assert submit(new, request_id="tonight") == submit(new, request_id="tonight") != submit(new)


def test_every_filter_narrows_and_an_empty_one_finds_nothing(scene: Scene) -> None:
    first = scene.create("alpha", version="1", task_type="A")
    second = scene.create("beta", version="2", task_type="B")
    other = set_scene()
    third = other.create("beta", version="1", task_type="A")
    with writing() as session:
        session.execute(update(RunRow).where(RunRow.id == third).values(user_id="ada"))
    found: dict[tuple[str, ...], dict[str, Any]] = {
        (first, second): {"project_ids": [scene.project_id]},
        (third,): {"blueprint_ids": [other.blueprint_id]},
        (second, third): {"name_ilikes": ["BETA"]},
        (first, third): {"versions": ["1"], "task_types": ["A", "C"]},
        (first,): {"ids": [first, "nobody", "a\0"]},
        (first, second, third): {"statuses": ["run_created", "job_failed"]},
        (): {"ids": []},
    }
    for wanted, filters in found.items():
        assert sorted(ids(get_runs(**filters))) == sorted(wanted)
    assert ids(get_runs(user_ids=["ada"])) == [third]
    assert get_runs(statuses=["job_running"]) == []
    assert get_runs(name_ilikes=[]) == []


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("%test-run%", {"test-run", "FOOtest-runBAR"}),
        ("\\%test_run", {"%test9run", "%test_run"}),
        ("test\\_run", {"test_run"}),
        ("test_run", {"test_run", "test-run"}),
    ],
)
def test_names_match_the_documented_patterns(scene: Scene, pattern: str, expected: set[str]) -> None:
    names = ["test-run", "FOOtest-runBAR", "%test9run", "%test_run", "FOOtest_run", "%test__run", "test_run"]
    for name in names:
        scene.create(name)
    assert {run.name for run in get_runs(name_ilikes=[pattern], limit=100)} == expected


def test_runs_come_newest_first_in_pages_and_by_keyset(scene: Scene) -> None:
    made = [scene.create(f"run {n}") for n in range(12)]
    assert ids(get_runs()) == made[:1:-1]
    assert ids(get_runs(limit=5, offset=10)) == made[1::-1]
    assert ids(get_runs(sort=["id:asc"], limit=3)) == made[:3]
    assert ids(get_runs(sort=["created_at"], limit=2)) == made[:2]  # type: ignore[list-item]  # a bare field is allowed
    assert ids(get_runs(sort=["id:asc"], id_after=made[8], limit=100)) == made[9:]
    fifth = Run.from_id(made[5]).created_at
    assert set(ids(get_runs(created_before=fifth, limit=100))) == set(made[:5])
    assert set(ids(get_runs(created_after=fifth, limit=100))) == set(made[6:])


def test_only_selected_fields_are_filled(scene: Scene) -> None:
    run_id = scene.create(notes="secret")
    (run,) = get_runs(select=["id", "status"])
    assert run.model_dump(exclude_none=True) == {"id": run_id, "status": "run_created"}
    assert get_runs(select=["*"]) == get_runs() == [Run.from_id(run_id)]
    (nameless,) = get_runs(select=["name"])
    with pytest.raises(ValueError, match="select it"):
        nameless.stop()


@pytest.mark.parametrize(
    "wrong",
    [
        {"select": ["notes"]},
        {"statuses": ["done"]},
        {"sort": ["name:asc"]},
        {"sort": ["id:down"]},
        {"limit": -1},
        {"offset": -1},
        {"limit": 1 << 63},
        {"created_after": datetime(2024, 1, 1)},  # noqa: DTZ001  the mistake that is tested
        {"name_ilikes": ["a\\"]},
    ],
)
def test_a_listing_refuses_what_it_does_not_know(scene: Scene, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        get_runs(**wrong)


def test_a_run_reloads_the_named_fields_or_all(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    run = Run.from_id(run_id)
    progress = Progress(operation="train", value=1, final_value=3, units="epochs")
    intake.record_progress(run_id, 1, [progress])
    intake.leave(run_id, 1, Exited(0))
    run.reload(["status"])
    assert (run.status, run.progress) == ("job_completed", [])
    run.reload()
    assert run.progress == [progress]
    assert run == Run.from_id(run_id)
    with pytest.raises(ValueError, match="fields"):
        run.reload(["name"])
    with pytest.raises(ValueError, match="id"):
        Run().reload()
    with pytest.raises(RunDoesNotExistError):
        Run(id="nobody").reload()


def test_events_come_newest_first_and_in_pages(scene: Scene, runtime: StageRuntime) -> None:
    run = Run.from_id(running(scene, runtime))
    assert [event.sequence for event in run.get_events()] == [4, 3, 2, 1]
    assert [event.sequence for event in run.get_events(2, 1, ["sequence:asc"])] == [2, 3]
    newest = run.get_events(limit=1)[0]
    assert (newest.status, newest.details) == ("job_running", {"from": "job_submitted", "launch": 1})


@pytest.mark.parametrize("grace", [timedelta(seconds=0.9), timedelta(), timedelta(days=8)])
def test_a_grace_period_is_at_least_a_second(scene: Scene, grace: timedelta) -> None:
    with pytest.raises(ValidationError, match="grace_period"):
        Run.from_id(scene.create()).stop(grace)


def test_a_deleted_run_leaves_nothing(scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.training_v2.steering.BATCH", 7)
    run_id, other = running(scene, runtime), running(scene, runtime)
    for each in (run_id, other):
        intake.record_metrics(each, 1, 0, [NewMetric(n, "loss", n) for n in range(20)])
        save_checkpoint(each, 5)
        keep_log(each, 1, 0, b"hello")
    run = Run.from_id(run_id)
    with pytest.raises(TrainingConflict, match="active"):
        run.delete()
    intake.leave(run_id, 1, Exited(0))
    run.delete()
    with pytest.raises(RunDoesNotExistError):
        run.delete()
    assert ids(get_runs()) == [other]
    assert blob_keys(run_id) == []
    assert len(blob_keys(other)) == 2
    assert [row_count(table) for table in (RunRow, MetricRow, CheckpointRow)] == [1, 20, 1]
    assert row_count(EventRow) == 4


def test_a_deletion_that_was_interrupted_is_finished_by_a_sweep(
    scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = running(scene, runtime)
    save_checkpoint(run_id, 5)
    intake.leave(run_id, 1, Exited(0))
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.training_v2.steering._remove", lambda _: None)
        Run.from_id(run_id).delete()
    assert get_runs() == []
    assert (sweep_deleted(), sweep_deleted()) == (1, 0)
    assert (row_count(RunRow), blob_keys(run_id)) == (0, [])


def test_a_run_deleted_while_the_blob_store_is_away_is_gone_and_removed_later(
    scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = NewRun("r", "1", SMALL, {"epochs": 1}, "Image Classification", scene.blueprint_id, scene.project_id)
    run_id = submit(asked, request_id="once")
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    intake.arrive(run_id, 1, "supervisor")
    intake.record_metrics(run_id, 1, 0, [NewMetric(1, "loss", 1.0)])
    save_checkpoint(run_id, 5)
    keep_log(run_id, 1, 0, b"hello")
    intake.leave(run_id, 1, Exited(0))
    run = Run.from_id(run_id)

    def away(*_: object) -> None:
        raise Unavailable("the blob store is away")

    with monkeypatch.context() as patched:
        patched.setattr(type(blobs()), "delete_many", away)
        run.delete()
        assert sweep_deleted() == 0
    for door in (run.delete, run.get_metrics, run.get_events, run.get_checkpoints):
        with pytest.raises(RunDoesNotExistError):
            door()
    again = submit(asked, request_id="once")
    assert again != run_id
    assert ids(get_runs()) == [again]
    assert (sweep_deleted(), blob_keys(run_id)) == (1, [])
    assert [row_count(table) for table in (RunRow, MetricRow, CheckpointRow)] == [1, 0, 0]


def test_a_deleted_run_leaves_nobody_anything_to_do(scene: Scene) -> None:
    run_id = scene.create()
    Run.from_id(run_id).stop()
    # Whoever ends the run is killed before it has settled its own unit.
    unit_id = due_unit(run_id)
    transact(lambda session: end(session, run_id, RunState.JOB_TERMINATED, by=unit_id))
    Run.from_id(run_id).delete()
    with reading() as session:
        assert session.scalars(select(UnitRow.state).where(UnitRow.job_id == run_id)).all() == ["cancelled"]


def test_what_came_too_late_for_its_checkpoint_goes_with_the_run(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    draft = intake.begin_checkpoint(run_id, 1, 5)
    intake.discard_checkpoint(run_id, 1, draft.id)
    put_files(draft.prefix, {"weights.bin": b"late"})
    intake.leave(run_id, 1, Exited(0))
    Run.from_id(run_id).delete()
    assert blob_keys(run_id) == []


def test_a_run_cannot_start_from_a_checkpoint_that_is_incomplete(scene: Scene, runtime: StageRuntime) -> None:
    draft = intake.begin_checkpoint(running(scene, runtime), 1, 5)
    with pytest.raises(TrainingConflict, match=f"checkpoint {draft.id} is incomplete"):
        scene.create(config={"epochs": 1, "from": {"checkpoint_id": draft.id}})
    assert len(get_runs()) == 1


def test_a_checkpoint_that_a_live_run_starts_from_is_kept_until_that_has_ended(
    scene: Scene, runtime: StageRuntime
) -> None:
    first = running(scene, runtime)
    checkpoint = save_checkpoint(first, 5)
    intake.leave(first, 1, Exited(0))
    second = running(scene, runtime, config={"epochs": 1, "start": [{"checkpoint_id": checkpoint}]})
    needed: list[Callable[[], object]] = [
        lambda: delete_checkpoints(ids=[checkpoint]),
        lambda: Run.from_id(first).delete(),
    ]
    for forbidden in needed:
        with pytest.raises(TrainingConflict, match=checkpoint):
            forbidden()
    intake.leave(second, 1, Exited(1))
    with writing() as session:
        assert not holds.is_held(session, subject_of(checkpoint))
    delete_checkpoints(ids=[checkpoint])
    with pytest.raises(CheckpointDoesNotExistError):
        Run.from_id(second).restart()
    assert Run.from_id(second).status == "job_failed"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_filters_agree_with_python(scene: Scene, data: st.DataObject) -> None:
    if not get_runs(project_ids=[scene.project_id], limit=1):
        for name, version, task in [("a", "1", "X"), ("a_b", "2", "X"), ("AB", "1", "Y"), ("b%", "2", "Y")]:
            scene.create(name, version=version, task_type=task)
    everything = get_runs(project_ids=[scene.project_id], limit=100)
    some = st.none() | st.lists(st.sampled_from(["1", "2", "3"]), max_size=2)
    versions = data.draw(some)
    tasks = data.draw(st.none() | st.lists(st.sampled_from(["X", "Y"]), max_size=2))
    after = data.draw(st.none() | st.sampled_from([run.id for run in everything]))
    before = data.draw(st.none() | st.sampled_from([run.created_at for run in everything]))
    limit, offset = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 3))
    expected = [
        run.id
        for run in everything
        if (versions is None or run.version in versions)
        and (tasks is None or run.task_type in tasks)
        and (after is None or (run.id or "") > after)
        and (before is None or (run.created_at or datetime.now(UTC)) < before)
    ]
    found = get_runs(
        project_ids=[scene.project_id],
        versions=versions,
        task_types=tasks,
        id_after=after,
        created_before=before,
        limit=limit,
        offset=offset,
    )
    assert ids(found) == expected[offset : offset + limit]


def test_creating_takes_the_documented_arguments(scene: Scene) -> None:
    run_id = create_run(
        name="n",
        version="1",
        resources=SMALL,
        config={"epochs": 1},
        task_type="Object Detection",
        blueprint_id=scene.blueprint_id,
        project_id=scene.project_id,
        notes=None,
    )
    assert ids(get_runs()) == [run_id]
