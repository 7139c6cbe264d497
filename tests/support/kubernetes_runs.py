"""Launches on a make-believe cluster, and how they fare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.ids import new_id
from orchestrator.settings import settings
from orchestrator.training_v2.quantities import Demand
from orchestrator.training_v2.runtime import (
    Launch,
    LaunchName,
    Observation,
)
from tests.support.kubernetes_cluster import Cluster
from workers.runtimes.kubernetes import KubernetesRuntime

MINUTE = timedelta(minutes=1)


def configure(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    values = {"namespace": "training", "sidecar_image": "orchestrator:1", "cluster": "east", **values}
    for name, value in values.items():
        monkeypatch.setenv(f"ORCHESTRATOR_KUBERNETES_{name.upper()}", value)
    settings.cache_clear()


def a_launch(command: Sequence[str] = ("train",), **overrides: Any) -> Launch:
    launch = Launch(
        run_id=new_id(),
        number=1,
        place="east/training",
        image="trainer:1",
        entry_point=list(command),
        demand=Demand(Decimal("0.5"), 1 << 30),
        config={"epochs": 3},
    )
    return replace(launch, **overrides)


def look(runtime: KubernetesRuntime, launch: LaunchName) -> Observation:
    return runtime.observe([launch])[0]


def grace_of(cluster: Cluster, job: str) -> int:
    return int(cluster.pod(job)["metadata"]["deletionGracePeriodSeconds"])


def age(metadata: dict[str, Any], *, seconds: int) -> None:
    """Let the deletion have been asked for so much earlier."""
    earlier = datetime.fromisoformat(metadata["deletionTimestamp"]) - timedelta(seconds=seconds)
    metadata["deletionTimestamp"] = earlier.strftime("%Y-%m-%dT%H:%M:%SZ")
