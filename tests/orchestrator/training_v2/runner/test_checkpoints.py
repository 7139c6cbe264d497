"""Checkpoints as training code sees them: whole or not at all, and found again by the launch that comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings import settings
from orchestrator.training_v2 import Checkpoint, CheckpointPolicy, Run, download_checkpoint, intake
from orchestrator.training_v2.watch import sweep
from tests.support.processes import wait_until
from tests.support.trainers import supervised
from tests.support.training import (
    Scene,
    StageRuntime,
    blob_keys,
    fall_silent,
    running,
    save_checkpoint,
    set_scene,
    take_step,
)

#: What differs between databases is the intake's, which is tested on both.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def run_id(scene: Scene, runtime: StageRuntime) -> str:
    """A run whose first launch has arrived."""
    return running(scene, runtime)


def checkpoints(run_id: str) -> list[Checkpoint]:
    return Run.from_id(run_id).get_checkpoints()


def launch_again(run_id: str, runtime: StageRuntime) -> None:
    """Let the first launch be lost, and the second arrive."""
    fall_silent(run_id)
    for _ in range(4):
        take_step(run_id, runtime)
    intake.arrive(run_id, 2, "another")


def downloaded(checkpoint_id: str, folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint."""
    folder /= checkpoint_id
    folder.mkdir()
    download_checkpoint(checkpoint_id, str(folder))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_is_a_checkpoint_once_the_block_is_left(run_id: str, tmp_path: Path) -> None:
    with supervised(run_id) as ours:
        printed = ours.run("""
            with runner.save_checkpoint(7) as folder:
                (folder / "weights.bin").write_bytes(b"weights")
                (folder / "parts" / "deep").mkdir(parents=True)
                (folder / "parts" / "deep" / "ü.txt").write_text("part")
                (folder / "empty").mkdir()
                (folder / "empty.bin").touch()
                (folder / "again.bin").symlink_to("weights.bin")
            print(folder.name, folder.exists())
        """)
    found = checkpoints(run_id)
    assert [(each.id, each.global_step, each.status) for each in found] == [(printed.split()[0], 7, "complete")]
    assert printed.split()[1] == "False"
    saved = {"weights.bin": b"weights", "parts/deep/ü.txt": b"part", "empty.bin": b"", "again.bin": b"weights"}
    assert downloaded(printed.split()[0], tmp_path) == saved


def test_a_block_that_fails_leaves_nothing(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            for error in (KeyError("mine"), SystemExit(0), KeyboardInterrupt()):
                try:
                    with runner.save_checkpoint(7) as folder:
                        (folder / "weights.bin").write_bytes(b"weights")
                        raise error
                except BaseException as raised:
                    assert raised is error
                assert not folder.exists()
        """)
    assert checkpoints(run_id) == []
    assert not [key for key in blob_keys(run_id) if "/logs/" not in key]


@pytest.mark.parametrize(
    "fault",
    [
        '(folder / "loop").symlink_to(folder)',
        '(folder / "lost").symlink_to("nowhere")',
        'os.mkfifo(folder / "pipe")',
        '(folder / "back\\\\slash").touch()',
        '(Path(os.fsencode(folder).decode()) / os.fsdecode(b"\\xff")).touch()',
    ],
)
def test_what_cannot_be_a_checkpoint_is_refused(run_id: str, fault: str) -> None:
    with supervised(run_id) as ours:
        ours.run(f"""
            try:
                with runner.save_checkpoint(7) as folder:
                    (folder / "weights.bin").write_bytes(b"weights")
                    {fault}
            except runner.ValidationError as error:
                print("refused", error)
            else:
                sys.exit("it was taken")
            for step in (-1, 2**63):
                try:
                    with runner.save_checkpoint(step):
                        sys.exit("it was begun")
                except runner.ValidationError:
                    pass
        """)
    assert checkpoints(run_id) == []


def test_a_trainer_killed_while_it_saves_leaves_an_incomplete_checkpoint(run_id: str, runtime: StageRuntime) -> None:
    with supervised(run_id) as ours:
        trainer = ours.start("""
            with runner.save_checkpoint(7) as folder:
                (folder / "weights.bin").write_bytes(b"weights")
                os.kill(os.getpid(), signal.SIGKILL)
        """)
        assert trainer.wait(60) == -9
        ours.close()
    assert [each.status for each in checkpoints(run_id)] == ["incomplete"]
    launch_again(run_id, runtime)
    sweep()
    assert checkpoints(run_id) == []


def test_a_checkpoint_is_loaded_as_it_was_saved(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            assert runner.load_latest_checkpoint() is None
            saved = {"weights.bin": os.urandom(3_000_000), "parts/a": b"a", "parts/deep/b": b"", **{
                f"many/{n}": b"%d" % n for n in range(20)}}
            with runner.save_checkpoint(7) as folder:
                for path, data in saved.items():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(data)
            latest = runner.load_latest_checkpoint()
            assert (latest.id, latest.global_step) == (folder.name, 7)
            loaded = {str(path.relative_to(latest.path)): path.read_bytes()
                      for path in latest.path.rglob("*") if path.is_file()}
            assert loaded == saved
            (latest.path / "mine").touch()
            again = runner.load_checkpoint(folder.name)
            assert again == latest.path and (again / "mine").exists(), "it is not loaded twice"
            assert [path.name for path in again.parent.iterdir()] == [folder.name], "nothing half is left"
        """)


