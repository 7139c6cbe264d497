"""The guide's training code does what the guide says."""

from __future__ import annotations

import re
import signal

from orchestrator.training_v2 import Run, intake
from tests.support.processes import ROOT, wait_until
from tests.support.trainers import supervised
from tests.support.training import Scene, StageRuntime, fall_silent, running, take_step


def test_a_run_that_was_stopped_ends_with_the_same_weights(scene: Scene, runtime: StageRuntime) -> None:
    code = re.search(r"```python\n(# train\.py\n.*?)```", (ROOT / "docs/guide.md").read_text(), re.DOTALL)
    assert code is not None
    never_stopped, stopped = running(scene, runtime), running(scene, runtime)
    with supervised(never_stopped) as ours:
        result = ours.run(code[1])
    assert result.startswith("ended after 3 epochs with 0.9")

    # It is slowed down, so that there is a moment to stop it in.
    slow = (
        code[1]
        .replace("print(", "print(runner.stop_requested(), ")
        .replace("    with runner", "    runner.wait_for_stop(60)\n    with runner")
    )
    with supervised(stopped) as ours:
        trainer = ours.start(slow)
        wait_until(lambda: Run.from_id(stopped).progress, "an epoch is over")
        trainer.send_signal(signal.SIGTERM)
        assert trainer.wait(60) == 0
        ours.close()
        assert ours.log().startswith("True ended after 1 epochs")
    fall_silent(stopped)
    for _ in range(4):
        take_step(stopped, runtime)
    intake.arrive(stopped, 2, "another")
    with supervised(stopped, launch=2) as ours:
        assert ours.run(code[1]) == result
    assert [metric.global_step for metric in Run.from_id(stopped).get_metrics(tags=["val/loss"])] == [3, 2, 1]
