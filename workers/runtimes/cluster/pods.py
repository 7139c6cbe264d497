"""What a job and its pods say about a launch, and how a pod is ended in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from orchestrator.training_v2.runtime import Alive, Exited, Gone, Observation, Waiting
from workers.runtimes.cluster.api import ClusterApi, Object
from workers.runtimes.cluster.manifest import SIDECAR, TRAINER

#: Phases of pods of which no container runs, and none will.
OVER = ("Succeeded", "Failed")
#: A container's end that a kubelet made up because it found no trace of it.
UNKNOWN = "ContainerStatusUnknown"
#: A pod is killed at whole seconds: an end that is so much sooner or later is the same end.
SLACK = timedelta(seconds=1)
#: What a node's clock and the API's differ by at most.
SKEW = timedelta(seconds=10)


def observed(job: Object | None, pods: Sequence[Object]) -> Observation:
    """How a launch fares whose job was looked up before its pods were.

    In the other order a pod could come and go in between, and would be missed.
    """
    for pod in pods:
        if not is_over(pod):
            return _under_way(pod)
    if pods:
        # Only the first pod of a launch is allowed to start its trainer.
        return _ended(min(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])))
    if job is None or job["spec"].get("suspend") or _is_finished(job):
        return Gone()
    return Waiting(_condition(job, "Failed") or "waiting for its pod to be created")


def is_over(pod: Object) -> bool:
    """Whether no process of the pod is left; the kubelet says so only when it has seen to it."""
    return pod["status"].get("phase") in OVER


def trainer_state(pod: Object) -> Object:
    """`{"waiting" | "running" | "terminated": …}` of the trainer's container; empty as long as nobody knows."""
    for container in pod["status"].get("containerStatuses", ()):
        if container["name"] == TRAINER:
            state: Object = container["state"]
            return state
    return {}


def end_pod(api: ClusterApi, pod: Object, grace: timedelta, now: datetime) -> None:
    """Have the pod killed within `grace` from `now`, the API's clock; an earlier end that was set already holds.

    One second is the least: at none the API would forget the pod while its processes may still run.
    """
    if is_over(pod):
        return
    seconds = max(1, math.ceil(grace.total_seconds()))
    deadline = pod["metadata"].get("deletionTimestamp")
    if deadline is not None:
        # A new grace period counts from when the deletion was first asked for.
        given = int(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        too_late = instant(deadline) - (now + grace)
        if too_late <= SLACK or given <= 1:
            return
        seconds = max(1, given - int(too_late.total_seconds()))
    api.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"], seconds)


def instant(text: str) -> datetime:
    """An instant as the API writes it, of which it may know more digits than we do."""
    return datetime.fromisoformat(text)


def _under_way(pod: Object) -> Observation:
    state = trainer_state(pod)
    if "running" in state or "terminated" in state:
        return Alive()
    waiting = state.get("waiting", {})
    for container in (*pod["status"].get("initContainerStatuses", ()), {"state": state}):
        reason = container["state"].get("waiting", {}).get("reason")
        if reason not in (None, "PodInitializing", "ContainerCreating"):
            return Waiting(_sentence(reason, container["state"]["waiting"].get("message")))
    return Waiting(_unscheduled(pod) or waiting.get("reason") or "waiting for a node")


def _unscheduled(pod: Object) -> str:
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _sentence(condition.get("reason"), condition.get("message"))
    return ""


def _ended(pod: Object) -> Observation:
    end, disturbed = trainer_state(pod).get("terminated"), _disruption(pod)
    if end is None or end.get("reason") == UNKNOWN:
        return Gone(disturbed)
    if _was_told(pod, end, disturbed):
        return Exited(int(end["exitCode"]), signalled=True, reason=disturbed or _reason(end))
    if not _is_stored(pod):
        return Exited(int(end["exitCode"]), signalled=True, reason="what it reported could not be stored")
    return Exited(int(end["exitCode"]), reason=_reason(end))


def _was_told(pod: Object, end: Object, disturbed: str) -> bool:
    """Whether the trainer was told to end, and had not ended long before that."""
    deadline, ended = pod["metadata"].get("deletionTimestamp"), end.get("finishedAt")
    if deadline is None or ended is None or disturbed:
        return deadline is not None or bool(disturbed)
    grace = timedelta(seconds=int(pod["metadata"].get("deletionGracePeriodSeconds") or 0))
    return instant(ended) > instant(deadline) - grace - SKEW


def _is_stored(pod: Object) -> bool:
    """Whether the sidecar says so, by its exit code, if the pod knows that."""
    for container in pod["status"].get("initContainerStatuses", ()):
        if container["name"] == SIDECAR:
            return int(container["state"].get("terminated", {}).get("exitCode", 0)) == 0
    return True


def _disruption(pod: Object) -> str:
    """Why the cluster ended the pod, if it did: for another, for its node, for what it used of a node."""
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _sentence(condition.get("reason"), condition.get("message"))
    if pod["status"].get("reason") == "Evicted":
        return _sentence("Evicted", pod["status"].get("message"))
    return ""


def _reason(end: Object) -> str:
    code, said = int(end["exitCode"]), str(end.get("message") or "").strip().splitlines()
    if end.get("reason") == "OOMKilled":
        return "its trainer used more memory than the run's resources allow (OOMKilled)"
    if code == 0:
        return ""
    return f"its trainer ended with exit code {code}" + (f": {said[-1][:500]}" if said else "")


def _is_finished(job: Object) -> bool:
    return any(
        condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
        for condition in job.get("status", {}).get("conditions", ())
    )


def _condition(job: Object, kind: str) -> str:
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] == kind:
            return _sentence(condition.get("reason"), condition.get("message"))
    return ""


def _sentence(reason: str | None, message: str | None) -> str:
    return ": ".join(part for part in (reason, message) if part)