def test_a_launch_goes_on_from_the_latest_checkpoint_of_the_one_before(run_id: str, runtime: StageRuntime) -> None:
    save_checkpoint(run_id, 5)
    saved = save_checkpoint(run_id, 4, {"weights.bin": b"these"})
    intake.begin_checkpoint(run_id, 1, 6)
    launch_again(run_id, runtime)
    with supervised(run_id, launch=2) as ours:
        printed = ours.run("""
            latest = runner.load_latest_checkpoint()
            print(latest.id, latest.global_step, (latest.path / "weights.bin").read_text())
        """)
    assert printed.split() == [saved, "4", "these"]


def test_a_checkpoint_that_cannot_be_loaded_is_an_error(run_id: str) -> None:
    incomplete = intake.begin_checkpoint(run_id, 1, 3).id
    complete = save_checkpoint(run_id, 4)
    with supervised(run_id) as ours:
        ours.run(f"""
            for wanted in ("nothing", "../../etc", "", "nul \\0", "."):
                try:
                    runner.load_checkpoint(wanted)
                except runner.CheckpointDoesNotExistError:
                    continue
                sys.exit(f"{{wanted}} was loaded")
            try:
                runner.load_checkpoint({incomplete!r})
            except runner.TrainingConflict:
                pass
            (Path(os.environ["ORCHESTRATOR_RUN_FOLDER"]) / "loaded").write_text("in the way")
            try:
                runner.load_checkpoint({complete!r})
            except OSError:
                sys.exit(0)
            sys.exit("it was loaded")
        """)


def test_a_file_that_the_blob_store_has_spoilt_is_not_loaded(run_id: str) -> None:
    saved = save_checkpoint(run_id, 4, {"weights.bin": b"good"})
    key = next(key for key in blob_keys(run_id) if saved in key)
    (settings().home / "blobs" / key).write_bytes(b"evil")
    with supervised(run_id) as ours:
        ours.run(f"""
            try:
                runner.load_checkpoint({saved!r})
            except runner.RunnerError as error:
                assert "lost something" in str(error)
            assert not list((Path(os.environ["ORCHESTRATOR_RUN_FOLDER"]) / "loaded").iterdir())
        """)


def test_threads_may_save_and_load_at_a_time(run_id: str) -> None:
    with supervised(run_id) as ours:
        ours.run("""
            def save(step):
                with runner.save_checkpoint(step) as folder:
                    (folder / "step").write_text(str(step))
                assert (runner.load_checkpoint(folder.name) / "step").read_text() == str(step)
                assert runner.load_latest_checkpoint() is not None
            threads = [threading.Thread(target=save, args=[step]) for step in range(8)]
            for thread in threads:
                thread.start()
        """)
    assert sorted(each.global_step or 0 for each in checkpoints(run_id)) == list(range(8))


def test_what_was_measured_at_its_step_decides_whether_a_checkpoint_is_kept(
    database: object, runtime: StageRuntime
) -> None:
    policy = CheckpointPolicy(keep_last=1, keep_best=1, best_by="score")
    run_id = running(set_scene(checkpoint_policy=policy), runtime)
    with supervised(run_id) as ours:
        ours.run("""
            for step, score in enumerate([1, 5, 2, 3]):
                runner.save_metric("score", score, step)
                with runner.save_checkpoint(step) as folder:
                    (folder / "step").write_text(str(step))
        """)
    assert {each.global_step for each in checkpoints(run_id)} == {1, 3}


def test_a_large_file_is_never_whole_in_memory(run_id: str) -> None:
    with supervised(run_id) as ours:
        before = peak(Path("/proc/self/status").read_text())
        printed = ours.run("""
            with runner.save_checkpoint(1) as folder:
                with (folder / "large").open("wb") as file:
                    file.truncate(80 << 20)
            latest = runner.load_latest_checkpoint()
            assert (latest.path / "large").stat().st_size == 80 << 20
            print(Path("/proc/self/status").read_text())
        """)
        assert peak(Path("/proc/self/status").read_text()) - before < 50
    assert peak(printed) < 70


def peak(status: str) -> int:
    """The most memory that a process has had, in MiB."""
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) >> 10


def test_files_that_cannot_be_stored_are_waited_for(run_id: str, tmp_path: Path) -> None:
    save_checkpoint(run_id, 1)
    store, aside = settings().home / "blobs", settings().home / "aside"
    with supervised(run_id) as ours:
        trainer = ours.start("""
            with runner.save_checkpoint(7) as folder:
                for n in range(6):
                    (folder / str(n)).write_text(str(n))
                here = Path(os.environ["ORCHESTRATOR_RUN_FOLDER"])
                (here / "ready").touch()
                while not (here / "go").exists():
                    time.sleep(0.01)
        """)
        wait_until((ours.folder / "ready").exists, "the trainer saves")
        store.rename(aside)
        store.write_text("the blob store is away")
        (ours.folder / "go").touch()
        wait_until(lambda: ours.reports.is_waiting, "the blob store is missed")
        assert checkpoints(run_id)[0].status == "incomplete"
        store.unlink()
        aside.rename(store)
        assert trainer.wait(60) == 0
        ours.close()
    newest = checkpoints(run_id)[0]
    assert newest.id is not None
    assert downloaded(newest.id, tmp_path) == {str(n): str(n).encode() for n in range(6)}
