"""A make-believe Kubernetes cluster: jobs and pods in memory, the job controller, deletion with grace, labels, pages.

It follows the documented behaviour with code of its own. What nodes do, the test says, or `kubernetes_node` does.
"""

from __future__ import annotations

import copy
import re
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

Object = dict[str, Any]

TRACKING = "batch.kubernetes.io/job-tracking"
OVER = ("Succeeded", "Failed")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


class Refusal(Exception):
    """An answer that says no."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Cluster:
    """One namespace. Every method may be called from any thread."""

    def __init__(self, namespace: str = "training") -> None:
        self.namespace = namespace
        self.changed = threading.Condition(threading.RLock())
        self.jobs: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        #: Names of pods by the job that they were made for.
        self.owned: defaultdict[str, list[str]] = defaultdict(list)
        #: Lines of the trainers' logs, each behind its time, by pod.
        self.logs: dict[str, list[bytes]] = {}
        #: Pods that each job ever had.
        self.started: Counter[str] = Counter()
        self.is_controller_away = False

    # What the API does.

    def create_job(self, job: Object) -> Object:
        name = job["metadata"]["name"]
        check_job(job)
        with self.changed:
            if name in self.jobs:
                raise Refusal(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
            job = copy.deepcopy(job)
            identify(job, self.namespace)
            job["spec"].setdefault("suspend", False)
            job["status"] = {}
            self.jobs[name] = job
            if not self.is_controller_away:
                self.control_job(job)
            return copy.deepcopy(job)

    def suspend_job(self, name: str, patch: Object) -> Object:
        with self.changed:
            job = self.find(self.jobs, "jobs.batch", name)
            job["spec"].update(patch["spec"])
            self.control()
            return copy.deepcopy(job)

    def delete_job(self, name: str) -> None:
        with self.changed:
            job = self.find(self.jobs, "jobs.batch", name)
            del self.jobs[name]
            for pod in self.pods_of(job):
                pod["metadata"]["finalizers"] = []
                self.mark_deleted(pod, pod["spec"].get("terminationGracePeriodSeconds", 30))
            self.control()

    def delete_pod(self, name: str, options: Object) -> None:
        with self.changed:
            pod = self.find(self.pods, "pods", name)
            wanted = options.get("preconditions", {}).get("uid")
            if wanted not in (None, pod["metadata"]["uid"]):
                raise Refusal(409, "Conflict", "the UID in the precondition does not match")
            grace = options.get("gracePeriodSeconds")
            self.mark_deleted(pod, pod["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace)
            self.control()

    def select(self, objects: dict[str, Object], selector: str, limit: int, start: int) -> tuple[list[Object], str]:
        """A page, and how to ask for the next one."""
        with self.changed:
            labelled = [(one, one["metadata"].get("labels", {})) for _, one in sorted(objects.items())]
            wanted = requirements(selector)
            found = [one for one, labels in labelled if all(labels.get(key) in values for key, values in wanted)]
            page = copy.deepcopy(found[start : start + limit])
        return page, str(start + limit) if start + limit < len(found) else ""

    def find(self, objects: dict[str, Object], kind: str, name: str) -> Object:
        if name not in objects:
            raise Refusal(404, "NotFound", f'{kind} "{name}" not found')
        return objects[name]

    def mark_deleted(self, pod: Object, grace: int) -> None:
        """Graceful deletion: at once if no node has it; a second one may only come sooner, counted from the first."""
        metadata = pod["metadata"]
        if not pod["spec"].get("nodeName") or is_over(pod):
            grace = 0
        given = metadata.get("deletionGracePeriodSeconds")
        if given is not None:
            if grace >= given:
                return
            first = datetime.fromisoformat(metadata["deletionTimestamp"]) - timedelta(seconds=given)
        else:
            first = datetime.now(UTC)
        metadata["deletionTimestamp"] = text_of(first + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace
        if grace == 0 and not is_over(pod):
            pod["status"]["phase"] = "Failed"  # the collector of pods that no node has
        self.forget_if_gone(pod)

    def forget_if_gone(self, pod: Object) -> None:
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata and is_over(pod) and not metadata["finalizers"]:
            self.pods.pop(metadata["name"], None)

    # What the job controller does.

    def control(self) -> None:
        """Bring every job's pods and status to where they belong."""
        with self.changed:
            for job in [] if self.is_controller_away else list(self.jobs.values()):
                self.control_job(job)
            self.changed.notify_all()

    def control_job(self, job: Object) -> None:
        status, spec = job["status"], job["spec"]
        for pod in self.pods_of(job):
            if is_over(pod) and TRACKING in pod["metadata"]["finalizers"]:
                outcome = "succeeded" if pod["status"]["phase"] == "Succeeded" else "failed"
                status[outcome] = status.get(outcome, 0) + 1
                pod["metadata"]["finalizers"].remove(TRACKING)
                self.forget_if_gone(pod)
        pods = [pod for pod in self.pods_of(job) if not is_over(pod)]
        active = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        status["active"], status["terminating"] = len(active), len(pods) - len(active)
        if is_finished(job):
            return
        if status.get("failed", 0) > spec["backoffLimit"]:
            status["conditions"] = [condition("Failed", "BackoffLimitExceeded")]
        elif status.get("succeeded", 0) >= spec["completions"]:
            status["conditions"] = [condition("Complete", "CompletionsReached")]
        elif spec["suspend"]:
            for pod in active:
                self.mark_deleted(pod, pod["spec"].get("terminationGracePeriodSeconds", 30))
        elif not pods:  # podReplacementPolicy: Failed
            self.create_pod(job)
            status["active"] = 1

    def create_pod(self, job: Object) -> None:
        template = copy.deepcopy(job["spec"]["template"])
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
        metadata = {"name": name, "finalizers": [TRACKING], "ownerReferences": [owner], **template["metadata"]}
        pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        identify(pod, self.namespace)
        pod["status"] = {"phase": "Pending", "conditions": []}
        self.pods[name] = pod
        self.owned[job["metadata"]["uid"]].append(name)
        self.logs[name] = []
        self.started[job["metadata"]["name"]] += 1

    def pods_of(self, job: Object) -> list[Object]:
        return [self.pods[name] for name in self.owned[job["metadata"]["uid"]] if name in self.pods]

    # What schedulers and nodes do, as the test says.

    def pod(self, job: str) -> Object:
        """The one pod of a job."""
        with self.changed:
            (found,) = self.pods_of(self.jobs[job])
            return found

    def wait_for_node(self, job: str, message: str) -> None:
        """No node has room for the job's pod."""
        with self.changed:
            unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            self.pod(job)["status"]["conditions"] = [unscheduled]

    def wait_on_node(self, job: str, reason: str, message: str = "") -> None:
        """The pod's trainer cannot be started yet."""
        self.set_trainer(self.pod(job), {"waiting": {"reason": reason, "message": message}})

    def start(self, job: str) -> None:
        """The pod's containers run."""
        with self.changed:
            pod = self.pod(job)
            pod["status"]["phase"] = "Running"
            self.set_trainer(pod, {"running": {"startedAt": text_of(datetime.now(UTC))}})

    def exit(self, job: str, code: int, *, reason: str = "", message: str = "", pod_ends: bool = True) -> None:
        """The pod's trainer ends, and then its sidecar."""
        self.end_trainer(self.pod(job), code, reason, message)
        if pod_ends:
            self.end_pod(self.pod(job))

    def end_trainer(self, pod: Object, code: int, reason: str = "", message: str = "") -> None:
        end = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "message": message}
        self.set_trainer(pod, {"terminated": {**end, "finishedAt": text_of(datetime.now(UTC))}})

    def end_pod(self, pod: Object, **status: Any) -> None:
        """No container of the pod is left."""
        with self.changed:
            state = trainer_state(pod).get("terminated", {"exitCode": 1})
            pod["status"].update({"phase": "Failed" if state["exitCode"] else "Succeeded", **status})
            self.forget_if_gone(pod)
            self.control()

    def lose(self, job: str) -> None:
        """Somebody forces the pod out of the API, whatever its processes do."""
        with self.changed:
            del self.pods[self.pod(job)["metadata"]["name"]]
            self.control()

    def set_trainer(self, pod: Object, state: Object) -> None:
        with self.changed:
            pod["spec"].setdefault("nodeName", "node-1")
            pod["status"]["containerStatuses"] = [{"name": "trainer", "state": state}]
            self.changed.notify_all()

    def say(self, pod: str, line: bytes) -> None:
        """The trainer prints a line."""
        with self.changed:
            time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}{len(self.logs[pod]) % 1000:03}Z "
            self.logs[pod].append(time.encode() + line)
            self.changed.notify_all()


