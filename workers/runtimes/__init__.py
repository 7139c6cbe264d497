"""Where trainers run: as processes of this host, or as jobs of a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.training_v2.runtime import Runtime

# Nothing is imported here that a supervisor, which begins with this package, would have to wait for.


def runtimes() -> Mapping[str, Runtime]:
    """The runtime of this worker, by the name that `ORCHESTRATOR_TRAINING_RUNTIME` and runs have it under."""
    from orchestrator.settings import settings

    name = settings().training_runtime
    return {name: _runtime(name)}


@cache
def _runtime(name: str) -> Runtime:
    if name == "kubernetes":
        from workers.runtimes.kubernetes import KubernetesRuntime

        return KubernetesRuntime()
    from workers.runtimes.local import LocalRuntime

    return LocalRuntime()
