"""The Kubernetes runtime: a launch is a Job of one pod, and the Job's name is the memory that it was started.

Neither the config nor a secret is written into the Job: the sidecar in its pod reads them for itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import ValidationError as Malformed

from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from orchestrator.training_v2.runtime import Launch, LaunchName, LaunchRefused, Observation
from workers.runtimes.cluster.api import ClusterApi, Object, Rejected
from workers.runtimes.cluster.manifest import LAUNCH, OURS, RUN, job_body, job_name, labels, tombstone_body
from workers.runtimes.cluster.pods import end_pod, instant, observed

log = structlog.get_logger(__name__)

#: Runs that one question names: of what ended long ago there may be far more than of what lives, and the length of
#: a URL is limited.
BATCH = 100
#: What the API answers to a job that it will never take: it is invalid, or too large.
INVALID = (400, 413, 422)


class KubernetesRuntime:
    """Launches training runs in one namespace of a cluster, whose queue it leaves them to."""

    def __init__(self) -> None:
        chosen = settings()
        self.api = ClusterApi(chosen.kubernetes_namespace)
        self.settings = chosen

    @property
    def place(self) -> str:
        """The cluster's name in the settings, and the namespace."""
        return f"{self.settings.kubernetes_cluster}/{self.settings.kubernetes_namespace}"

    @property
    def capacity(self) -> None:
        """Whatever does not fit waits in the cluster."""
        return

    def submit(self, launch: Launch) -> Observation:
        """Create the launch's Job unless there is one, and see how it fares.

        Raises:
            LaunchRefused: it has no image, or the API calls the Job invalid or too large.
            Unavailable: the API cannot be asked, or does not let us.
        """
        if not self._is_known(launch):
            self._create(launch)
        return self.observe([launch])[0]

    def observe(self, launches: Sequence[LaunchName]) -> Sequence[Observation]:
        """How the launches fare: two lists for every hundred of them.

        Raises:
            Unavailable: the API cannot be asked.
        """
        batches = [launches[start : start + BATCH] for start in range(0, len(launches), BATCH)]
        return [observation for batch in batches for observation in self._observe(batch)]

    def terminate(self, launch: LaunchName, grace: timedelta) -> None:
        """Delete the launch's pod with this grace period, and suspend its Job; without one, take its name.

        Raises:
            Unavailable: the API cannot be asked; nothing, or not all of it, was done.
        """
        job = self.api.job(job_name(launch))
        if job is None and self._bury(launch):
            return
        # First the pod: a Job that is suspended deletes it as well, with a grace period that is not the run's.
        found = self.api.pods(_selector([launch]))
        for pod in found.items:
            if pod["metadata"]["labels"].get(LAUNCH) == str(launch.number):
                end_pod(self.api, pod, grace, found.now)
        if job is None or not job["spec"].get("suspend"):
            self._suspend(launch)

    def sweep(self, limit: int = 500) -> int:
        """Remove Jobs that never ran and are as old as ended ones may get; returns how many.

        The cluster removes ended Jobs by itself; those which keep a name from being used never end.
        """
        oldest = datetime.now(UTC) - timedelta(days=self.settings.kubernetes_keep_days)
        try:
            doomed = [
                str(job["metadata"]["name"])
                for job in self.api.jobs("=".join(OURS)).items
                if _is_tombstone(job) and instant(job["metadata"]["creationTimestamp"]) < oldest
            ][:limit]
            for name in doomed:
                self.api.delete_job(name)
        except Unavailable as error:
            log.warning("runtime_away", place=self.place, error=error.body)
            return 0
        return len(doomed)

    def _observe(self, launches: Sequence[LaunchName]) -> list[Observation]:
        selector = _selector(launches)
        jobs = {str(job["metadata"]["name"]): job for job in self.api.jobs(selector).items}
        pods = defaultdict(list)
        for pod in self.api.pods(selector).items:
            pods[pod["metadata"]["labels"].get(RUN), pod["metadata"]["labels"].get(LAUNCH)].append(pod)
        return [observed(jobs.get(job_name(launch)), pods[launch.run_id, str(launch.number)]) for launch in launches]

    def _is_known(self, launch: LaunchName) -> bool:
        job = self.api.job(job_name(launch))
        if job is not None and not _is_of(job, launch):
            raise LaunchRefused(f"another Kubernetes job has the name {job_name(launch)}: remove it")
        return job is not None

    def _create(self, launch: Launch) -> None:
        if not launch.image:
            raise LaunchRefused("the run's blueprint has no image, which a Kubernetes job needs")
        if not self.settings.kubernetes_sidecar_image:
            raise Unavailable("no image for the sidecar: set ORCHESTRATOR_KUBERNETES_SIDECAR_IMAGE")
        try:
            self.api.create_job(job_body(launch, self.settings))
        except Malformed as error:
            raise LaunchRefused(f"this is no Kubernetes job: {error}") from error
        except Rejected as rejected:
            if rejected.status in INVALID:
                raise LaunchRefused(f"the Kubernetes API refused the job: {rejected.message}") from rejected
            if rejected.status == 404:
                raise Unavailable(f"no namespace {self.api.namespace!r}: {rejected.message}") from rejected
            # 409: somebody was faster, unless it was a quota that two have changed at a time.
            if rejected.status != 409 or not self._is_known(launch):
                raise Unavailable(f"the Kubernetes API did not take the job: {rejected.message}") from rejected

    def _bury(self, launch: LaunchName) -> bool:
        """Take the name of a launch that was never submitted; False if it was submitted just now."""
        try:
            self.api.create_job(tombstone_body(launch, self.settings))
        except Rejected as rejected:
            if rejected.status == 409:
                return False
            raise Unavailable(f"the Kubernetes API refused a job's tombstone: {rejected.message}") from rejected
        return True

    def _suspend(self, launch: LaunchName) -> None:
        try:
            self.api.suspend_job(job_name(launch))
        except Rejected as rejected:
            raise Unavailable(f"the Kubernetes API did not suspend a job: {rejected.message}") from rejected


def _selector(launches: Sequence[LaunchName]) -> str:
    runs = sorted({launch.run_id for launch in launches})
    return f"{'='.join(OURS)},{RUN} in ({','.join(runs)})"


def _is_of(job: Object, launch: LaunchName) -> bool:
    known: dict[str, str] = job["metadata"].get("labels", {})
    return labels(launch).items() <= known.items()


def _is_tombstone(job: Object) -> bool:
    """Whether no pod of the job runs, and none will."""
    status = job.get("status", {})
    return bool(job["spec"].get("suspend")) and not (status.get("active") or status.get("terminating"))
