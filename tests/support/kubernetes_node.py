"""A make-believe node: runs a make-believe cluster's pods as real processes, and ends them as a kubelet does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.kubernetes_cluster import Cluster, Object, is_over
from tests.support.processes import Running
from tests.support.reaper import Reaper
from workers.runtimes.cluster.manifest import FOLDER

#: Where a sidecar finds the API; in a cluster it finds it by itself.
CONFIG = "ORCHESTRATOR_KUBERNETES_CONFIG"
#: Seconds between two looks at a process.
GLANCE = 0.02
#: Seconds that a sidecar is given after its trainer.
PATIENCE = 20.0


class Node:
    """Runs every pod while the block runs; the sidecars only where it is told how they reach the API."""

    def __init__(self, cluster: Cluster, folder: Path, reaper: Reaper, *, config: Path | None = None) -> None:
        self.cluster = cluster
        self.folder = folder
        self.reaper = reaper
        self.config = config
        self.is_over = threading.Event()
        self.known: dict[str, Pod] = {}
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over.set()
        self.thread.join(10)
        for pod in self.known.values():
            pod.thread.join(10)

    def run(self) -> None:
        while not self.is_over.wait(GLANCE):
            with self.cluster.changed:
                new = [pod for name, pod in self.cluster.pods.items() if name not in self.known and not is_over(pod)]
                for pod in new:
                    pod["spec"]["nodeName"] = "node-1"
            for pod in new:
                self.known[pod["metadata"]["name"]] = Pod(self, pod, len(self.known))


class Pod:
    """The processes of one pod."""

    def __init__(self, node: Node, pod: Object, number: int) -> None:
        self.node = node
        self.pod = pod
        self.job = pod["metadata"]["ownerReferences"][0]["name"]
        # A socket's path must be short.
        self.folder = node.folder / f"pod{number}"
        self.folder.mkdir()
        self.logs = node.folder / f"logs{number}"
        self.logs.mkdir()
        self.processes: list[Running] = []
        self.sidecar: Running | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        try:
            self.sidecar = self.start_sidecar() if self.node.config else None
            while (
                self.sidecar and not (self.folder / "ready").exists() and not self.is_deleted and not self.is_abandoned
            ):
                self.node.is_over.wait(GLANCE)
            if not self.is_deleted:
                self.run_trainer()
            if self.sidecar:
                self.sidecar.stop(within=0 if self.is_abandoned else PATIENCE)
            code = self.sidecar.process.returncode if self.sidecar else 0
            end = {"terminated": {"exitCode": code if code >= 0 else 128 - code}}
            self.node.cluster.end_pod(self.pod, initContainerStatuses=[{"name": "sidecar", "state": end}])
        finally:
            for process in self.processes:
                process.kill()

    def run_trainer(self) -> None:
        (container,) = self.pod["spec"]["containers"]
        trainer = self.start("trainer", container, {})
        with trainer.log.open("rb") as output:
            self.node.cluster.set_trainer(self.pod, {"running": {}})
            self.pod["status"]["phase"] = "Running"
            is_told = False
            while trainer.is_running and not self.is_abandoned:
                self.copy(output.readlines())
                if self.is_deleted and not is_told:
                    trainer.send(signal.SIGTERM)
                    is_told = True
                if self.is_deleted and datetime.now(UTC) > self.deadline:
                    trainer.kill()
                if self.sidecar and not self.sidecar.is_running:
                    self.sidecar = self.start_sidecar()
                self.node.is_over.wait(GLANCE)
            trainer.kill()
            self.copy(output.readlines())
        code = trainer.process.returncode
        self.node.cluster.end_trainer(self.pod, code if code >= 0 else 128 - code)

    def start_sidecar(self) -> Running:
        (container,) = self.pod["spec"]["initContainers"]
        metadata = self.pod["metadata"]
        fields = {f"metadata.{name}": metadata[name] for name in ("name", "uid", "namespace")}
        return self.start("sidecar", container, {**fields, CONFIG: str(self.node.config)})

    def start(self, name: str, container: Object, fields: dict[str, str]) -> Running:
        environment = {
            each["name"]: each["value"].replace(FOLDER, str(self.folder))
            if "value" in each
            else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            for each in container["env"]
        }
        if CONFIG in fields:
            environment[CONFIG] = fields[CONFIG]
        process = Running(
            executable(container["command"]),
            log=self.logs / f"{name}.log",
            reaper=self.node.reaper,
            environment={**environment, "PYTHONUNBUFFERED": "1"},
        )
        self.processes.append(process)
        return process

    def copy(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self.node.cluster.say(self.pod["metadata"]["name"], line)

    @property
    def is_abandoned(self) -> bool:
        return self.node.is_over.is_set()

    @property
    def is_deleted(self) -> bool:
        return "deletionTimestamp" in self.pod["metadata"]

    @property
    def deadline(self) -> datetime:
        # The API writes whole seconds, and a node counts from when it heard.
        return datetime.fromisoformat(self.pod["metadata"]["deletionTimestamp"]) + timedelta(seconds=1)


def executable(command: Sequence[str]) -> list[str]:
    """The command, with this Python for `python`."""
    return [sys.executable if command[0] == "python" else command[0], *command[1:]]
