"""A make-believe cluster, and a runtime that launches there through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kubernetes_api import KubernetesApi
from tests.support.kubernetes_cluster import Cluster
from tests.support.kubernetes_runs import a_launch, configure
from tests.workers.runtimes.contract import NewLaunch
from workers.runtimes.kubernetes import KubernetesRuntime


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi() as serving:
        yield serving


@pytest.fixture
def cluster(api: KubernetesApi) -> Cluster:
    return api.cluster


@pytest.fixture
def runtime(api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesRuntime]:
    configure(monkeypatch, config=str(api.config(tmp_path / "kubeconfig")))
    made = KubernetesRuntime()
    yield made
    made.api.close()


@pytest.fixture
def new_launch() -> NewLaunch:
    return a_launch
