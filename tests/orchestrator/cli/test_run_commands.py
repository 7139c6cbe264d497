"""Training from a shell: blueprints registered, runs created, watched, steered, and made into models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from orchestrator.cli.run_watch import WatchedRun, sparkline
from orchestrator.training_v2 import Progress, RunState, intake
from orchestrator.training_v2.logs import keep_log
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.runtime import Exited
from orchestrator.training_v2.steering import stop
from tests.support.training import SCHEMA, StageRuntime, drive, save_checkpoint
from tests.support.training import state as state_of

if TYPE_CHECKING:
    from tests.orchestrator.cli.conftest import Command


@pytest.fixture
def blueprint(orchestrator: Command, database: object, tmp_path: Path) -> str:
    """A registered blueprint in a project; returns its id."""
    orchestrator("project", "create", "demo")
    file = tmp_path / "digits.json"
    fields = {"name": "digits", "version": "1.0", "entry_point": ["python", "train.py"], "config_schema": SCHEMA}
    file.write_text(json.dumps(fields))
    made: str = orchestrator.json("blueprint", "register", str(file))["id"]
    return made


def create(orchestrator: Command, tmp_path: Path, *options: str) -> str:
    config = tmp_path / "config.toml"
    config.write_text("epochs = 3\n")
    command = ("run", "create", "first", "-b", "digits", "-t", "Image Classification", "-c", str(config))
    made: str = orchestrator.json(*command, *options)["id"]
    return made


def train(run_id: str) -> StageRuntime:
    """Bring the run to where its trainer trains, and let it measure."""
    runtime = StageRuntime()
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    intake.arrive(run_id, 1, "supervisor")
    intake.record_metrics(run_id, 1, 0, [NewMetric(n, "loss", 1 / (n + 1)) for n in range(10)])
    intake.record_progress(run_id, 1, [Progress(operation="train", value=1, final_value=4, units="epochs")])
    return runtime


def test_a_blueprint_is_registered_listed_shown_and_deleted(
    orchestrator: Command, blueprint: str, tmp_path: Path
) -> None:
    listed = orchestrator("blueprint", "list").out
    assert blueprint in listed
    assert "python train.py" in listed
    assert orchestrator.json("blueprint", "show", "digits", "--version", "1.%")["id"] == blueprint
    assert '"epochs"' in orchestrator("blueprint", "show", blueprint).out
    again = orchestrator("blueprint", "register", str(tmp_path / "digits.json"))
    assert (again.code, "exists already" in again.err) == (1, True)
    assert orchestrator("blueprint", "delete", "digits").code == 0
    assert orchestrator("blueprint", "show", "digits").code == 1
    assert "No blueprint yet" in orchestrator("blueprint", "list").out


def test_a_run_is_created_shown_and_listed(orchestrator: Command, blueprint: str, tmp_path: Path) -> None:
    run_id = create(orchestrator, tmp_path, "--cpu", "500m", "--gpu", "A100:2", "--notes", "try it")
    train(run_id)
    shown = orchestrator("run", "show", run_id).out
    for said in ("job_running", "500m CPU, 1Gi, 2 A100", '"epochs": 3', "train  ", "1 of 4 epochs", "local at here"):
        assert said in shown
    listed = orchestrator("run", "list", "--name", "FIR%", "--status", "job_running").out
    assert run_id in listed
    assert "25%" in listed
    assert max(map(len, listed.splitlines())) <= 80
    assert orchestrator.json("run", "list", "--status", "job_failed") == []
    document = orchestrator.json("run", "show", run_id)
    assert (document["status"], document["details"]["launch"]) == ("job_running", 1)


@pytest.mark.parametrize(
    "options, code, said",
    [
        (("-b", "no such"), 1, "no such"),
        (("--cpu", "many"), 1, "resources.cpu"),
        (("-c", "bad.json"), 1, "config.epochs: is missing"),
        (("-c", "list.json"), 1, "a config is an object"),
        (("--gpu", "A100:x"), 2, "TYPE:COUNT"),
        (("--project", "nobody"), 1, "nobody"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(
    orchestrator: Command,
    blueprint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "good.json").write_text('{"epochs": 1}')
    ran = orchestrator("run", "create", "x", "-b", "digits", "-t", "any", "-c", "good.json", *options)
    assert ran.code == code
    assert said in ran.err
    assert orchestrator.json("run", "list") == []


def test_a_run_is_stopped_restarted_and_deleted(orchestrator: Command, blueprint: str, tmp_path: Path) -> None:
    run_id = create(orchestrator, tmp_path)
    train(run_id)
    assert orchestrator("run", "restart", run_id).code == 1
    assert orchestrator("run", "delete", run_id).code == 1
    assert orchestrator.json("run", "stop", run_id, "--grace", "5")["status"] == "run_stop_requested"
    intake.leave(run_id, 1, Exited(0, signalled=True))
    assert orchestrator.json("run", "restart", run_id)["status"] == "run_restart_requested"
    orchestrator("run", "stop", run_id)
    drive(run_id, StageRuntime(), state_of(run_id).JOB_TERMINATED)
    assert orchestrator("run", "delete", run_id).code == 0
    assert orchestrator("run", "show", run_id).code == 1


def test_metrics_are_listed_and_drawn(orchestrator: Command, blueprint: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run_id = create(orchestrator, tmp_path)
    assert "Nothing measured" in orchestrator("run", "metrics", run_id).out
    picture = tmp_path / "loss.png"
    assert orchestrator("run", "metrics", run_id, "--plot", str(picture)).code == 1
    train(run_id)
    assert [row["global_step"] for row in orchestrator.json("run", "metrics", run_id, "-n", "2")] == [9, 8]
    assert orchestrator.json("run", "metrics", run_id, "--tag", "acc") == []
    assert "0.333333" in orchestrator("run", "metrics", run_id, "--step", "2").out
    assert orchestrator("run", "metrics", run_id, "--tag", "loss", "--plot", str(picture)).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_is_listed_downloaded_and_made_into_a_model(
    orchestrator: Command, blueprint: str, tmp_path: Path
) -> None:
    run_id = create(orchestrator, tmp_path)
    train(run_id)
    checkpoint = save_checkpoint(run_id, 7, {"weights.bin": b"w"})
    assert [each["id"] for each in orchestrator.json("run", "checkpoints", run_id)] == [checkpoint]
    folder = tmp_path / "download"
    folder.mkdir()
    assert orchestrator("run", "download", checkpoint, str(folder)).code == 0
    assert (folder / "weights.bin").read_bytes() == b"w"
    made = orchestrator.json("run", "create-model", checkpoint, "--name", "m", "--version", "1.0.0")
    assert "none yet" in orchestrator("model", "show", made["model_id"]).out
    served = orchestrator.json("model", "serve", "m", "--url", "http://127.0.0.1:9", "--server-model", "digits")
    assert served["endpoint"]["url"] == "http://127.0.0.1:9"
    wrong = orchestrator("run", "create-model", checkpoint, "--name", "m", "--version", "1")
    assert (wrong.code, "SemVer" in wrong.err) == (1, True)


def test_logs_are_printed_and_followed_to_the_end(orchestrator: Command, blueprint: str, tmp_path: Path) -> None:
    run_id = create(orchestrator, tmp_path)
    train(run_id)
    for number, text in enumerate((b"epoch 1\n", b"epoch 2\n")):
        keep_log(run_id, 1, number, text)
    assert orchestrator("run", "logs", run_id).out == "epoch 1\nepoch 2\n"
    intake.leave(run_id, 1, Exited(0))
    assert orchestrator("run", "logs", run_id, "--follow", "--launch", "1").out == "epoch 1\nepoch 2\n"


def test_a_run_that_was_not_launched_yet_has_no_log(orchestrator: Command, blueprint: str, tmp_path: Path) -> None:
    run_id = create(orchestrator, tmp_path)
    ran = orchestrator("run", "logs", run_id)
    assert (ran.code, ran.out) == (0, "")
    assert "not launched yet" in ran.err
    stop(run_id)
    drive(run_id, StageRuntime(), RunState.JOB_TERMINATED)
    ran = orchestrator("run", "logs", run_id, "--follow")
    assert (ran.code, "not launched yet" in ran.err) == (0, True)


def test_a_log_is_followed_from_before_the_launch(
    orchestrator: Command, blueprint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = create(orchestrator, tmp_path)

    def print_the_next() -> Iterator[None]:
        yield
        train(run_id)
        keep_log(run_id, 1, 0, b"epoch 1\n")
        yield
        keep_log(run_id, 1, 1, b"epoch 2\n")
        yield
        intake.leave(run_id, 1, Exited(0))
        yield

    life = print_the_next()
    monkeypatch.setattr("orchestrator.cli.run.time.sleep", lambda _: next(life))
    ran = orchestrator("run", "logs", run_id, "--follow")
    assert (ran.code, ran.out, ran.err) == (0, "epoch 1\nepoch 2\n", "")


def test_an_operation_may_be_called_anything(orchestrator: Command, blueprint: str, tmp_path: Path) -> None:
    run_id = create(orchestrator, tmp_path)
    train(run_id)
    progress = Progress(operation="train [/gpu0] :smile:", value=1, final_value=4, units="[img]")
    intake.record_progress(run_id, 1, [progress])
    shown = orchestrator("run", "show", run_id, width=120).out
    assert "train [/gpu0] :smile:" in shown
    assert "1 of 4 [img]" in shown
    watched, screen = WatchedRun(run_id), StringIO()
    Console(file=screen, width=120, emoji=False).print(watched.picture(watched.look()))
    assert "train [/gpu0] :smile:" in screen.getvalue()
    assert "1/4 [img]" in screen.getvalue()


def test_tags_are_drawn_as_they_are_and_not_too_many(orchestrator: Command, blueprint: str, tmp_path: Path) -> None:
    run_id = create(orchestrator, tmp_path)
    train(run_id)
    intake.record_metrics(run_id, 1, 10, [NewMetric(1, f"cost $a_$ {n}", 1.0) for n in range(30)])
    picture = tmp_path / "[loss].png"
    many = orchestrator("run", "metrics", run_id, "--plot", str(picture))
    assert (many.code, "--tag" in many.err, picture.exists()) == (1, True, False)
    few = orchestrator("run", "metrics", run_id, "--plot", str(picture), "--tag", "cost $a_$ 7", width=400)
    assert (few.code, str(picture) in few.out, picture.read_bytes()[:4]) == (0, True, b"\x89PNG")


@pytest.mark.parametrize("code, status", [(0, "job_completed"), (3, "job_failed")])
def test_a_run_that_is_over_is_watched_to_its_exit_code(
    orchestrator: Command, blueprint: str, tmp_path: Path, code: int, status: str
) -> None:
    run_id = create(orchestrator, tmp_path)
    train(run_id)
    intake.leave(run_id, 1, Exited(code))
    ran = orchestrator("run", "watch", run_id)
    assert ran.code == (1 if code else 0)
    assert "train 1/4 epochs  loss 0.1 at step 9" in ran.out
    assert status in ran.out
    lines = orchestrator("run", "watch", run_id, "--json")
    assert (lines.out.count("\n"), lines.json["status"]) == (1, status)
    assert orchestrator("run", "watch", "nobody").code == 1


def test_a_sparkline_fills_its_height_and_bears_anything() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert (sparkline([]), sparkline([5, 5]), sparkline([1e308, -1e308])) == ("", "▁▁", "█▁")
