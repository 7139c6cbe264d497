"""The roles in `deploy/kubernetes` allow what is called there, and nothing else; the make-believe API enforces them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.settings import settings
from tests.support.kubernetes_api import ROLES, KubernetesApi, allowed
from tests.support.kubernetes_runs import MINUTE, a_launch, configure
from tests.support.processes import ROOT
from workers.runtimes.cluster.api import ClusterApi, Rejected
from workers.runtimes.cluster.manifest import job_name
from workers.runtimes.kubernetes import KubernetesRuntime

OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "training.yaml").read_text()))


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi() as serving:
        yield serving


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


def test_a_worker_may_do_what_the_runtime_does_and_nothing_else(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, config=str(api.config(tmp_path / "worker")), keep_days="0.000001")
    runtime = KubernetesRuntime()
    launch = a_launch()
    runtime.submit(launch)
    api.cluster.start(job_name(launch))
    runtime.terminate(launch, MINUTE)
    runtime.terminate(a_launch(), MINUTE)
    for job in api.cluster.jobs.values():
        job["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    assert runtime.sweep() == 1
    runtime.api.close()
    assert {(verb, what) for _, verb, what in api.calls} == allowed(ROLES["worker"])


def test_a_sidecar_may_read_its_log_and_end_its_pod_and_nothing_else(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, config=str(api.config(tmp_path / "pod", "pod")))
    pod = ClusterApi("training")
    assert pod.pod("mine") is None
    with suppress(Rejected), pod.log("mine", "trainer", None):
        pass
    pod.delete_pod("mine", "uid", 1)
    pod.close()
    assert {(verb, what) for _, verb, what in api.calls} == allowed(ROLES["pod"])


def test_every_role_is_bound_and_pods_act_as_the_account_of_theirs() -> None:
    bound = {binding["roleRef"]["name"]: binding["subjects"][0]["name"] for binding in named("RoleBinding").values()}
    assert bound.keys() == named("Role").keys() == set(ROLES.values())
    assert bound[ROLES["pod"]] == settings().kubernetes_service_account
    assert settings().kubernetes_service_account in named("ServiceAccount")
    namespaces = {each["metadata"]["namespace"] for each in OBJECTS if each["kind"] != "Namespace"}
    assert namespaces == named("Namespace").keys()


def test_the_image_has_the_client() -> None:
    assert "kubernetes" in (ROOT / "deploy" / "Dockerfile").read_text().split('".[')[1].split("]")[0].split(",")
