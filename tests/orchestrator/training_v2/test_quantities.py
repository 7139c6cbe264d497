"""Kubernetes quantities: what they mean, what is refused, and what fits."""

from __future__ import annotations

from decimal import Decimal
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.training_v2 import Gpu, Resources, ValidationError
from orchestrator.training_v2.quantities import Demand, demand_of, parse_quantity

GIB = 1 << 30


@pytest.mark.parametrize(
    "text, value",
    [
        ("1", 1),
        ("500m", Decimal("0.5")),
        ("0.1", Decimal("0.1")),
        (".5", Decimal("0.5")),
        ("2.", 2),
        ("5Gi", 5 * GIB),
        ("5000000Ki", 5_000_000 * 1024),
        ("20G", 20 * 10**9),
        ("1e3", 1000),
        ("12E2", 1200),
        ("1E", 10**18),
        ("1Ei", 1 << 60),
        ("100u", Decimal("0.0001")),
    ],
)
def test_a_quantity_is_the_number_that_kubernetes_takes_it_for(text: str, value: Decimal | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", "1 Gi", "1gi", "1K", "1kb", "NaN", "inf", "1e", "e3", "1e9999", "16Ei", "１", "1Gi\n"]
)
def test_what_is_no_quantity_or_not_above_zero_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(ValidationError, match=r"^resources.memory"):
        demand_of(Resources(cpu="1", memory=text))


@settings(deadline=None)
@given(st.from_regex(r"\A[1-9][0-9]{0,4}(\.[0-9]{1,3})?(m|k|M|G|Ki|Mi|Gi|e3)?\Z"))
def test_the_official_client_reads_the_same(text: str) -> None:
    client: ModuleType = pytest.importorskip("kubernetes.utils.quantity")
    assert parse_quantity(text) == client.parse_quantity(text)


def test_demands_are_in_cores_bytes_and_gpus() -> None:
    wanted = Resources(cpu="250m", memory="1.5Gi", ephemeral_storage="1k", gpu=Gpu(count=2, type="A100"))
    assert demand_of(wanted) == Demand(Decimal("0.25"), GIB * 3 // 2, 1000, {"A100": 2})
    with pytest.raises(ValidationError, match=r"resources\.gpu"):
        demand_of(Resources(cpu="1", memory="1Gi", gpu=Gpu(count=0, type="A100")))


@pytest.mark.parametrize(
    "wanted, lacking",
    [
        (Demand(Decimal(2), GIB), ""),
        (Demand(Decimal("2.001"), GIB), "cores"),
        (Demand(Decimal(1), 3 * GIB + 1), "memory"),
        (Demand(Decimal(1), GIB, 2), "storage"),
        (Demand(Decimal(1), GIB, gpus={"A100": 1}), "A100"),
        (Demand(Decimal(1), GIB, gpus={"T4": 2}), "T4"),
        (Demand(Decimal(1), GIB, gpus={"T4": 1}), ""),
    ],
)
def test_a_demand_fits_beside_what_is_taken_or_it_is_said_what_is_lacking(wanted: Demand, lacking: str) -> None:
    capacity = Demand(Decimal(4), 4 * GIB, 2, {"T4": 2})
    taken = [Demand(Decimal(1), GIB, 1), Demand(Decimal(1), 0, gpus={"T4": 1})]
    found = wanted.fits(capacity, taken)
    assert bool(found) == bool(lacking)
    assert lacking in found
