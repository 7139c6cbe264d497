"""The supervisor's half of the channel: what a trainer says and prints is stored once, whatever is away meanwhile."""

from __future__ import annotations

import os
import resource
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from orchestrator.database import writing
from orchestrator.settings import settings
from orchestrator.training_v2 import Run, intake
from orchestrator.training_v2.logs import read_log
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.metrics import all_metrics
from orchestrator.training_v2.runner import wire
from orchestrator.training_v2.runtime import Exited
from tests.support.processes import wait_until
from tests.support.trainers import Supervised, supervised
from tests.support.training import StageRuntime, fall_silent, row, running, set_scene, take_step
from workers.runtimes.reports import measurements, output, reports

#: What a trainer might send that does not use the library, or a broken one.
RUBBISH = [
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack(">I", 0),
    struct.pack(">I", 2) + b"[]",
    wire.encode(wire.Metrics([NewMetric(-1, "x", 1.0)])),
    wire.encode(wire.Metrics([NewMetric(1, "", 1.0)])),
    wire.encode(wire.CurrentProgress([wire.Progress("x", float("nan"), 1, "")])),
    wire.encode(wire.Keep("id", "path")),
    wire.encode(wire.Fill("id", 0)),
    wire.encode(wire.Complete("../../etc")),
    wire.encode(wire.Begin(1 << 70)),
    wire.encode(wire.Done()),
]


#: Where it makes no difference which database it is.
on_one = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def runtime() -> StageRuntime:
    """What the control plane takes for the runtime."""
    return StageRuntime()


@pytest.fixture
def run_id(database: object, runtime: StageRuntime) -> str:
    """A run whose first launch has arrived."""
    return running(set_scene(), runtime)


@pytest.fixture
def ours(run_id: str) -> Iterator[Supervised]:
    """Its supervisor."""
    with supervised(run_id) as ours:
        yield ours


@contextmanager
def tables_away() -> Iterator[None]:
    """A database that answers, and has not what is looked for."""
    rename("training_runs", "away")
    try:
        yield
    finally:
        rename("away", "training_runs")


def rename(table: str, name: str) -> None:
    with writing() as session:
        session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


@contextmanager
def blobs_away() -> Iterator[None]:
    """A blob folder in whose place is something else."""
    store, aside = settings().home / "blobs", settings().home / "aside"
    store.mkdir(parents=True, exist_ok=True)
    store.rename(aside)
    store.write_text("nothing")
    try:
        yield
    finally:
        store.unlink()
        aside.rename(store)


def steps(run_id: str) -> list[int]:
    """The steps of the run's metrics, oldest first."""
    return [metric.global_step for metric in all_metrics(run_id)][::-1]


