"""How a launch fares, from what the cluster says of its job and pods, and how it is ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.training_v2.runtime import (
    Alive,
    Exited,
    Gone,
    Waiting,
)
from tests.support.kubernetes_cluster import Cluster, text_of
from tests.support.kubernetes_runs import MINUTE, a_launch, age, grace_of, look
from workers.runtimes.cluster.manifest import FLUSH, job_name
from workers.runtimes.kubernetes import KubernetesRuntime


def test_a_launch_waits_until_there_is_a_node_and_an_image(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    cluster.is_controller_away = True
    name = job_name(launch := a_launch())
    assert runtime.submit(launch) == Waiting("waiting for its pod to be created")
    cluster.is_controller_away = False
    cluster.control()
    assert look(runtime, launch) == Waiting("waiting for a node")
    cluster.wait_for_node(name, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    assert look(runtime, launch) == Waiting("Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    cluster.pod(name)["status"]["conditions"] = []
    cluster.wait_on_node(name, "ImagePullBackOff", 'Back-off pulling image "trainer:1"')
    assert look(runtime, launch) == Waiting('ImagePullBackOff: Back-off pulling image "trainer:1"')
    cluster.wait_on_node(name, "PodInitializing")
    assert look(runtime, launch) == Waiting("PodInitializing")
    cluster.start(name)
    assert look(runtime, launch) == Alive()


def test_a_trainer_has_ended_once_its_sidecar_has_too(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.start(job_name(launch))
    cluster.exit(job_name(launch), 0, pod_ends=False)
    assert look(runtime, launch) == Alive()
    cluster.end_pod(cluster.pod(job_name(launch)))
    assert look(runtime, launch) == Exited(0)
    assert runtime.submit(launch) == Exited(0)
    assert cluster.started[job_name(launch)] == 1


def test_an_end_is_explained(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    ends: list[tuple[dict[str, Any], str]] = [
        ({"code": 137, "reason": "OOMKilled"}, "more memory than the run's resources allow (OOMKilled)"),
        ({"code": 1, "message": "Traceback\nValueError: no"}, "its trainer ended with exit code 1: ValueError: no"),
        ({"code": 128, "reason": "StartError", "message": "no such file: train"}, "exit code 128: no such file: train"),
    ]
    for how, reason in ends:
        runtime.submit(launch := a_launch())
        cluster.exit(job_name(launch), **how)
        end = look(runtime, launch)
        assert isinstance(end, Exited)
        assert (end.code, end.signalled) == (how["code"], False)
        assert reason in end.reason


def test_who_was_evicted_was_told_to_end(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    pod = cluster.pod(name)
    cluster.end_trainer(pod, 0)
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
    cluster.end_pod(pod, conditions=[drained])
    assert look(runtime, launch) == Exited(0, signalled=True, reason="EvictionByEvictionAPI: drained")


def test_who_was_evicted_before_it_began_is_gone(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.end_pod(cluster.pod(job_name(launch)), reason="Evicted", message="the node was low on memory")
    assert look(runtime, launch) == Gone("Evicted: the node was low on memory")


def test_a_pod_whose_node_is_gone_says_so(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    lost = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "no such node"}
    cluster.end_pod(cluster.pod(name), conditions=[lost])
    assert look(runtime, launch) == Gone("DeletionByPodGC: no such node")


def test_a_trainer_whose_reports_are_not_all_stored_did_not_end_well(
    runtime: KubernetesRuntime, cluster: Cluster
) -> None:
    for code, end in (
        (0, Exited(0)),
        (1, Exited(0, signalled=True, reason="what it reported could not be stored")),
    ):
        runtime.submit(launch := a_launch())
        cluster.start(name := job_name(launch))
        cluster.exit(name, 0, pod_ends=False)
        sidecar = {"name": "sidecar", "state": {"terminated": {"exitCode": code}}}
        cluster.end_pod(cluster.pod(name), initContainerStatuses=[sidecar])
        assert look(runtime, launch) == end


def test_a_pod_that_vanished_was_not_seen_to_end_well(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    """Its job says that it succeeded; so it would if the pod was drained and its trainer left on SIGTERM."""
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    cluster.delete_pod(cluster.pod(name)["metadata"]["name"], {})
    cluster.exit(name, 0)
    assert cluster.jobs[name]["status"]["succeeded"] == 1
    assert look(runtime, launch) == Gone()


def test_a_second_pod_of_a_launch_does_not_hide_how_the_first_is(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    cluster.lose(name)
    assert cluster.started[name] == 2
    assert isinstance(look(runtime, launch), Waiting)
    runtime.terminate(launch, timedelta())
    assert look(runtime, launch) == Gone()


def test_the_runs_own_grace_period_goes_with_the_deletion(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    runtime.terminate(launch, timedelta(seconds=300))
    assert grace_of(cluster, name) == 300 > FLUSH
    assert cluster.jobs[name]["spec"]["suspend"] is True
    assert look(runtime, launch) == Alive()


def test_the_deadline_holds_however_often_it_is_told(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    """A new grace period would be counted from the first deletion; so what is left of the old one must not be sent."""
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    runtime.terminate(launch, timedelta(seconds=300))
    pod = cluster.pod(name)["metadata"]
    age(pod, seconds=100)
    runtime.terminate(launch, timedelta(seconds=200))
    assert grace_of(cluster, name) == 300
    runtime.terminate(launch, timedelta(seconds=50))
    assert grace_of(cluster, name) in (149, 150, 151)
    left = datetime.fromisoformat(pod["deletionTimestamp"]) - datetime.now(UTC)
    assert timedelta(seconds=46) < left < timedelta(seconds=52)
    runtime.terminate(launch, timedelta())
    assert 1 <= grace_of(cluster, name) <= 101


def test_no_grace_is_a_second_so_that_nothing_is_forgotten_while_it_runs(
    runtime: KubernetesRuntime, cluster: Cluster
) -> None:
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    runtime.terminate(launch, timedelta())
    assert grace_of(cluster, name) == 1
    assert look(runtime, launch) == Alive()
    cluster.end_trainer(cluster.pod(name), 137)
    assert look(runtime, launch) == Alive()
    cluster.end_pod(cluster.pod(name))
    assert look(runtime, launch) == Gone()


def test_who_was_deleted_ended_because_he_was_told_to(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.start(name := job_name(launch))
    runtime.terminate(launch, MINUTE)
    cluster.is_controller_away = True  # it has not counted the pod yet, which stays for so long
    cluster.exit(name, 0)
    assert look(runtime, launch) == Exited(0, signalled=True)


def test_who_had_ended_before_he_was_told_ended_by_himself(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    runtime.submit(launch := a_launch())
    cluster.exit(job_name(launch), 3)
    runtime.terminate(launch, timedelta())
    end = look(runtime, launch)
    assert isinstance(end, Exited)
    assert (end.code, end.signalled) == (3, False)


def test_who_had_ended_long_before_his_pod_was_deleted_ended_by_himself(
    runtime: KubernetesRuntime, cluster: Cluster
) -> None:
    """His sidecar was still storing what he had reported; a node's clock is not the API's, so seconds do not count."""
    for seconds, signalled in ((60, False), (5, True)):
        runtime.submit(launch := a_launch())
        cluster.start(name := job_name(launch))
        cluster.exit(name, 0, pod_ends=False)
        end = cluster.pod(name)["status"]["containerStatuses"][0]["state"]["terminated"]
        end["finishedAt"] = text_of(datetime.now(UTC) - timedelta(seconds=seconds))
        runtime.terminate(launch, MINUTE)
        cluster.is_controller_away = True  # it has not counted the pod yet, which stays for so long
        cluster.end_pod(cluster.pod(name))
        assert look(runtime, launch) == Exited(0, signalled=signalled)
        cluster.is_controller_away = False


def test_a_job_that_was_terminated_before_it_had_a_pod_never_gets_one(
    runtime: KubernetesRuntime, cluster: Cluster
) -> None:
    cluster.is_controller_away = True
    runtime.submit(launch := a_launch())
    runtime.terminate(launch, MINUTE)
    cluster.is_controller_away = False
    cluster.control()
    assert look(runtime, launch) == Gone()
    assert cluster.started[job_name(launch)] == 0


def test_names_that_nobody_needs_any_more_are_given_back(runtime: KubernetesRuntime, cluster: Cluster) -> None:
    old, new, running = a_launch(), a_launch(), a_launch()
    for launch in (old, new):
        runtime.terminate(launch, MINUTE)
    runtime.submit(running)
    for launch in (old, running):
        cluster.jobs[job_name(launch)]["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    assert runtime.sweep() == 1
    assert sorted(cluster.jobs) == sorted([job_name(new), job_name(running)])


def test_a_launch_is_placed_in_its_cluster_and_namespace(runtime: KubernetesRuntime) -> None:
    assert runtime.place == "east/training"
    assert runtime.capacity is None
