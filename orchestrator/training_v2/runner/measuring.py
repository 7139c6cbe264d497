"""What a trainer measures, checked where it is reported, so that an error points to the line that made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from operator import index
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

from orchestrator.training_v2.exceptions import ValidationError
from orchestrator.training_v2.measured import NewMetric, check_metrics
from orchestrator.training_v2.runner.stream import stream
from orchestrator.training_v2.runner.wire import Progress

#: Metrics that are checked and handed on together.
BATCH = 1000
#: Bars of a run's progress, and the characters of what is written on one: in their longest spelling they fit into one
#: message.
BARS = 1000
LONGEST_OPERATION = 1000
LONGEST_UNITS = 100


class Metric(NamedTuple):
    """A number that was measured at a step; None, NaN and infinity are not kept."""

    tag: str
    value: SupportsFloat | None
    global_step: SupportsIndex


def save_metric(tag: str, value: SupportsFloat | None, global_step: SupportsIndex) -> None:
    """Report one metric; see `save_metrics`."""
    stream().add(_checked([_converted(tag, value, global_step)]))


def save_metrics(metrics: Iterable[Metric | Mapping[str, Any]]) -> None:
    """Report metrics, in their order. Returns at once, unless very many wait to be stored.

    Parameters:
        metrics: Each a `Metric`, or a mapping with its fields. Values may be anything that has a float, such as
            a NumPy scalar or a tensor of one element. Those that are not finite are not kept.

    Raises:
        NotInARun: this process is no run's trainer.
        ValidationError: a metric is wrong: its tag has no or more than 500 characters, or its step is negative.
            Of more than 1,000 metrics, those before may have been reported.
        SupervisorGone: the supervisor has gone.
        StaleLaunch: the launch is over: end the trainer.
    """
    # Opened first, so that outside a run the error is the same whatever is reported.
    ours, rest = stream(), iter(metrics)
    while batch := list(islice(rest, BATCH)):
        ours.add(_checked([_metric(each) for each in batch]))


def save_progress(progress: Iterable[Progress | Mapping[str, Any]]) -> None:
    """Replace the run's progress: a bar for each operation. Returns at once.

    Raises:
        NotInARun: this process is no run's trainer.
        ValidationError: a value is no finite number; an operation has more than 1,000 characters, or units have
            more than 100; or there are more than 1,000 bars.
        SupervisorGone: the supervisor has gone.
        StaleLaunch: the launch is over: end the trainer.
    """
    ours = stream()
    bars = [_progress(each) for each in islice(progress, BARS + 1)]
    if len(bars) > BARS:
        raise ValidationError(f"progress: these are more than {BARS:,} bars: nobody could look at them")
    ours.replace(bars)


def _checked(metrics: list[NewMetric]) -> list[NewMetric]:
    check_metrics(metrics)
    return metrics


def _metric(given: Metric | Mapping[str, Any]) -> NewMetric:
    if isinstance(given, Metric):
        return _converted(*given)
    try:
        return _converted(*Metric(**given))
    except TypeError as error:
        raise ValidationError(f"metric {given!r:.200}: give tag, value and global_step ({error})") from None


def _converted(tag: str, value: SupportsFloat | None, global_step: SupportsIndex) -> NewMetric:
    if not isinstance(tag, str):
        raise ValidationError(f"tag {tag!r:.80} is no text")
    try:
        return NewMetric(index(global_step), tag, None if value is None else float(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValidationError(f"metric {tag[:40]!r} at step {global_step!r:.40}: {error}") from None


def _progress(given: Progress | Mapping[str, Any]) -> Progress:
    try:
        each = given if isinstance(given, Progress) else Progress(**given)
        converted = Progress(str(each.operation), float(each.value), float(each.final_value), str(each.units))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValidationError(f"progress {given!r:.200}: {error}") from None
    if not (math.isfinite(converted.value) and math.isfinite(converted.final_value)):
        raise ValidationError(f"progress {converted.operation[:40]!r}: value and final_value must be finite numbers")
    if len(converted.operation) > LONGEST_OPERATION or len(converted.units) > LONGEST_UNITS:
        raise ValidationError(
            f"progress {converted.operation[:40]!r}: use up to {LONGEST_OPERATION:,} characters, "
            f"and for units up to {LONGEST_UNITS}"
        )
    return converted
