"""Training runs: from a blueprint and a config to metrics, checkpoints and a model."""

from orchestrator.training_v2.blueprint import (
    create_blueprint,
    delete_blueprint,
    get_blueprint,
    list_blueprints,
    lookup_blueprint_id,
    register_blueprint,
)
from orchestrator.training_v2.checkpoint import (
    Checkpoint,
    create_model_from_checkpoint,
    delete_checkpoints,
    download_checkpoint,
    get_checkpoints,
)
from orchestrator.training_v2.exceptions import (
    APIException,
    ApiException,
    BlueprintDoesNotExistError,
    CheckpointDoesNotExistError,
    RunDoesNotExistError,
    TrainingConflict,
    ValidationError,
)
from orchestrator.training_v2.models import (
    Blueprint,
    CheckpointPolicy,
    Event,
    Gpu,
    Metric,
    NewBlueprint,
    Progress,
    Resources,
    RunState,
    Serving,
)
from orchestrator.training_v2.run import Run, create_run, get_runs, validate_run_config

__all__ = [
    "APIException",
    "ApiException",
    "Blueprint",
    "BlueprintDoesNotExistError",
    "Checkpoint",
    "CheckpointDoesNotExistError",
    "CheckpointPolicy",
    "Event",
    "Gpu",
    "Metric",
    "NewBlueprint",
    "Progress",
    "Resources",
    "Run",
    "RunDoesNotExistError",
    "RunState",
    "Serving",
    "TrainingConflict",
    "ValidationError",
    "create_blueprint",
    "create_model_from_checkpoint",
    "create_run",
    "delete_blueprint",
    "delete_checkpoints",
    "download_checkpoint",
    "get_blueprint",
    "get_checkpoints",
    "get_runs",
    "list_blueprints",
    "lookup_blueprint_id",
    "register_blueprint",
    "validate_run_config",
]
