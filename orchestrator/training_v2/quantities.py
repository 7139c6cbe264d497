"""Kubernetes quantities: what they say, and whether what a run demands fits into what is left."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from orchestrator.training_v2.exceptions import ValidationError
from orchestrator.training_v2.models import Resources

# The official client parses quantities too, but comes with all of Kubernetes, and takes "" and "1kb".
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:([eE][+-]?\d{1,3})|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?", re.ASCII)

_SUFFIXES = {
    **{
        suffix: Decimal(1000) ** power
        for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
    },
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}
#: Kubernetes allows no quantity above this.
_LARGEST = Decimal(2) ** 63 - 1


def parse_quantity(text: str, what: str = "quantity") -> Decimal:
    """The number that a quantity says: `parse_quantity("500m")` is a half; `what` names it in an error.

    Raises:
        ValidationError: it is no quantity, or is not above zero.
    """
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValidationError(f'{what}: {text[:80]!r} is no quantity: use one such as "2", "500m" or "5Gi"')
    number, exponent, suffix = found.groups()
    value = Decimal(number + (exponent or "")) * _SUFFIXES[suffix or ""]
    if not 0 < value <= _LARGEST:
        raise ValidationError(f"{what}: {text[:80]!r} must be above zero, and below 2^63")
    return value


@dataclass(frozen=True, slots=True)
class Demand:
    """Resources in plain numbers: cores, bytes, and GPUs by type."""

    cpu: Decimal
    memory: int
    ephemeral_storage: int = 0
    gpus: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def fits(self, capacity: Demand, used: Iterable[Demand] = ()) -> str:
        """What is lacking of `capacity`, of which `used` is taken; empty when everything is there."""
        taken = [*used, self]
        if sum(each.cpu for each in taken) > capacity.cpu:
            return f"{float(self.cpu):g} cores are needed, and not free"
        if sum(each.memory for each in taken) > capacity.memory:
            return f"{self.memory:,} bytes of memory are needed, and not free"
        if capacity.ephemeral_storage and sum(each.ephemeral_storage for each in taken) > capacity.ephemeral_storage:
            return f"{self.ephemeral_storage:,} bytes of storage are needed, and not free"
        for kind, count in self.gpus.items():
            if sum(each.gpus.get(kind, 0) for each in taken) > capacity.gpus.get(kind, 0):
                return f"{count} {kind} are needed, and not free"
        return ""


def demand_of(resources: Resources) -> Demand:
    """What `resources` say.

    Raises:
        ValidationError: one of them is no quantity, or not above zero.
    """
    storage, gpu = resources.ephemeral_storage, resources.gpu
    if gpu is not None and (gpu.count < 1 or not gpu.type):
        raise ValidationError(f"resources.gpu: {gpu.count} of type {gpu.type!r}: give at least one, and its type")
    return Demand(
        cpu=parse_quantity(resources.cpu, "resources.cpu"),
        memory=_whole(parse_quantity(resources.memory, "resources.memory")),
        ephemeral_storage=0 if storage is None else _whole(parse_quantity(storage, "resources.ephemeral_storage")),
        gpus={} if gpu is None else {gpu.type: gpu.count},
    )


def _whole(value: Decimal) -> int:
    """Bytes: Kubernetes rounds up what is no whole number of them."""
    return int(value.to_integral_value(rounding="ROUND_CEILING"))
