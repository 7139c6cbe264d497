"""Checkpoints: whole or not there, kept by policy, downloaded, deleted with care, and made into models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator import registry
from orchestrator.errors import InvalidRequest, Unavailable
from orchestrator.registry import get_model
from orchestrator.storage import Blobs, blobs
from orchestrator.training_v2 import (
    CheckpointDoesNotExistError,
    Run,
    RunState,
    TrainingConflict,
    ValidationError,
    create_model_from_checkpoint,
    delete_checkpoints,
    download_checkpoint,
    get_checkpoints,
    intake,
)
from orchestrator.training_v2.checkpoint import latest_checkpoint
from orchestrator.training_v2.checkpoint_files import CheckpointFile
from orchestrator.training_v2.exceptions import ProjectDoesNotExistError
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.model_making import source_of
from orchestrator.training_v2.runtime import Exited
from orchestrator.training_v2.watch import sweep
from tests.conftest import forget_settings
from tests.support.training import (
    Scene,
    StageRuntime,
    blob_keys,
    drive,
    fall_silent,
    ids,
    put_files,
    running,
    save_checkpoint,
    set_scene,
    take_step,
)

FILES = {"weights/part 1.bin": b"\x00\x01", "config.json": b"{}", "ümlaut.txt": b""}


def steps(run_id: str) -> list[int]:
    return Run.from_id(run_id).get_global_steps_with_checkpoints()


def test_a_checkpoint_is_incomplete_until_it_is_whole(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    draft = intake.begin_checkpoint(run_id, 1, 10)
    (seen,) = Run.from_id(run_id).get_checkpoints()
    assert (seen.id, seen.status, seen.global_step, seen.run_id) == (draft.id, "incomplete", 10, run_id)
    assert (seen.project_id, seen.key_prefix, seen.bucket_name) == (scene.project_id, draft.prefix, None)
    assert (steps(run_id), latest_checkpoint(run_id)) == ([], None)
    files = put_files(draft.prefix, FILES)
    intake.complete_checkpoint(run_id, 1, draft.id, files)
    intake.complete_checkpoint(run_id, 1, draft.id, files)
    (whole,) = Run.from_id(run_id).get_checkpoints()
    assert whole.status == "complete"
    assert whole.status_updated_at is not None
    assert whole.created_at is not None
    assert whole.status_updated_at > whole.created_at
    assert (steps(run_id), latest_checkpoint(run_id)) == ([10], whole)


def test_a_checkpoint_is_downloaded_as_it_was_saved(scene: Scene, runtime: StageRuntime, tmp_path: Path) -> None:
    run_id = running(scene, runtime)
    checkpoint = save_checkpoint(run_id, 1, FILES)
    download_checkpoint(checkpoint, str(tmp_path))
    saved = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: data for name, data in saved.items() if not name.startswith("home")} == FILES
    draft = intake.begin_checkpoint(run_id, 1, 2)
    with pytest.raises(TrainingConflict, match="incomplete"):
        download_checkpoint(draft.id, str(tmp_path))
    with pytest.raises(ValidationError, match="no folder"):
        download_checkpoint(checkpoint, str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointDoesNotExistError):
        download_checkpoint("nobody", str(tmp_path))


def test_a_download_of_what_is_not_what_was_stored_fails(scene: Scene, runtime: StageRuntime, tmp_path: Path) -> None:
    run_id = running(scene, runtime)
    checkpoint = save_checkpoint(run_id, 1, {"weights": b"good"})
    blobs().put(blob_keys(run_id)[0], b"evil")
    with pytest.raises(Unavailable, match="not what was stored"):
        download_checkpoint(checkpoint, str(tmp_path))
    assert not (tmp_path / "weights").exists()
    blobs().delete(blob_keys(run_id)[0])
    with pytest.raises(CheckpointDoesNotExistError):
        download_checkpoint(checkpoint, str(tmp_path))


@pytest.mark.parametrize(
    "files",
    [
        [("../escape", 1)],
        [("/etc/passwd", 1)],
        [("a\\b", 1)],
        [("./a", 1)],
        [("a", 1), ("a", 1)],
        [("a", 2)],
        [("a", 1), ("b", 1), ("c", 1)],
    ],
)
def test_files_that_are_not_there_or_would_leave_their_folder_are_refused(
    scene: Scene, runtime: StageRuntime, files: list[tuple[str, int]]
) -> None:
    run_id = running(scene, runtime)
    draft = intake.begin_checkpoint(run_id, 1, 1)
    put_files(draft.prefix, {"first": b"1", "second": b"2"})
    with pytest.raises(ValidationError, match="checkpoint file"):
        intake.complete_checkpoint(run_id, 1, draft.id, [CheckpointFile(path, size, "") for path, size in files])
    assert steps(run_id) == []


def test_a_discarded_checkpoint_leaves_nothing_and_a_complete_one_cannot_be_discarded(
    scene: Scene, runtime: StageRuntime
) -> None:
    run_id = running(scene, runtime)
    draft = intake.begin_checkpoint(run_id, 1, 1)
    put_files(draft.prefix, FILES)
    intake.discard_checkpoint(run_id, 1, draft.id)
    assert (get_checkpoints(), blob_keys(run_id)) == ([], [])
    with pytest.raises(CheckpointDoesNotExistError):
        intake.complete_checkpoint(run_id, 1, draft.id, [])
    complete = save_checkpoint(run_id, 2)
    intake.discard_checkpoint(run_id, 1, complete)
    assert ids(get_checkpoints()) == [complete]


def test_a_checkpoint_says_where_in_the_bucket_it_is(
    scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = intake.begin_checkpoint(running(scene, runtime), 1, 10)
    for url, path in (("s3://bucket/team/a", f"team/a/{draft.prefix}"), ("s3://bucket", draft.prefix)):
        monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", url)
        forget_settings()
        (seen,) = get_checkpoints()
        assert (seen.bucket_name, seen.key_prefix) == ("bucket", path)


def test_checkpoints_are_found_by_any_filter(scene: Scene, runtime: StageRuntime) -> None:
    first, second = running(scene, runtime), running(set_scene(), runtime)
    one, two, three = save_checkpoint(first, 1), save_checkpoint(first, 2), save_checkpoint(second, 2)
    draft = intake.begin_checkpoint(second, 1, 3).id
    assert ids(get_checkpoints()) == [draft, three, two, one]
    assert ids(get_checkpoints(sort=["id:asc"], limit=2, offset=1)) == [two, three]
    assert ids(get_checkpoints(run_ids=[first])) == ids(get_checkpoints(project_ids=[scene.project_id])) == [two, one]
    assert ids(get_checkpoints(global_steps=[2, 7])) == [three, two]
    assert ids(get_checkpoints(statuses=["incomplete"])) == [draft]
    assert ids(get_checkpoints(ids=[one, "nobody"])) == [one]
    middle = get_checkpoints(ids=[two])[0].created_at
    assert ids(get_checkpoints(created_before=middle)) == [one]
    assert ids(get_checkpoints(created_after=middle)) == [draft, three]
    assert ids(Run.from_id(first).get_checkpoints(global_steps=[1])) == [one]
    (slim,) = get_checkpoints(ids=[one], select=["id", "project_id"])
    assert slim.model_dump(exclude_none=True) == {"id": one, "project_id": scene.project_id}
    for wrong in ({"select": ["key_prefix"]}, {"statuses": ["done"]}, {"sort": ["global_step"]}, {"limit": -1}):
        with pytest.raises(ValidationError):
            get_checkpoints(**wrong)


def test_steps_that_are_none_are_the_steps_of_nothing(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    save_checkpoint(run_id, 7)
    intake.record_metrics(run_id, 1, 0, [NewMetric(7, "loss", 1.0)])
    run = Run.from_id(run_id)
    assert [len(run.get_checkpoints(global_steps=steps)) for steps in ([2**70, -1], [2**70, 7])] == [0, 1]
    assert [len(run.get_metrics(global_steps=steps)) for steps in ([2**70, -1], [2**70, 7])] == [0, 1]


def test_checkpoints_are_deleted_all_or_none(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    old, new = save_checkpoint(run_id, 1), save_checkpoint(run_id, 2)
    with pytest.raises(ValueError, match="ids or run_ids"):
        delete_checkpoints()
    with pytest.raises(TrainingConflict, match="would restart from"):
        delete_checkpoints(run_ids=[run_id])
    assert ids(get_checkpoints()) == [new, old]
    draft = intake.begin_checkpoint(run_id, 1, 3)
    with pytest.raises(TrainingConflict, match="being written"):
        delete_checkpoints(ids=[draft.id])
    delete_checkpoints(ids=[old, new], run_ids=["another"])
    delete_checkpoints(ids=[old])
    assert ids(get_checkpoints(statuses=["complete"])) == [new]
    intake.leave(run_id, 1, Exited(0))
    delete_checkpoints(run_ids=[run_id])
    assert (get_checkpoints(), blob_keys(run_id)) == ([], [])


def save_all(run_id: str, scores: Iterable[float]) -> None:
    """Measure, then save, step by step."""
    for step, score in enumerate(scores):
        intake.record_metrics(run_id, 1, step, [NewMetric(step, "score", score)])
        save_checkpoint(run_id, step)


@pytest.mark.parametrize(
    "policy, kept",
    [
        ({"keep_last": 2}, [3, 4]),
        ({"keep_last": 1, "keep_best": 2, "best_by": "score"}, [1, 2, 4]),
        ({"keep_last": 1, "keep_best": 1, "best_by": "score", "best_is": "min"}, [0, 4]),
        ({"keep_last": 3, "keep_best": 1, "best_by": "no such"}, [2, 3, 4]),
    ],
)
def test_a_policy_keeps_the_newest_and_the_best(
    database: object, runtime: StageRuntime, policy: dict[str, Any], kept: list[int]
) -> None:
    run_id = running(set_scene(checkpoint_policy=policy), runtime)
    save_all(run_id, [0.1, 0.9, 0.5, 0.2, 0.3])
    assert steps(run_id) == kept
    assert len(blob_keys(run_id)) == len(kept)


def test_a_policy_spares_what_a_model_was_made_of(database: object, runtime: StageRuntime) -> None:
    run_id = running(set_scene(checkpoint_policy={"keep_last": 1}), runtime)
    first = save_checkpoint(run_id, 0)
    create_model_from_checkpoint(checkpoint_id=first, name="m", version="1.0.0", summary="the first")
    for step in (1, 2):
        save_checkpoint(run_id, step)
    assert steps(run_id) == [0, 2]


def test_what_was_deleted_while_the_blob_store_was_away_is_swept_later(
    scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = running(scene, runtime)
    save_checkpoint(run_id, 1)
    save_checkpoint(run_id, 2)
    intake.leave(run_id, 1, Exited(0))

    def away(checkpoint_id: str) -> None:
        raise Unavailable("the blob store is away")

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.training_v2.checkpoint_files.purge", away)
        delete_checkpoints(run_ids=[run_id])
    assert get_checkpoints() == []
    assert len(blob_keys(run_id)) == 2
    assert (sweep(), sweep(), blob_keys(run_id)) == (2, 0, [])


def test_a_checkpoint_that_cannot_be_removed_is_in_nobody_s_way(
    scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = running(scene, runtime)
    stuck, *others = [save_checkpoint(run_id, number) for number in range(3)]
    intake.leave(run_id, 1, Exited(0))
    delete = type(blobs()).delete_many

    def refuse(store: Blobs, keys: Sequence[str]) -> None:
        if any(stuck in key for key in keys):
            raise Unavailable("permission denied")
        delete(store, keys)

    with monkeypatch.context() as patched:
        patched.setattr(type(blobs()), "delete_many", refuse)
        delete_checkpoints(ids=[stuck])
        delete_checkpoints(ids=others[:1])
        assert sweep() == 0
        delete_checkpoints(ids=others)
        assert [key.split("/")[2] for key in blob_keys(run_id)] == [stuck]
    assert (sweep(), blob_keys(run_id)) == (1, [])


def test_a_checkpoint_that_a_dead_launch_began_is_swept(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    kept = save_checkpoint(run_id, 1)
    draft = intake.begin_checkpoint(run_id, 1, 2)
    put_files(draft.prefix, FILES)
    assert sweep() == 0
    fall_silent(run_id)
    for _ in range(3):
        take_step(run_id, runtime)
    assert sweep() == 2  # given up, and removed
    assert (ids(get_checkpoints()), len(blob_keys(run_id))) == ([kept], 1)


def test_a_model_of_a_checkpoint_is_in_the_registry_and_keeps_the_checkpoint(
    database: object, runtime: StageRuntime
) -> None:
    scene = set_scene(serving={"url": "http://127.0.0.1:8080", "input_codec": "tensor_npy"})
    run_id = running(scene, runtime)
    labels = {"chariot_model_config.json": json.dumps({"class_labels": {"dog": 1, "cat": 0}}).encode()}
    save_checkpoint(run_id, 1, {**FILES, **labels})
    (checkpoint,) = Run.from_id(run_id).get_checkpoints()
    model_id = checkpoint.create_model(name="pets", version="1.0.0-rc.1+build.5", summary="for cats\0 and dogs")
    model = get_model(model_id)
    assert (model.name, model.version, model.project_id) == ("pets", "1.0.0-rc.1+build.5", scene.project_id)
    assert (model.endpoint.url, model.endpoint.model_name) == ("http://127.0.0.1:8080", "pets")
    assert (model.endpoint.input_codec, model.endpoint.labels) == ("tensor_npy", ["cat", "dog"])
    source = source_of(model_id)
    assert source is not None
    assert (source.checkpoint_id, source.run_id) == (checkpoint.id, run_id)
    intake.leave(run_id, 1, Exited(0))
    needed: list[Callable[[], object]] = [
        lambda: delete_checkpoints(run_ids=[run_id]),
        lambda: Run.from_id(run_id).delete(),
    ]
    for forbidden in needed:
        with pytest.raises(TrainingConflict, match=str(checkpoint.id)):
            forbidden()
    with pytest.raises(TrainingConflict, match="exists already"):
        checkpoint.create_model(name="pets", version="1.0.0-rc.1+build.5", summary="")
    other = registry.create_project("other")
    checkpoint.create_model(name="pets", version="1.0.0-rc.1+build.5", summary="", project_id=other.id)


@pytest.mark.parametrize(
    "class_labels, missing",
    [
        ({"cat": 1, "dog": 2}, 0),
        ({"cat": 0, "dog": 0}, 1),
        ({"cat": 0, "dog": 2}, 1),
        ({"cat": "x"}, 0),
        ({"0": "cat"}, 0),
        ({"cat": None}, 0),
    ],
)
def test_class_names_without_their_right_numbers_are_refused(
    scene: Scene, runtime: StageRuntime, class_labels: dict[str, object], missing: int
) -> None:
    said = {"chariot_model_config.json": json.dumps({"class_labels": class_labels}).encode()}
    checkpoint = save_checkpoint(running(scene, runtime), 1, said)
    with pytest.raises(ValidationError, match=rf"chariot_model_config\.json .* no name for number {missing}"):
        create_model_from_checkpoint(checkpoint_id=checkpoint, name="m", version="1.0.0", summary="")


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "1.0.0-", "01.0.0", "1.0.0 ", "١.0.0", ""])
def test_a_version_of_a_model_is_semver(scene: Scene, runtime: StageRuntime, version: str) -> None:
    checkpoint = save_checkpoint(running(scene, runtime), 1)
    with pytest.raises(ValidationError, match="SemVer"):
        create_model_from_checkpoint(checkpoint_id=checkpoint, name="m", version=version, summary="")


def test_what_cannot_become_a_model_is_refused(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    draft = intake.begin_checkpoint(run_id, 1, 1)
    spam = save_checkpoint(running(scene, runtime, task_type="Spam Detection"), 1)
    good = save_checkpoint(run_id, 2)
    for checkpoint, options, error in (
        (draft.id, {}, TrainingConflict),
        ("nobody", {}, CheckpointDoesNotExistError),
        (spam, {}, ValidationError),
        (good, {"name": " "}, ValidationError),
        (good, {"project_id": "nobody"}, ProjectDoesNotExistError),
    ):
        values = {"name": "m", "version": "1.0.0", "summary": "", **options}
        with pytest.raises(error):
            create_model_from_checkpoint(checkpoint_id=checkpoint, **values)
    assert registry.list_models(scene.project_id) == []


def test_a_model_without_a_server_is_served_later(scene: Scene, runtime: StageRuntime) -> None:
    checkpoint = save_checkpoint(running(scene, runtime), 1)
    model_id = create_model_from_checkpoint(checkpoint_id=checkpoint, name="m", version="1.0.0", summary="")
    assert get_model(model_id).endpoint.url == ""
    served = registry.serve_model(model_id, "http://127.0.0.1:9/", model_name="renamed")
    assert (served.endpoint.url, served.endpoint.model_name) == ("http://127.0.0.1:9", "renamed")
    assert get_model(model_id) == served
    for wrong in ({"url": "ftp://there"}, {"url": "http://127.0.0.1:9", "timeout": -1}):
        with pytest.raises(InvalidRequest):
            registry.serve_model(model_id, **wrong)


def test_a_restarted_run_goes_on_from_its_latest_whole_checkpoint(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    whole = save_checkpoint(run_id, 1)
    intake.begin_checkpoint(run_id, 1, 2)
    intake.leave(run_id, 1, Exited(1))
    Run.from_id(run_id).restart()
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    latest = latest_checkpoint(run_id)
    assert latest is not None
    assert latest.id == whole
