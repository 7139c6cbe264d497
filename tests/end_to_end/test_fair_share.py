"""Fair share on real workers: a small job does not wait for the large one of another project."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.bulk_inference import (
    ProgressState,
    abort_bulk_inference_job,
    get_bulk_inference_details,
    submit_bulk_inference_job,
    wait_for_bulk_inference_job,
)
from tests.conftest import forget_settings
from tests.end_to_end.conftest import BRISK
from tests.support.bulk_inference import set_scene
from tests.support.model_server import ModelServer
from tests.support.processes import Workers, wait_until

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker


@pytest.fixture(autouse=True)
def brisk(database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BRISK.items():
        monkeypatch.setenv(name, value)
    forget_settings()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_job_of_ten_is_done_while_another_project_s_job_of_thousands_has_hardly_begun(
    tmp_path: Path, worker_processes: Workers
) -> None:
    """Every slot is taken and the window is full when the small job comes, on a worker that serves every queue."""
    worker_processes.beat()
    worker_processes.start(concurrency=2)
    with ModelServer(record=False, delay=0.02) as server:
        # Two minutes of work: 4,000 requests at 20 ms, one at a time in each of two units.
        large = submit_bulk_inference_job(
            set_scene(tmp_path / "large", 12_000, url=server.url, max_concurrency=2).request()
        )
        wait_until(lambda: get_bulk_inference_details(large).num_computed > 0, "the large job is under way")
        small = submit_bulk_inference_job(set_scene(tmp_path / "small", 10, url=server.url).request())
        details = wait_for_bulk_inference_job(small, timeout=timedelta(seconds=60))
        assert details.status is ProgressState.SUCCEEDED
        progress = get_bulk_inference_details(large)
        assert progress.status is ProgressState.RUNNING
        assert progress.num_computed < 6000
        abort_bulk_inference_job(large)
