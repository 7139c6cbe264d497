"""The files of a checkpoint, as the trainer's side finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.training_v2.runner.checkpoints import files_below


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(files_below(tmp_path / "moved away"))
