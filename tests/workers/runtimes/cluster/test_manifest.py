"""A launch as a job: what its pod may use, and what it is told."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from orchestrator.training_v2.quantities import Demand
from orchestrator.training_v2.runtime import (
    Waiting,
)
from tests.support.kubernetes_cluster import Cluster
from tests.support.kubernetes_runs import a_launch, configure
from workers.runtimes.cluster.manifest import job_name
from workers.runtimes.kubernetes import KubernetesRuntime


def test_a_launch_is_a_job_of_one_pod_that_is_never_replaced(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    launch = a_launch(["python", "-m", "train"])
    assert isinstance(runtime.submit(launch), Waiting)
    (job,) = cluster.jobs.values()
    spec = job["spec"]
    assert job["metadata"]["name"] == f"run-{launch.run_id}-1"
    assert (spec["backoffLimit"], spec["parallelism"], spec["podReplacementPolicy"]) == (0, 1, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    (trainer,) = spec["template"]["spec"]["containers"]
    assert trainer["image"] == "trainer:1"
    assert trainer["command"] == ["python", "-m", "train"]
    assert trainer["resources"]["requests"] == trainer["resources"]["limits"] == {"cpu": "0.5", "memory": "1073741824"}


def test_a_trainer_gets_its_folder_and_neither_secret_nor_token(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    pod = cluster.pod(job_name(launch))["spec"]
    (trainer,), (sidecar,) = pod["containers"], pod["initContainers"]
    assert {each["name"]: each["value"] for each in trainer["env"]} == {
        "ORCHESTRATOR_RUN_FOLDER": "/run/orchestrator",
        "ORCHESTRATOR_RUN_ID": launch.run_id,
        "ORCHESTRATOR_LAUNCH": "1",
    }
    assert "envFrom" not in trainer
    assert [mount["name"] for mount in trainer["volumeMounts"]] == ["folder"]
    assert pod["automountServiceAccountToken"] is False
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["envFrom"] == [{"secretRef": {"name": "orchestrator-training"}}]
    assert [mount["name"] for mount in sidecar["volumeMounts"]] == ["folder", "token"]


def test_gpus_are_asked_for_by_type(
    runtime: KubernetesRuntime, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = '{"Tesla V100": {"node_selector": {"gpu": "v100"}}, "MI300": {"resource": "amd.com/gpu"}}'
    configure(monkeypatch, gpus=known)
    runtime.settings = settings()
    for kind in ("Tesla V100", "MI300", "another"):
        demand = Demand(Decimal(2), 1 << 30, ephemeral_storage=1 << 34, gpus={kind: 2})
        runtime.submit(launch := a_launch(demand=demand))
        pod = cluster.pod(job_name(launch))["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert limits["ephemeral-storage"] == str(1 << 34)
        assert limits["amd.com/gpu" if kind == "MI300" else "nvidia.com/gpu"] == "2"
        assert pod.get("nodeSelector", {}) == ({"gpu": "v100"} if kind == "Tesla V100" else {})


def test_a_pod_keeps_what_it_needs_whatever_is_added_to_it(
    runtime: KubernetesRuntime, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = {
        "securityContext": {"runAsNonRoot": True},
        "nodeSelector": {"pool": "training"},
        "volumes": [{"name": "data", "emptyDir": {}}],
        "tolerations": [{"operator": "Exists"}],
    }
    gpus = '{"V100": {"node_selector": {"gpu": "v100"}}}'
    configure(monkeypatch, pod_spec=json.dumps(added), gpus=gpus)
    runtime.settings = settings()
    runtime.submit(launch := a_launch(demand=Demand(Decimal(2), 1 << 30, gpus={"V100": 1})))
    pod = cluster.pod(job_name(launch))["spec"]
    assert pod["securityContext"] == {"fsGroup": 10001, "runAsNonRoot": True}
    assert pod["nodeSelector"] == {"gpu": "v100", "pool": "training"}
    assert [volume["name"] for volume in pod["volumes"]] == ["folder", "token", "data"]
    assert pod["tolerations"] == added["tolerations"]


@pytest.mark.parametrize("field", ["containers", "initContainers"])
def test_nobody_replaces_the_trainer_or_its_sidecar(
    runtime: KubernetesRuntime, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    configure(monkeypatch, pod_spec=json.dumps({field: []}))
    runtime.settings = settings()
    with pytest.raises(Unavailable, match=f"KUBERNETES_POD_SPEC: {field} cannot be replaced"):
        runtime.submit(a_launch())
