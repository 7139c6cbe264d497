"""Files of checkpoints on their way to a trainer: what fails at its end is told, and not waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import ApiException
from orchestrator.storage import blobs
from orchestrator.training_v2.downloads import StoredFile
from workers.runtimes.reports.checkpoints import load


@pytest.mark.usefixtures("home")
def test_a_file_that_cannot_be_written_is_told_and_not_waited_for(tmp_path: Path) -> None:
    blobs().put("training/weights", b"weights")
    target = tmp_path / "weights"
    target.write_bytes(b"")
    descriptor = os.open(target, os.O_RDONLY)
    try:
        with pytest.raises(ApiException, match="weights cannot be written"):
            load(StoredFile("weights", 7, "", "training/weights"), descriptor)
    finally:
        os.close(descriptor)
