"""Import of snapshots from folders and archives."""

from orchestrator.registry.importing.discard import sweep_unfinished_imports
from orchestrator.registry.importing.importer import import_snapshot
from orchestrator.registry.importing.limits import Limits

__all__ = ["Limits", "import_snapshot", "sweep_unfinished_imports"]
