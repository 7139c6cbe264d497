"""A blob folder that is unmounted under a job, and mounted again: no datum is taken for lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.bulk_inference import ProgressState, get_bulk_inference_details
from orchestrator.errors import Unavailable
from tests.chaos.harness import Harness
from tests.support.bulk_inference import stored


class Volume:
    """A folder that is seen at another place while it is mounted."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "volume", folder / "mounted"
        self.source.mkdir()
        self.target.mkdir()

    def mount(self) -> None:
        mounted = subprocess.run(["mount", "--bind", self.source, self.target], check=False, capture_output=True)
        if mounted.returncode != 0:
            pytest.skip("nothing can be mounted here")

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.target], check=True)


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volume]:
    """A mounted volume with the blob folder on it."""
    made = Volume(tmp_path)
    made.mount()
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", (made.target / "blobs").as_uri())
    yield made
    made.unmount()


@pytest.mark.endurance
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a folder")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_job_waits_for_a_blob_folder_that_is_unmounted_under_it(volume: Volume, harness: Harness) -> None:
    scene = harness.scene(3_000)
    harness.server.behaviour.delay = 0.01
    harness.start()
    job_id = harness.submit(scene)
    harness.until(lambda: harness.job(job_id).num_computed, "the first results", within=60)
    volume.unmount()
    harness.until(lambda: get_bulk_inference_details(job_id).reason, "the job says what it waits for", within=60)
    assert "is away, or empty: mount it" in get_bulk_inference_details(job_id).reason
    with pytest.raises(Unavailable, match="mount it"):
        harness.scene(3)
    harness.pause(3)
    volume.mount()
    harness.server.behaviour.delay = 0
    (details,) = harness.wait(job_id)
    assert (details.status, details.num_failed, details.reason) == (ProgressState.SUCCEEDED, 0, "")
    assert stored(job_id) == list(range(3_000))
