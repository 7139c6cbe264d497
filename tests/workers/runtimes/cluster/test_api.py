"""What the API refuses, and what becomes of a launch while it is away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from orchestrator.errors import Unavailable
from orchestrator.training_v2.runtime import (
    Alive,
    Launch,
    LaunchRefused,
    Waiting,
)
from tests.support.kubernetes_api import Fault, Handler, KubernetesApi
from tests.support.kubernetes_cluster import Cluster
from tests.support.kubernetes_runs import MINUTE, a_launch, configure, look
from workers.runtimes.cluster import api as cluster_api
from workers.runtimes.cluster.manifest import job_body, job_name
from workers.runtimes.kubernetes import KubernetesRuntime


def test_another_ones_job_of_that_name_is_not_taken_for_ours(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.jobs[job_name(launch)]["metadata"]["labels"] = {}
    with pytest.raises(LaunchRefused, match="another Kubernetes job has the name"):
        runtime.submit(launch)


@pytest.mark.parametrize("launch, why", [(a_launch(image=None), "no image"), (a_launch(number=10**40), "invalid")])
def test_what_can_never_run_is_refused(runtime: KubernetesRuntime, cluster: Cluster, launch: Launch, why: str) -> None:
    with pytest.raises(LaunchRefused, match=why):
        runtime.submit(launch)
    assert not cluster.jobs


@pytest.mark.parametrize("status", [200, 302, 400, 404, 405, 413])
def test_what_something_before_the_api_answers_is_no_answer_of_the_api(
    runtime: KubernetesRuntime, api: KubernetesApi, status: int
) -> None:
    launch, page = a_launch(), Fault(status, page="<html>Bitte melden Sie sich an, Müller</html>".encode("latin-1"))
    runtime.submit(launch)
    asks: list[Callable[[], object]] = [
        lambda: runtime.submit(launch),
        lambda: look(runtime, launch),
        lambda: runtime.terminate(launch, MINUTE),
    ]
    for ask in asks:
        api.faults.append(page)
        with pytest.raises(Unavailable):
            ask()
    api.faults.append(page)
    assert runtime.sweep() == 0
    new = a_launch()
    api.faults.extend([Fault(), page])
    with pytest.raises(Unavailable):
        runtime.submit(new)
    assert isinstance(runtime.submit(new), Waiting)
    assert isinstance(look(runtime, launch), Waiting)


@pytest.mark.parametrize("status", [400, 404, 405, 422])
def test_a_list_that_the_api_refuses_says_nothing_of_any_launch(
    runtime: KubernetesRuntime, api: KubernetesApi, status: int
) -> None:
    api.faults.append(Fault(status))
    with pytest.raises(Unavailable, match="as the test says"):
        look(runtime, a_launch())


@pytest.mark.parametrize("status", [405, 409, 415])
def test_only_a_job_that_the_api_calls_invalid_is_given_up(
    runtime: KubernetesRuntime, api: KubernetesApi, status: int
) -> None:
    api.faults.extend([Fault(), Fault(status)])
    with pytest.raises(Unavailable, match="did not take the job: as the test says"):
        runtime.submit(launch := a_launch())
    assert isinstance(runtime.submit(launch), Waiting)


@pytest.mark.parametrize("status", [401, 403, 410, 429, 500, 503])
def test_what_may_pass_is_waited_for(runtime: KubernetesRuntime, api: KubernetesApi, status: int) -> None:
    launch = a_launch()
    for _ in range(2):
        api.faults.append(Fault(status))
        with pytest.raises(Unavailable, match=str(status)):
            runtime.submit(launch)
    api.faults.append(Fault(status))
    with pytest.raises(Unavailable):
        runtime.terminate(launch, MINUTE)
    assert isinstance(runtime.submit(launch), Waiting)


def test_an_api_that_falls_silent_is_not_waited_for(
    runtime: KubernetesRuntime, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_api, "TIMEOUT", (0.2, 0.2))
    api.faults.append(Fault(delay=0.5))
    with pytest.raises(Unavailable, match="does not answer"):
        look(runtime, a_launch())


def test_a_job_whose_creation_was_not_answered_is_found_by_the_next_submission(
    runtime: KubernetesRuntime, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_api, "TIMEOUT", (0.2, 0.2))
    launch = a_launch()
    api.faults.extend([Fault(), Fault(delay=0.5, after=True)])
    with pytest.raises(Unavailable):
        runtime.submit(launch)
    assert isinstance(runtime.submit(launch), Waiting)
    assert api.cluster.started[job_name(launch)] == 1


def test_a_client_that_is_not_installed_is_named(runtime: KubernetesRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_api, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'orchestrator\[kubernetes\]'"):
        look(runtime, a_launch())


def test_nobody_is_at_home(runtime: KubernetesRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, config=str(tmp_path / "nothing"))
    with pytest.raises(Unavailable, match="no Kubernetes cluster"):
        KubernetesRuntime().observe([a_launch()])
    with KubernetesApi() as other:
        gone = other.config(tmp_path / "gone")
    configure(monkeypatch, config=str(gone))
    with pytest.raises(Unavailable, match="does not answer"):
        KubernetesRuntime().observe([a_launch()])


def test_a_namespace_that_is_not_there_is_waited_for(runtime: KubernetesRuntime) -> None:
    runtime.api.namespace = "elsewhere"
    with pytest.raises(Unavailable, match="no namespace 'elsewhere'"):
        runtime.submit(a_launch())


def test_a_thousand_launches_are_observed_in_a_few_calls(runtime: KubernetesRuntime, api: KubernetesApi) -> None:
    launches = [a_launch() for _ in range(1000)]
    for launch, number in zip(launches, count(), strict=False):
        api.cluster.create_job(job_body(launch, runtime.settings))
        if number % 2:
            api.cluster.start(job_name(launch))
    api.calls.clear()
    seen = runtime.observe(launches)
    assert [type(one) for one in seen] == [Waiting, Alive] * 500
    assert len(api.calls) == 20


def test_what_time_it_is_the_api_says(
    runtime: KubernetesRuntime, api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines of pods are of its clock, and a node's may be another."""
    monkeypatch.setattr(Handler, "date_time_string", lambda *_: "Thu, 01 Jan 2026 00:00:00 GMT")
    runtime.submit(launch := a_launch())
    pod = api.cluster.pod(job_name(launch))["metadata"]
    configure(monkeypatch, config=str(api.config(tmp_path / "pod", "pod")))
    sidecar_api = cluster_api.ClusterApi("training")
    found, now = sidecar_api.timed_pod(pod["name"])
    sidecar_api.close()
    assert found is not None
    assert (found["metadata"]["uid"], now) == (pod["uid"], datetime(2026, 1, 1, tzinfo=UTC))