def identify(one: Object, namespace: str) -> None:
    one["metadata"].update(
        namespace=namespace, uid=str(uuid.uuid4()), creationTimestamp=text_of(datetime.now(UTC)), resourceVersion="1"
    )


def check_job(job: Object) -> None:
    """The part of the API's validation that a runtime could fall foul of."""
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    wrong: list[str] = []
    if len(name) > 63 or not NAME.fullmatch(name):
        wrong.append(f'metadata.name: Invalid value: "{name}"')
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        wrong.append("spec.template.spec.restartPolicy: Required value: valid values: OnFailure, Never")
    labels = [job["metadata"].get("labels", {}), job["spec"]["template"]["metadata"].get("labels", {})]
    wrong += [f'labels: Invalid value: "{value}"' for each in labels for value in each.values() if not is_label(value)]
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        where = f"spec.template.spec.containers[{container['name']}]"
        if not container.get("image"):
            wrong.append(f"{where}.image: Required value")
        amounts = container.get("resources", {})
        wrong += [
            f'{where}.resources: Invalid value: "{amount}"'
            for kind in amounts.values()
            for amount in kind.values()
            if not QUANTITY.fullmatch(amount)
        ]
        mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
        wrong += [f'{where}.volumeMounts: Not found: "{name}"' for name in sorted(mounts - volumes)]
    if wrong:
        raise Refusal(422, "Invalid", f'Job.batch "{name}" is invalid: {", ".join(wrong)}')


def is_label(value: str) -> bool:
    return len(value) <= 63 and LABEL.fullmatch(value) is not None


def requirements(selector: str) -> list[tuple[str, set[str]]]:
    """Labels, and the values that each may have."""
    wanted = []
    for each in filter(None, re.split(r",(?![^(]*\))", selector)):
        among = re.fullmatch(r"(\S+) in \((.*)\)", each)
        key, values = (among[1], among[2].split(",")) if among else (each.partition("=")[0], [each.partition("=")[2]])
        wanted.append((key, set(values)))
    return wanted


def condition(kind: str, reason: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": ""}


def is_over(pod: Object) -> bool:
    return pod["status"]["phase"] in OVER


def is_finished(job: Object) -> bool:
    conditions: Iterable[Object] = job["status"].get("conditions", ())
    return any(each["type"] in ("Complete", "Failed") for each in conditions)


def trainer_state(pod: Object) -> Object:
    for container in pod["status"].get("containerStatuses", ()):
        state: Object = container["state"]
        return state
    return {}


def text_of(instant: datetime) -> str:
    """As the API writes instants: to the second."""
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
