"""The library for training code: what a trainer says to its run, and hears from it.

Every function may be called from any thread and any process of the trainer, needs nothing but Python itself, and
raises an `OrchestratorError` that says what to do.
"""

from orchestrator.training_v2.exceptions import (
    CheckpointDoesNotExistError,
    NotInARun,
    RunnerError,
    StaleLaunch,
    SupervisorGone,
    TrainingConflict,
    ValidationError,
)
from orchestrator.training_v2.runner.checkpoints import (
    LoadedCheckpoint,
    load_checkpoint,
    load_latest_checkpoint,
    save_checkpoint,
)
from orchestrator.training_v2.runner.measuring import Metric, save_metric, save_metrics, save_progress
from orchestrator.training_v2.runner.stopping import on_stop, stop_requested, wait_for_stop
from orchestrator.training_v2.runner.stream import flush
from orchestrator.training_v2.runner.surroundings import is_run, load_config
from orchestrator.training_v2.runner.wire import Progress

__all__ = [
    "CheckpointDoesNotExistError",
    "LoadedCheckpoint",
    "Metric",
    "NotInARun",
    "Progress",
    "RunnerError",
    "StaleLaunch",
    "SupervisorGone",
    "TrainingConflict",
    "ValidationError",
    "flush",
    "is_run",
    "load_checkpoint",
    "load_config",
    "load_latest_checkpoint",
    "on_stop",
    "save_checkpoint",
    "save_metric",
    "save_metrics",
    "save_progress",
    "stop_requested",
    "wait_for_stop",
]