@contextmanager
def connected(ours: Supervised) -> Iterator[socket.socket]:
    """A connection such as a trainer's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(str(ours.folder / wire.SOCKET))
        yield connection


def answer(connection: socket.socket) -> wire.Message | None:
    """What comes back, or that nothing does."""
    try:
        received = wire.receive(connection)
    except ConnectionResetError:
        return None
    return received[0] if received else None


def test_reports_wait_until_the_database_is_back(ours: Supervised) -> None:
    with tables_away():
        trainer = ours.start("""
            runner.save_metrics(runner.Metric("x", n, n) for n in range(10_000))
            runner.save_progress([runner.Progress("train", 1, 2, "epochs")])
            with runner.save_checkpoint(7) as folder:
                (folder / "weights").write_text("weights")
        """)
        wait_until(lambda: ours.reports.is_waiting, "the database is missed")
        assert trainer.poll() is None
    assert trainer.wait(60) == 0
    ours.close()
    assert not ours.reports.is_waiting
    assert steps(ours.run_id) == list(range(10_000))
    run = Run.from_id(ours.run_id)
    assert [each.value for each in run.progress or []] == [1]
    assert {each.status for each in run.get_checkpoints()} == {"complete"}


@on_one
def test_a_trainer_that_is_faster_than_the_database_has_to_wait(
    ours: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "FULL", 5000)
    with tables_away():
        trainer = ours.start("""
            from orchestrator.training_v2.runner import stream
            stream.FULL = 5000
            reported = 0
            def report():
                global reported
                for reported in range(1, 20_001):
                    runner.save_metric("x" * 200, 1, reported)
            threading.Thread(target=report).start()
            before = 0
            while not before or reported > before:
                before = reported
                time.sleep(1)
            print("stuck" if before < 20_000 else "through")
        """)
        wait_until(ours.log, "the trainer has to wait")
        assert ours.log() == "stuck\n"
        assert len(ours.reports._measurements._metrics) < 5000 + wire.METRICS
        assert trainer.poll() is None
    assert trainer.wait(60) == 0
    ours.close()
    assert steps(ours.run_id) == list(range(1, 20_001))


def test_a_batch_whose_answer_was_lost_is_not_kept_twice(ours: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    real, losses = intake.record_metrics, iter(range(3))

    def record(run_id: str, launch: int, position: int, metrics: Sequence[NewMetric]) -> int:
        done = real(run_id, launch, position, metrics)
        if next(losses, None) is not None:
            raise OSError("the connection was lost after the commit")
        return done

    monkeypatch.setattr(intake, "record_metrics", record)
    ours.run("runner.save_metrics(runner.Metric('x', n, n) for n in range(5000))")
    assert steps(ours.run_id) == list(range(5000))


def test_a_launch_that_is_over_is_noticed_and_stores_nothing(ours: Supervised, runtime: StageRuntime) -> None:
    trainer = ours.start("""
        runner.save_metric("x", 1, 1)
        runner.flush()
        print("on the way")
        while not runner.wait_for_stop(0.01):
            runner.save_metric("x", 1, 2)
    """)
    ours.wait_for("on the way")
    fall_silent(ours.run_id)
    take_step(ours.run_id, runtime)
    seen = row(ours.run_id).metrics_seen
    wait_until(lambda: ours.reports.stale, "the launch is found to be over")
    assert trainer.wait(60) == 1
    assert not ours.reports.close(5)
    assert row(ours.run_id).metrics_seen == seen
    assert row(ours.run_id).stale_writes >= 1


def test_what_is_away_for_too_long_is_given_up(ours: Supervised) -> None:
    with tables_away(), connected(ours) as connection, connected(ours) as other:
        wire.send(connection, wire.Metrics([NewMetric(1, "x", 1.0)]))
        wire.send(connection, wire.Flush())
        wire.send(other, wire.Begin(7))
        wait_until(lambda: ours.reports.is_waiting, "the database is missed")
        assert not ours.reports.close(0.1)
        assert isinstance(answer(other), wire.Refused | None)
    assert steps(ours.run_id) == []


def test_what_was_sent_before_the_end_is_stored(ours: Supervised) -> None:
    """Also by connections that nobody has taken yet."""
    for n in range(20):
        with connected(ours) as connection:
            wire.send(connection, wire.Metrics([NewMetric(n, "x", 1.0)]))
    ours.close()
    assert sorted(steps(ours.run_id)) == list(range(20))
    assert not (ours.folder / wire.SOCKET).exists()


def test_a_report_that_broke_off_is_not_one(ours: Supervised) -> None:
    whole = wire.encode(wire.Metrics([NewMetric(1, "x", 1.0)]))
    with connected(ours) as connection:
        connection.sendall(whole + whole[:-5])
    ours.close()
    assert steps(ours.run_id) == [1]


@on_one
def test_rubbish_is_refused_and_disturbs_nobody(ours: Supervised) -> None:
    with connected(ours) as good:
        for rubbish in RUBBISH:
            with connected(ours) as bad:
                bad.sendall(rubbish)
                assert isinstance(answer(bad), wire.Refused), rubbish
                assert answer(bad) is None
        wire.send(good, wire.Metrics([NewMetric(1, "x", 1.0)]))
        wire.send(good, wire.Flush())
        assert answer(good) == wire.Done()


@on_one
def test_only_files_are_stored(ours: Supervised) -> None:
    reads, writes = os.pipe()
    with connected(ours) as connection:
        wire.send(connection, wire.Begin(1))
        begun = answer(connection)
        assert isinstance(begun, wire.Begun)
        wire.send(connection, wire.Keep(begun.checkpoint_id, "pipe"), reads)
        assert isinstance(answer(connection), wire.Refused)
    os.close(reads)
    os.close(writes)


@on_one
def test_no_descriptor_is_left_open(ours: Supervised) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    ours.run("runner.save_metric('x', 1, 1)")
    with supervised(ours.run_id) as again:
        before = descriptors()
        again.run("""
            for step in range(20):
                with runner.save_checkpoint(step) as folder:
                    (folder / "weights").write_text("weights")
                runner.load_latest_checkpoint()
        """)
        assert descriptors() < before + 5


@on_one
@pytest.mark.parametrize("shared, mode", [(False, 0o600), (True, 0o660)])
def test_strangers_cannot_connect(run_id: str, shared: bool, mode: int) -> None:
    with supervised(run_id, shared=shared) as ours:
        assert stat.S_IMODE((ours.folder / wire.SOCKET).stat().st_mode) == mode


@on_one
def test_a_launch_that_was_never_opened_can_be_closed(run_id: str, ours: Supervised) -> None:
    assert Supervised(ours.folder, run_id, 1).reports.close(1)


@on_one
def test_what_is_printed_is_kept_while_it_is_printed(ours: Supervised) -> None:
    trainer = ours.start("""
        print("first")
        sys.stderr.write("second\\n")
        while not (Path(os.environ["ORCHESTRATOR_RUN_FOLDER"]) / "go").exists():
            time.sleep(0.01)
        print("third", end="")
    """)
    wait_until(lambda: ours.log() == "first\nsecond\n", "the log grows")
    (ours.folder / "go").touch()
    assert trainer.wait(60) == 0
    ours.close()
    assert ours.log() == "first\nsecond\nthird"


@on_one
def test_much_output_is_kept_in_bounded_chunks(ours: Supervised) -> None:
    ours.run("""
        for n in range(300):
            sys.stdout.write(f"{n:04}" * 2500)
    """)
    chunks = list(read_log(ours.run_id, 1))
    assert b"".join(chunks) == b"".join(b"%04d" % n * 2500 for n in range(300))
    assert max(map(len, chunks)) <= output.CHUNK


@on_one
def test_what_is_printed_while_the_blob_store_is_away_is_kept(ours: Supervised) -> None:
    with blobs_away():
        trainer = ours.start("""
            for n in range(300):
                sys.stdout.write(f"{n:04}" * 2500)
        """)
        wait_until(lambda: ours.reports.is_waiting, "the blob store is missed")
        assert trainer.poll() is None
    assert trainer.wait(60) == 0
    ours.close()
    assert ours.log() == "".join(f"{n:04}" * 2500 for n in range(300))


@on_one
def test_a_process_that_keeps_the_pipe_open_does_not_keep_the_supervisor(ours: Supervised) -> None:
    reads, writes = os.pipe()
    ours.reports.keep_output(reads)
    os.write(writes, b"so far")
    assert not ours.reports.close(0.5)
    os.close(writes)
    wait_until(lambda: not any(thread.name == "output" for thread in threading.enumerate()), "the pipe is closed")
    assert ours.log() == "so far"


@on_one
def test_what_is_printed_after_a_run_was_deleted_is_not_kept(ours: Supervised) -> None:
    reads, writes = os.pipe()
    ours.reports.keep_output(reads)
    os.write(writes, b"so far")
    wait_until(lambda: ours.log() == "so far", "it is kept")
    intake.leave(ours.run_id, 1, Exited(0))
    Run.from_id(ours.run_id).delete()
    os.write(writes, b"too late")
    os.close(writes)
    ours.reports.close(10)
    assert ours.log() == ""


@on_one
def test_who_connects_while_no_descriptor_is_free_is_served_once_there_is_one(
    ours: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = threading.Event()

    def sleep(_seconds: float) -> None:
        slept.set()
        time.sleep(0.01)

    monkeypatch.setattr(reports, "time", SimpleNamespace(sleep=sleep))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, no_descriptors():
        client.connect(str(ours.folder / wire.SOCKET))
        assert slept.wait(10)
    ours.run("runner.save_metric('loss', 0.5, 1)")
    assert row(ours.run_id).metrics_seen == 1


@contextmanager
def no_descriptors() -> Iterator[None]:
    """A process that can open nothing more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
