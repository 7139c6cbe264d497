"""What a runtime tells a trainer through its environment, and through the folder that is named there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.training_v2.exceptions import NotInARun, RunnerError

#: The launch's own folder.
RUN_FOLDER = "ORCHESTRATOR_RUN_FOLDER"
RUN_ID = "ORCHESTRATOR_RUN_ID"
#: The number of the launch.
LAUNCH = "ORCHESTRATOR_LAUNCH"

#: Names in the folder.
CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
LOADED = "loaded"


class Surroundings(NamedTuple):
    """Whose trainer this process is."""

    folder: Path
    run_id: str
    launch: int


def is_run() -> bool:
    """Whether this process is the trainer of a run, and not a script that somebody tries by hand."""
    return RUN_FOLDER in os.environ


def surroundings() -> Surroundings:
    """Whose trainer this process is.

    Raises:
        NotInARun: nobody's.
    """
    try:
        return Surroundings(Path(os.environ[RUN_FOLDER]), os.environ[RUN_ID], int(os.environ[LAUNCH]))
    except KeyError:
        raise NotInARun from None


def load_config(default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config that the run was created with.

    Parameters:
        default: What to return where there is no run, for a script that is also tried by hand.

    Raises:
        NotInARun: this process is no run's trainer, and there is no default.
    """
    if default is not None and not is_run():
        return default
    path = surroundings().folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunnerError(f"the run's config cannot be read from {path}: {error}") from error
    return config
