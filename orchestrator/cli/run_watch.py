"""A training run as it goes: what `watch` shows of one, with a metric that is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import span, state
from orchestrator.cli.watch import Watched
from orchestrator.training_v2 import Metric, RunState
from orchestrator.training_v2.details import RunDetails, get_run_details
from orchestrator.training_v2.metrics import find_metrics

#: Metrics that are drawn, and the characters of the drawing, from low to high.
POINTS = 60
BARS = "▁▂▃▄▅▆▇█"


class WatchedRun(Watched[RunDetails]):
    """Status, a bar for each operation, and below them the metric `tag`, or the one that was measured last."""

    noun = "run"
    command = "run watch"

    def __init__(self, work_id: str, *, tag: str | None = None) -> None:
        super().__init__(work_id)
        self.tag = tag
        self.series: Sequence[Metric] = ()

    def look(self) -> RunDetails:
        run = get_run_details(self.work_id)
        self.series = _series(self.work_id, self.tag)
        return run

    def went_well(self, found: RunDetails) -> bool:
        return found.status is RunState.JOB_COMPLETED

    def summary(self, found: RunDetails) -> Text:
        text = Text.assemble(state(found.status.value))
        if found.finished_at is not None:
            text.append(f" after {span(found.finished_at - found.created_at)}, in launch {found.launch}")
        if found.reason:
            text.append(f"\n{found.reason}")
        if found.status is not RunState.JOB_COMPLETED:
            text.append(f"\n`orchestrator run logs {found.run_id}` shows what it printed", style="dim")
        return text

    def news(self, found: RunDetails) -> object:
        return found.model_copy(update={"heartbeat_at": None})

    def standing(self, found: RunDetails) -> object:
        return found.status, found.reason

    def line(self, found: RunDetails) -> Sequence[str]:
        done = [f"{each.operation} {each.value:g}/{each.final_value:g} {each.units}" for each in found.progress]
        return found.status.value, found.reason, *done, _newest(self.series)

    def picture(self, found: RunDetails) -> Group:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for ratio in (None, 1, None):
            table.add_column(ratio=ratio, no_wrap=True)
        for each in found.progress:
            bar = ProgressBar(total=each.final_value or 1, completed=each.value)
            table.add_row(Text(each.operation), bar, Text(f"{each.value:g}/{each.final_value:g} {each.units}"))
        drawn = Text.assemble((sparkline([metric.value for metric in self.series]), "cyan"), "  ", _newest(self.series))
        return Group(Text.assemble(state(found.status.value), ("  " + found.reason, "dim")), table, drawn)


def sparkline(values: Sequence[float]) -> str:
    """The values as a row of bars, the lowest and the highest filling the height."""
    if not values:
        return ""
    # Halves: the distance between two numbers may be more than a number can be.
    low, high = min(values) / 2, max(values) / 2
    height = (high - low) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((value / 2 - low) / height * len(BARS)))] for value in values)


def _series(run_id: str, tag: str | None) -> list[Metric]:
    """The newest metrics of a tag, oldest first; of the tag that was measured last, if none is named."""
    if tag is None:
        newest = find_metrics(run_id, limit=1)
        if not newest:
            return []
        tag = newest[0].tag
    return find_metrics(run_id, tags=[tag], limit=POINTS)[::-1]


def _newest(series: Sequence[Metric]) -> str:
    if not series:
        return ""
    return f"{series[-1].tag} {series[-1].value:.5g} at step {series[-1].global_step}"
