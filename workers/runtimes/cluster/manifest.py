"""A launch as a Kubernetes Job: one pod at most, with the trainer, and beside it the sidecar that reports for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from orchestrator.errors import Unavailable
from orchestrator.settings import KubernetesGpu, Settings
from orchestrator.training_v2.quantities import Demand
from orchestrator.training_v2.runtime import Launch, LaunchName

#: Labels of our jobs and pods.
OURS = ("app.kubernetes.io/managed-by", "orchestrator")
RUN = "orchestrator/run"
LAUNCH = "orchestrator/launch"
TRAINER = "trainer"
SIDECAR = "sidecar"

#: Where both containers find the run's folder.
FOLDER = "/run/orchestrator"
#: The sidecar makes this file there when the trainer may be started.
READY = "ready"
#: The group that both containers are in: what one writes there the other may read, as whatever user it runs.
GROUP = 10001
#: Seconds that a sidecar has to store what is left, when its trainer has ended by itself.
FLUSH = 120
#: Seconds for which a sidecar may try to make ready; longer than any database is away.
PREPARATION = 86_400
SIDECAR_RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
#: Where the official client looks for what it needs to reach the API from within a pod.
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  a path, not a password


def job_name(launch: LaunchName) -> str:
    """The name of the launch's job, the same for whoever asks."""
    return f"run-{launch.run_id}-{launch.number}"


def labels(launch: LaunchName) -> dict[str, str]:
    """What the launch's job and pod are found by."""
    return {OURS[0]: OURS[1], RUN: launch.run_id, LAUNCH: str(launch.number)}


def job_body(launch: Launch, chosen: Settings) -> dict[str, Any]:
    """The job that runs the launch.

    Raises:
        Unavailable: the settings replace what a launch cannot do without.
    """
    return _job(launch, chosen, _pod_spec(launch, chosen))


def tombstone_body(launch: LaunchName, chosen: Settings) -> dict[str, Any]:
    """A job that never runs, and keeps the launch's name from being used."""
    trainer = {"name": TRAINER, "image": "none", "command": ["none"]}
    body = _job(launch, chosen, {"restartPolicy": "Never", "containers": [trainer]})
    body["spec"]["suspend"] = True
    return body


def _job(launch: LaunchName, chosen: Settings, pod: dict[str, Any]) -> dict[str, Any]:
    ours = {**chosen.kubernetes_labels, **labels(launch)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(launch), "labels": ours},
        "spec": {
            # A launch is one pod: another is another launch, which the control plane decides on.
            "backoffLimit": 0,
            "parallelism": 1,
            "completions": 1,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": int(chosen.kubernetes_keep_days * 86_400),
            "template": {"metadata": {"labels": ours}, "spec": pod},
        },
    }


def _pod_spec(launch: Launch, chosen: Settings) -> dict[str, Any]:
    own = dict(chosen.kubernetes_pod_spec)
    if ours := own.keys() & {"containers", "initContainers"}:
        raise Unavailable(f"ORCHESTRATOR_KUBERNETES_POD_SPEC: {' and '.join(sorted(ours))} cannot be replaced")
    gpus = {kind: chosen.kubernetes_gpus.get(kind, KubernetesGpu()) for kind in launch.demand.gpus}
    nodes = {label: value for gpu in gpus.values() for label, value in gpu.node_selector.items()}
    nodes |= own.pop("nodeSelector", {})
    return {
        "restartPolicy": "Never",
        "serviceAccountName": chosen.kubernetes_service_account,
        # The trainer gets no token: it is mounted for the sidecar alone.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": FLUSH,
        "securityContext": {"fsGroup": GROUP, **own.pop("securityContext", {})},
        "volumes": [{"name": "folder", "emptyDir": {}}, _token_volume(), *own.pop("volumes", ())],
        "initContainers": [_sidecar(launch, chosen)],
        "containers": [_trainer(launch, gpus)],
        **({"nodeSelector": nodes} if nodes else {}),
        **own,
    }


def _trainer(launch: Launch, gpus: Mapping[str, KubernetesGpu]) -> dict[str, Any]:
    resources = _resources(launch.demand, gpus)
    return {
        "name": TRAINER,
        "image": launch.image,
        **({"command": list(launch.entry_point)} if launch.entry_point else {}),
        "env": _environment(launch),
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": "folder", "mountPath": FOLDER}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _sidecar(launch: Launch, chosen: Settings) -> dict[str, Any]:
    return {
        "name": SIDECAR,
        "image": chosen.kubernetes_sidecar_image,
        # An init container that is always restarted starts before the others, and ends after them.
        "restartPolicy": "Always",
        "command": ["python", "-m", "workers.runtimes.sidecar"],
        "env": [
            *_environment(launch),
            _field("ORCHESTRATOR_POD", "metadata.name"),
            _field("ORCHESTRATOR_POD_UID", "metadata.uid"),
            _field("ORCHESTRATOR_KUBERNETES_NAMESPACE", "metadata.namespace"),
        ],
        "envFrom": [{"secretRef": {"name": chosen.kubernetes_secret}}],
        "resources": SIDECAR_RESOURCES,
        "volumeMounts": [
            {"name": "folder", "mountPath": FOLDER},
            {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        ],
        # The trainer is started once this succeeds.
        "startupProbe": {
            "exec": {"command": ["test", "-e", f"{FOLDER}/{READY}"]},
            "periodSeconds": 1,
            "failureThreshold": PREPARATION,
        },
    }


def _environment(launch: LaunchName) -> list[dict[str, str]]:
    values = {
        "ORCHESTRATOR_RUN_FOLDER": FOLDER,
        "ORCHESTRATOR_RUN_ID": launch.run_id,
        "ORCHESTRATOR_LAUNCH": str(launch.number),
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _resources(demand: Demand, gpus: Mapping[str, KubernetesGpu]) -> dict[str, str]:
    amounts: dict[str, Decimal | int] = {"cpu": demand.cpu, "memory": demand.memory}
    if demand.ephemeral_storage:
        amounts["ephemeral-storage"] = demand.ephemeral_storage
    for kind, count in demand.gpus.items():
        amounts[gpus[kind].resource] = count
    return {name: f"{amount:f}" if isinstance(amount, Decimal) else str(amount) for name, amount in amounts.items()}


def _token_volume() -> dict[str, Any]:
    sources: Sequence[dict[str, Any]] = (
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    )
    return {"name": "token", "projected": {"sources": list(sources)}}
