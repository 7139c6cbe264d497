"""The trainer's log: every line once, whatever happens to the connection."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.support.kubernetes_api import Fault, KubernetesApi
from tests.support.kubernetes_runs import a_launch, configure
from tests.support.processes import wait_until
from workers.runtimes.cluster import trainer_log
from workers.runtimes.cluster.api import ClusterApi
from workers.runtimes.cluster.manifest import job_name
from workers.runtimes.cluster.trainer_log import TrainerLog
from workers.runtimes.kubernetes import KubernetesRuntime


class Follower:
    """Reads a trainer's log to its end."""

    def __init__(self, api: KubernetesApi, job: str) -> None:
        self.cluster = api.cluster
        self.pod = api.cluster.pod(job)["metadata"]["name"]
        self.cluster_api = ClusterApi("training")
        self.log = TrainerLog(self.cluster_api, self.pod)
        self.read = bytearray()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while data := os.read(self.log.descriptor, 1 << 16):
            self.read += data
        os.close(self.log.descriptor)

    def close(self) -> bytes:
        """All that was read."""
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.cluster_api.close()
        return bytes(self.read)


@pytest.fixture
def job(api: KubernetesApi, runtime: KubernetesRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job whose pod the sidecar is in."""
    monkeypatch.setattr(trainer_log, "PAUSE", 0.02)
    launch = a_launch()
    runtime.submit(launch)
    configure(monkeypatch, config=str(api.config(tmp_path / "pod", "pod")))
    return job_name(launch)


def test_it_begins_with_the_trainer_and_ends_with_it(api: KubernetesApi, job: str) -> None:
    follower = Follower(api, job)
    wait_until(lambda: len(api.calls) > 4, "it has been asked for in vain")
    assert not follower.log._known.is_set()
    api.cluster.start(job)
    assert follower.log.await_start()
    for line in (b"one\n", b"two\n"):
        api.cluster.say(follower.pod, line)
    wait_until(lambda: follower.read == b"one\ntwo\n", "both lines are there at once")
    api.cluster.say(follower.pod, b"three\n")
    api.cluster.exit(job, 0, pod_ends=False)
    assert follower.close() == b"one\ntwo\nthree\n"


def test_no_line_is_lost_or_doubled_when_connections_break(api: KubernetesApi, job: str) -> None:
    follower = Follower(api, job)
    api.broken_logs = 5
    api.cluster.start(job)
    api.faults.extend([Fault(503), Fault(500)])
    lines = [b"line %d\n" % number for number in range(500)]
    for line in lines:
        api.cluster.say(follower.pod, line)
    api.cluster.exit(job, 1, pod_ends=False)
    assert follower.close() == b"".join(lines)
    assert api.broken_logs == 0


def test_what_is_left_is_read_when_the_pod_ends_before_its_log_was_seen(api: KubernetesApi, job: str) -> None:
    pod = api.cluster.pod(job)["metadata"]["name"]
    api.cluster.start(job)
    api.cluster.say(pod, b"no such module\n")
    api.cluster.exit(job, 1, pod_ends=False)
    follower = Follower(api, job)
    follower.log.end()
    assert follower.log.await_start()
    assert follower.close() == b"no such module\n"


def test_a_trainer_that_will_never_be_started_is_not_waited_for(api: KubernetesApi, job: str) -> None:
    follower = Follower(api, job)
    follower.log.end()
    assert not follower.log.await_start()
    assert follower.close() == b""
