"""Random kills and wipes under a job: the books balance whatever happened, and the job comes to an end."""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator.bulk_inference import (
    get_bulk_inference_failures,
    submit_bulk_inference_job,
    wait_for_bulk_inference_job,
)
from tests.conftest import forget_settings
from tests.end_to_end.conftest import BRISK
from tests.support.bulk_inference import set_scene, stored
from tests.support.model_server import ModelServer
from tests.support.processes import Workers

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

DATUMS = 20_000
FAULTS = 15

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_after_random_kills_and_wipes_every_datum_has_one_outcome(
    database: Database,
    broker: Broker,
    worker_processes: Workers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A unit that is hit three times is given up by design; its datums are failures then, and not lost."""
    for name, value in BRISK.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    seed = int(os.environ.get("ORCHESTRATOR_CHAOS_SEED", time.time_ns() % 1_000_000))
    print(f"ORCHESTRATOR_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    with ModelServer(record=False, delay=0.005) as server:
        scene = set_scene(tmp_path, DATUMS, url=server.url, max_concurrency=8)
        job_id = submit_bulk_inference_job(scene.request())
        worker_processes.beat()
        workers = [worker_processes.start(concurrency=1), worker_processes.start(concurrency=1)]
        for _ in range(FAULTS):
            time.sleep(chance.uniform(0.3, 1.2))  # the moment is the point: no condition to wait for
            place = chance.randrange(len(workers))
            match chance.choice(("child", "worker", "broker")):
                case "child":
                    kill_child(workers[place].pid, chance)
                case "worker":
                    workers[place].kill()
                    workers[place] = worker_processes.start(concurrency=1)
                case _:
                    broker.wipe()
        server.behaviour.delay = 0
        details = wait_for_bulk_inference_job(job_id, timeout=timedelta(seconds=120))
    failed = [failure.ordinal for failure in get_bulk_inference_failures(job_id, limit=DATUMS)]
    kept = stored(job_id)
    assert sorted(kept + failed) == list(range(DATUMS))
    assert (details.num_computed, details.num_failed) == (len(kept), len(failed))
    assert details.status == ("failed" if failed else "succeeded")
    assert {failure.failure_class for failure in get_bulk_inference_failures(job_id)} <= {"abandoned"}


def kill_child(pid: int, chance: random.Random) -> None:
    """SIGKILL one process of a worker's pool, if it has one just now."""
    children = [child.pid for child in psutil.Process(pid).children() if "spawn_main" in " ".join(child.cmdline())]
    if children:
        os.kill(chance.choice(children), signal.SIGKILL)
