"""Runs simulations: one, or many after each other until one fails or the time is up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tests.simulation.database import Database
from tests.simulation.mutations import MUTANTS
from tests.simulation.scene import Scene
from tests.simulation.stand_ins import Stage, installed
from tests.simulation.world import Result, World


class Simulator:
    """The product on its stand-ins, ready for one seed after the other."""

    def __init__(self, stage: Stage, database: Database) -> None:
        self.stage = stage
        self.database = database
        self.scene = Scene(database)

    def run(self, seed: int, mutant: str | None = None) -> Result:
        """Everything that happens under a seed, perhaps to a mutant of the product; the same every time."""
        with self._mutated(mutant):
            return self._run(seed)

    def _run(self, seed: int) -> Result:
        return World(seed, self.stage, self.database, self.scene).run()

    def _mutated(self, mutant: str | None) -> AbstractContextManager[Any]:
        return nullcontext() if mutant is None else MUTANTS[mutant](self.database)

    def first_violation(self, seeds: Iterable[int], *, within: float, mutant: str | None = None) -> Result | None:
        """The first seed that fails, if one does within so many seconds of this process's work."""
        deadline = time.process_time() + within
        with self._mutated(mutant):
            for seed in seeds:
                result = self._run(seed)
                if result.violation:
                    return result
                if time.process_time() >= deadline:
                    return None
        return None


@contextmanager
def simulator() -> Iterator[Simulator]:
    """A simulator, for as long as the product may be on its stand-ins."""
    with installed() as (stage, database):
        yield Simulator(stage, database)
