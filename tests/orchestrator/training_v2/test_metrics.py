"""Metrics are found by steps and tags, however those are written, and however many they are."""

from __future__ import annotations

import pytest

from orchestrator.training_v2 import Run, intake
from orchestrator.training_v2.measured import NewMetric
from tests.support.training import Scene, StageRuntime, running


@pytest.mark.parametrize("steps", [None, [1], [1, 2]])
@pytest.mark.parametrize("tag", ["a\0b", "a\ud800", "ä"])
def test_a_metric_is_found_by_the_tag_it_was_reported_under(
    scene: Scene, runtime: StageRuntime, tag: str, steps: list[int] | None
) -> None:
    run_id = running(scene, runtime)
    intake.record_metrics(run_id, 1, 0, [NewMetric(1, tag, 1.0), NewMetric(1, "other", 2.0)])
    assert [each.value for each in Run.from_id(run_id).get_metrics(steps, [tag])] == [1.0]


@pytest.mark.parametrize("limit", [0, 1, 7, 30, 59, 60, 61, 1000])
@pytest.mark.parametrize("by_tag", [True, False])
def test_of_many_tags_or_steps_the_newest_are_found(
    scene: Scene, runtime: StageRuntime, limit: int, *, by_tag: bool
) -> None:
    run_id = running(scene, runtime)
    # Of some tags many are new, of others all are old.
    tags = [str(number % 7 if number < 50 else number % 2) for number in range(70)]
    intake.record_metrics(run_id, 1, 0, [NewMetric(int(tag), tag, n) for n, tag in enumerate(tags)])
    wanted = [n for n, tag in reversed(list(enumerate(tags))) if tag != "3"][:limit]
    chosen = [number for number in range(7) if number != 3]
    run = Run.from_id(run_id)
    found = run.get_metrics(tags=[*map(str, chosen)], limit=limit) if by_tag else run.get_metrics(chosen, limit=limit)
    assert [each.value for each in found] == wanted
