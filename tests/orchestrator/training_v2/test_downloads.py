"""Downloads share their folder with whatever is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.training_v2 import ValidationError, download_checkpoint
from tests.support.training import Scene, StageRuntime, running, save_checkpoint


def test_a_download_touches_no_other_file(scene: Scene, runtime: StageRuntime, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(running(scene, runtime), 1, {"w.partial": b"partial", "w": b"whole"})
    folder = tmp_path / "download"
    folder.mkdir()
    (folder / "other.partial").write_bytes(b"mine")
    download_checkpoint(checkpoint, str(folder))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {"w.partial": b"partial", "w": b"whole", "other.partial": b"mine"}


@pytest.mark.parametrize("there, saved", [("w/", "w"), ("w", "w/weights")])
def test_a_download_onto_what_is_in_its_way_is_refused(
    scene: Scene, runtime: StageRuntime, tmp_path: Path, there: str, saved: str
) -> None:
    checkpoint = save_checkpoint(running(scene, runtime), 1, {saved: b"weights"})
    folder = tmp_path / "download"
    folder.mkdir()
    (folder / there).mkdir() if there.endswith("/") else (folder / there).touch()
    with pytest.raises(ValidationError, match="empty the folder"):
        download_checkpoint(checkpoint, str(folder))
    assert [path.name for path in folder.iterdir()] == ["w"]
