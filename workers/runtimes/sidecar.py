"""The sidecar in a trainer's pod: its supervisor, but for starting and ending the trainer, which the cluster does.

`python -m workers.runtimes.sidecar` starts before the trainer, which is not started until this launch is claimed,
and ends after it. What only a supervisor can know it knows from the trainer's log: when the trainer was started.
When the launch is over, or nobody can be told of it any more, it has its own pod deleted. What it reported it may
have been unable to store, and to tell anybody: so it is by its exit code that it says so, which its pod keeps.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import Unavailable
from orchestrator.logs import configure_logging
from orchestrator.settings import settings
from orchestrator.training_v2 import intake
from orchestrator.training_v2.exceptions import StaleLaunch
from workers.runtimes.cluster.api import ClusterApi
from workers.runtimes.cluster.manifest import FLUSH, READY
from workers.runtimes.cluster.pods import end_pod
from workers.runtimes.cluster.trainer_log import TrainerLog
from workers.runtimes.reports import Reports

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Seconds between two tries of what has to succeed before the trainer can be started, or heard.
PAUSE = 1.0
#: Of the time that a sidecar is given after its trainer, this is left for leaving.
MARGIN = 5


class Sidecar:
    """One launch, as its pod sees it."""

    def __init__(self, run_id: str, launch: int, folder: Path, pod: str, uid: str) -> None:
        self.run_id = run_id
        self.launch = launch
        self.folder = folder
        self.pod = pod
        self.uid = uid
        self.api = ClusterApi(settings().kubernetes_namespace)
        self.reports = Reports(run_id, launch, folder, shared=True)
        #: The trainer has ended, or will not be started: Kubernetes says so by SIGTERM.
        self.told = threading.Event()
        self._is_stored = threading.Event()

    def run(self) -> bool:
        """Supervise the trainer until it has ended; whether everything that it reported is stored."""
        if (self.folder / READY).exists():
            # What was reported to the sidecar before this one, and how far it had got, is lost.
            self._give_up("the sidecar was started a second time")
            return False
        return not self._prepare() or self._report()

    def _prepare(self) -> bool:
        """Claim the launch and let the trainer be started; False if it must not be."""
        try:
            config = self._patiently(lambda: intake.claim(self.run_id, self.launch, f"pod {self.uid}"))
        except StaleLaunch as stale:
            self._give_up(str(stale))
            return False
        if config is None:
            return False
        (self.folder / "config.json").write_bytes(orjson.dumps(config))
        self.reports.bind()
        (self.folder / READY).touch()
        return True

    def _report(self) -> bool:
        trainer = TrainerLog(self.api, self.pod)
        watching = threading.Thread(target=self._watch_end, args=[trainer], name="end", daemon=True)
        watching.start()
        is_started = trainer.await_start()
        if not is_started or not self._arrive():
            os.close(trainer.descriptor)
            return not is_started
        self.reports.open()
        self.reports.keep_output(trainer.descriptor)
        supervising = threading.Thread(target=self._supervise, name="supervise", daemon=True)
        supervising.start()
        self.told.wait()
        whole = self.reports.close(FLUSH - MARGIN)
        self._is_stored.set()
        supervising.join(MARGIN)
        log.info("sidecar_leaves", run=self.run_id, launch=self.launch, stored=whole)
        return whole

    def _arrive(self) -> bool:
        try:
            return self._patiently(lambda: intake.arrive(self.run_id, self.launch, f"pod {self.uid}")) is not None
        except StaleLaunch as stale:
            self._give_up(str(stale))
            return False

    def _watch_end(self, trainer: TrainerLog) -> None:
        self.told.wait()
        trainer.end()

    def _supervise(self) -> None:
        """Show that the trainer is alive, and have it ended when it must be."""
        patience = settings().training_heartbeat_seconds
        heard = time.monotonic()
        while not self._is_stored.wait(patience / 3):
            try:
                orders = intake.beat(self.run_id, self.launch)
                heard = time.monotonic()
                if orders.stop:
                    self._end_pod(orders.grace)
            except StaleLaunch as stale:
                log.warning("launch_over", reason=str(stale))
                self._end_pod()
            except (Unavailable, SQLAlchemyError) as error:
                log.warning("database_away", error=str(error))
            if self.reports.stale or time.monotonic() - heard > patience:
                # By now the launch may be taken for lost, and nobody can tell us.
                self._end_pod()

    def _give_up(self, reason: str) -> None:
        """Have the pod ended, and wait for that: if this process ended by itself it would be started again."""
        log.warning("launch_given_up", run=self.run_id, launch=self.launch, reason=reason)
        while True:
            self._end_pod()
            if self.told.wait(settings().training_heartbeat_seconds):
                return

    def _end_pod(self, grace: float = 0.0) -> None:
        if self.told.is_set():
            return
        try:
            pod, now = self.api.timed_pod(self.pod)
            if pod is not None and pod["metadata"]["uid"] == self.uid:
                end_pod(self.api, pod, timedelta(seconds=grace), now)
        except Unavailable as error:
            log.warning("pod_not_ended", pod=self.pod, error=error.body)

    def _patiently(self, work: Callable[[], T]) -> T | None:
        """What `work` returns as soon as the database is there; None if nobody waits for that any more."""
        while True:
            try:
                return work()
            except (Unavailable, SQLAlchemyError) as error:
                log.warning("database_away", error=str(error))
            if self.told.wait(PAUSE):
                return None


def main() -> int:
    """Supervise the trainer of the pod that the environment describes."""
    configure_logging()
    os.umask(0o007)
    environment = os.environ
    sidecar = Sidecar(
        environment["ORCHESTRATOR_RUN_ID"],
        int(environment["ORCHESTRATOR_LAUNCH"]),
        Path(environment["ORCHESTRATOR_RUN_FOLDER"]),
        environment["ORCHESTRATOR_POD"],
        environment["ORCHESTRATOR_POD_UID"],
    )
    signal.signal(signal.SIGTERM, lambda *_: sidecar.told.set())
    return 0 if sidecar.run() else 1


if __name__ == "__main__":
    sys.exit(main())
