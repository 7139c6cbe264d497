"""The digits' classifier as a training run on a real worker: stopped half-way, restarted, and none the worse."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import joblib
import numpy as np
import pytest

from examples.digits.dataset import write_dataset
from examples.digits.train import NETWORK
from examples.digits.training import BLUEPRINT, RESOURCES
from orchestrator import registry
from orchestrator.registry.models import TaskType
from orchestrator.training_v2 import Checkpoint, Run, RunState, create_run, download_checkpoint, register_blueprint
from tests.conftest import forget_settings
from tests.support.processes import Workers, wait_until

EPOCHS = 12


@pytest.fixture
def project_id(monkeypatch: pytest.MonkeyPatch, worker_processes: Workers) -> str:
    """A project, and a worker that launches its runs, two at a time whatever this machine has."""
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_CPU", "2")
    forget_settings()
    worker_processes.beat()
    worker_processes.start("training", "ticks", concurrency=1)
    return registry.create_project("digits").id


# One is enough: what differs between databases is tested where it is written.
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_run_that_was_stopped_and_restarted_ends_with_the_weights_of_one_that_never_was(
    tmp_path: Path, project_id: str
) -> None:
    write_dataset(tmp_path / "data")
    config = {"data": str(tmp_path / "data"), "epochs": EPOCHS, "keep_every": 5, "pause": 0.2}
    blueprint_id = register_blueprint(BLUEPRINT).id
    straight, interrupted = (
        Run.from_id(
            create_run(
                name=name,
                version="1",
                resources=RESOURCES,
                config=config,
                task_type="Image Classification",
                blueprint_id=blueprint_id,
                project_id=project_id,
            )
        )
        for name in ("straight", "interrupted")
    )
    wait_until(lambda: len(interrupted.get_all_metrics()) >= 4, "it has begun to learn")
    interrupted.stop(timedelta(seconds=30))
    ended(interrupted, RunState.JOB_TERMINATED)
    assert 2 <= (left_at := max(metric.global_step for metric in interrupted.get_all_metrics())) < EPOCHS
    interrupted.restart()
    ended(interrupted, RunState.JOB_COMPLETED)
    ended(straight, RunState.JOB_COMPLETED)

    assert_same_weights(network(straight, tmp_path / "straight"), network(interrupted, tmp_path / "interrupted"))
    steps = [metric.global_step for metric in interrupted.get_all_metrics() if metric.tag == "accuracy"]
    assert sorted(steps) == list(range(1, EPOCHS + 1)), f"no epoch was lost or trained twice around {left_at}"
    model_id = last_checkpoint(straight).create_model(name="digits", version="1.0.0", summary="", project_id=None)
    model = registry.get_model(model_id)
    assert (model.task_type, model.endpoint.labels) == (
        TaskType.IMAGE_CLASSIFICATION,
        [str(digit) for digit in range(10)],
    )


def ended(run: Run, state: RunState) -> None:
    def has_ended() -> bool:
        run.reload()
        return str(run.status) in ("job_completed", "job_failed", "job_terminated", "job_create_failed")

    wait_until(has_ended, "the run has ended", within=60)
    assert run.status == state, [event.status for event in run.get_events()]


def network(run: Run, folder: Path) -> object:
    folder.mkdir()
    last = last_checkpoint(run)
    assert last.id is not None
    assert last.global_step == EPOCHS
    download_checkpoint(last.id, str(folder))
    return joblib.load(folder / NETWORK)


def last_checkpoint(run: Run) -> Checkpoint:
    return max(run.get_checkpoints(), key=lambda each: each.global_step or 0)


def assert_same_weights(first: object, second: object) -> None:
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(first, name), getattr(second, name), strict=True):
            np.testing.assert_array_equal(one, other)
