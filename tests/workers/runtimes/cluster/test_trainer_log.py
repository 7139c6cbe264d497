"""The trainer's log: every line once, whatever happens to the connection."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

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


def test_a_trainer_that_prints_without_lines_is_followed(api: KubernetesApi, job: str) -> None:
    follower = Follower(api, job)
    api.cluster.start(job)
    api.cluster.say(follower.pod, b"." * 200_000)
    wait_until(lambda: len(follower.read) == 200_000, "what was printed is there, though no line has ended")
    api.cluster.exit(job, 0, pod_ends=False)
    assert follower.close() == b"." * 200_000


@dataclass
class Told:
    """An API that tells what a log holds, connection by connection, in pieces of any size."""

    connections: list[bytes]
    size: int

    def pod(self, name: str) -> Mapping[str, Any]:
        end: Mapping[str, Any] = {} if self.connections else {"terminated": {}}
        return {"status": {"containerStatuses": [{"name": "trainer", "state": end}]}}

    @contextmanager
    def log(self, pod: str, container: str, since: datetime | None) -> Iterator[Iterator[bytes]]:
        data = self.connections.pop(0)
        yield (data[start : start + self.size] for start in range(0, len(data), self.size))


def line(second: int, text: str) -> bytes:
    return f"2026-01-01T00:00:{second:02}.000000001Z {text}".encode()


A, B, C, D = line(10, "a\n"), line(12, "b\n"), line(9, "c\n"), line(9, "d, at the same time\n")


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "connections, expected",
    [
        ([A + B + C + D], b"a\nb\nc\nd, at the same time\n"),
        ([A + B + C, A + B + C + D], b"a\nb\nc\nd, at the same time\n"),
        ([A + B + C + D, C + D, C + D + line(13, "e\n")], b"a\nb\nc\nd, at the same time\ne\n"),
        ([A + line(11, "half "), A + line(11, "half a line\n") + B], b"a\nhalf a line\nb\n"),
        ([A + C, line(12, "after a rotation\n") + D], b"a\nc\nafter a rotation\nd, at the same time\n"),
        ([A + b"failed to follow the log\n", A + B], b"a\nfailed to follow the log\nb\n"),
    ],
)
def test_each_line_is_kept_once_in_the_order_of_the_log_whatever_its_time(
    monkeypatch: pytest.MonkeyPatch, connections: list[bytes], expected: bytes, size: int
) -> None:
    monkeypatch.setattr(trainer_log, "PAUSE", 0.01)
    followed = TrainerLog(cast(ClusterApi, Told(list(connections), size)), "pod")
    read = bytearray()
    while data := os.read(followed.descriptor, 1 << 16):
        read += data
    os.close(followed.descriptor)
    assert read == expected


def test_a_log_is_complete_only_once_its_end_was_read(api: KubernetesApi, job: str) -> None:
    follower = Follower(api, job)
    api.cluster.start(job)
    assert follower.log.await_start()
    api.faults.extend([Fault(503)] * 5)
    api.broken_logs = 1
    api.cluster.say(follower.pod, b"the last word\n")
    follower.log.end()
    api.cluster.exit(job, 0, pod_ends=False)
    assert follower.close() == b"the last word\n"
    assert not api.faults
