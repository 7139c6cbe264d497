"""Training in the demo: a blueprint, a run that is watched, and a model made of its last checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from examples.digits.train import NETWORK
from orchestrator.cli.run_watch import WatchedRun
from orchestrator.cli.watch import follow
from orchestrator.training_v2 import (
    Checkpoint,
    Resources,
    Run,
    create_run,
    download_checkpoint,
    register_blueprint,
)

BLUEPRINT = Path(__file__).with_name("blueprint.toml")
EPOCHS = 20
#: What a run of the digits needs, and more than enough.
RESOURCES = Resources(cpu="500m", memory="1Gi")
#: How long twenty epochs may take on a busy machine.
PATIENCE = timedelta(minutes=3)


@dataclass(frozen=True)
class Trained:
    """A run that completed, and the model that was made of it."""

    run: str
    metrics: int
    checkpoints: list[int]  #: their steps, which are epochs
    model: str
    seconds: float


def train(project_id: str, data: Path, *, quietly: bool) -> tuple[Trained, Checkpoint]:
    """Train on the written data set as a run, and make a model of what it learnt."""
    blueprint = register_blueprint(BLUEPRINT)
    run_id = create_run(
        name="digits",
        version="1.0.0",
        resources=RESOURCES,
        config={"data": str(data), "epochs": EPOCHS},
        task_type="Image Classification",
        blueprint_id=blueprint.id,
        project_id=project_id,
    )
    started = time.monotonic()
    if not quietly:
        follow(WatchedRun(run_id, tag="accuracy"))
    run = wait_for(run_id)
    if run.status != "job_completed":
        raise SystemExit(f"the run ended {run.status}: see `orchestrator run logs {run_id}`")
    seconds = time.monotonic() - started
    steps = run.get_global_steps_with_checkpoints()
    checkpoint = max(run.get_checkpoints(), key=lambda each: each.global_step or 0)
    model = checkpoint.create_model(name="digits", version="1.0.0", summary="a small network", project_id=project_id)
    return Trained(run_id, len(run.get_all_metrics()), steps, model, round(seconds, 1)), checkpoint


def wait_for(run_id: str) -> Run:
    """The run, once it has ended."""
    run, deadline = Run.from_id(run_id), time.monotonic() + PATIENCE.total_seconds()
    while run.status not in ("job_completed", "job_failed", "job_terminated", "job_create_failed"):
        if time.monotonic() > deadline:
            raise SystemExit(f"the run has not ended: see `orchestrator run show {run_id}`")
        time.sleep(0.2)
        run.reload()
    return run


def network_of(checkpoint: Checkpoint, folder: Path) -> Path:
    """The file of the network, fetched into `folder`."""
    assert checkpoint.id is not None, "only a selection of fields leaves it out"
    folder.mkdir()
    download_checkpoint(checkpoint.id, str(folder))
    return folder / NETWORK
