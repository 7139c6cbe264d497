"""The ledger, dispatch, reconcile and the lifecycle of a job under everything that may go wrong, seed by seed.

A seed that fails is printed with the command that replays it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.mutations import MUTANTS, NAMED
from tests.simulation.run import Simulator, simulator
from tests.support.seed import SEED

#: Seconds within which a mutant must be noticed, by the issue.
NOTICED_WITHIN = 60.0
#: Seeds of every run of the suite, and of `make chaos`; the latter begins where the run's seed says.
SOME, MANY, THOUSANDS = 40, 200, 4000


@pytest.fixture
def simulated(home: Path) -> Iterator[Simulator]:
    with simulator() as running:
        yield running


def test_whatever_goes_wrong_nothing_is_lost_doubled_or_stuck(simulated: Simulator) -> None:
    for seed in range(SOME):
        result = simulated.run(seed)
        assert not result.violation, f"python -m tests.simulation --verbose --seed {seed}: {result.violation}"


def test_a_seed_replays_step_by_step_whatever_ran_before_it(simulated: Simulator) -> None:
    first = simulated.run(3)
    simulated.run(4)
    again = simulated.run(3)
    assert first.trace
    assert again == first


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", NAMED)
def test_without_what_its_promises_stand_on_a_violation_is_found(simulated: Simulator, mutant: str) -> None:
    _must_be_noticed(simulated, mutant)


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name not in NAMED])
def test_without_any_of_its_safeguards_a_violation_is_found(simulated: Simulator, mutant: str) -> None:
    _must_be_noticed(simulated, mutant)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "count", [pytest.param(MANY, marks=pytest.mark.chaos), pytest.param(THOUSANDS, marks=pytest.mark.endurance)]
)
def test_seeds_that_nobody_has_tried_find_nothing(count: int) -> None:
    seeds = ["--seeds", str(count), "--first", str(SEED * THOUSANDS)]
    command = [sys.executable, "-m", "tests.simulation", "--jobs", "2", *seeds]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _must_be_noticed(simulated: Simulator, mutant: str) -> None:
    found = simulated.first_violation(range(10_000), within=NOTICED_WITHIN, mutant=mutant)
    assert found is not None, f"nobody notices that there is no {mutant}"
    assert not simulated.run(found.seed).violation, "the product itself fails, mutant or not"
    print(f"without {mutant}: seed {found.seed}: {found.violation}")
