"""A metric as training code reports it, and what it may be: the same in a trainer, on the way and in the control plane.

Trainers import this module, so that it imports nothing that is installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.training_v2.exceptions import ValidationError

#: Characters; an index holds tags.
LONGEST_TAG = 500
#: Steps are 64 bits wide.
LARGEST_STEP = 2**63 - 1


class NewMetric(NamedTuple):
    """A number that a trainer measured; None, NaN and infinity are not kept."""

    global_step: int
    tag: str
    value: float | None


def check_metrics(metrics: Sequence[NewMetric]) -> list[NewMetric]:
    """Those that can be kept.

    Raises:
        ValidationError: a tag is too long, or a step is no step.
    """
    for step, tag, _ in metrics:
        if not 0 < len(tag) <= LONGEST_TAG:
            raise ValidationError(f"tag {tag[:40]!r} has {len(tag)} characters: use 1 to {LONGEST_TAG}")
        check_step(step, f" of {tag!r}")
    return [metric for metric in metrics if metric.value is not None and math.isfinite(metric.value)]


def check_step(step: int, of: str = "") -> None:
    """Make sure that `step` is one.

    Raises:
        ValidationError: it is negative, or too large.
    """
    if not 0 <= step <= LARGEST_STEP:
        raise ValidationError(f"global_step {step}{of} is no step: count from 0")
