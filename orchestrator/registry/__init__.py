"""The registry: projects, datasets, snapshots, datums, models and their endpoints."""

from orchestrator.registry.catalog import get_model, list_models, register_model, serve_model
from orchestrator.registry.datasets import create_dataset, get_dataset, list_datasets
from orchestrator.registry.importing import Limits, import_snapshot, sweep_unfinished_imports
from orchestrator.registry.projects import create_project, get_project, list_projects
from orchestrator.registry.snapshots import get_snapshot, list_datums, list_snapshots

__all__ = [
    "Limits",
    "create_dataset",
    "create_project",
    "get_dataset",
    "get_model",
    "get_project",
    "get_snapshot",
    "import_snapshot",
    "list_datasets",
    "list_datums",
    "list_models",
    "list_projects",
    "list_snapshots",
    "register_model",
    "serve_model",
    "sweep_unfinished_imports",
]
