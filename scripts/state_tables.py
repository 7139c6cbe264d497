"""Write the state machines into docs/architecture.md, from the tables of moves that the code runs on."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from orchestrator.bulk_inference.lifecycle import LIFECYCLE as BULK_INFERENCE
from orchestrator.inference_store.exports.lifecycle import LIFECYCLE as EXPORT
from orchestrator.inference_store.retention.lifecycle import LIFECYCLE as RETENTION
from orchestrator.ledger import MOVES, UNFINISHED, UnitState
from orchestrator.training_v2.lifecycle import LIFECYCLE as TRAINING

S = TypeVar("S", bound=StrEnum)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
UNIT_TERMINAL = frozenset(UnitState) - frozenset(UNFINISHED)


def main() -> int:
    """Bring the page up to date; with `--check`, only say whether it is, and return 1 if it is not."""
    page = PAGE.read_text(encoding="utf-8")
    current = updated(page)
    if current == page:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{PAGE.name} differs from the tables of moves: run `make docs`")
        return 1
    PAGE.write_text(current, encoding="utf-8")
    print(f"{PAGE.name} is up to date now")
    return 0


def updated(page: str) -> str:
    """`page` with each state machine's table made anew.

    Raises:
        ValueError: the page has no place for one of them.
    """
    page = replaced(page, "unit", table(MOVES, UNIT_TERMINAL))
    page = replaced(page, BULK_INFERENCE.name, table(BULK_INFERENCE.moves, BULK_INFERENCE.terminal))
    page = replaced(page, EXPORT.name, table(EXPORT.moves, EXPORT.terminal))
    page = replaced(page, RETENTION.name, table(RETENTION.moves, RETENTION.terminal))
    return replaced(page, TRAINING.name, table(TRAINING.moves, TRAINING.terminal))


def table(moves: Mapping[S, Collection[S]], terminal: Collection[S]) -> str:
    """A table of moves: a row for each state, a column for each state that can be reached.

    Nothing happens by itself in a **terminal** state: only a person's wish leads out of it.
    """
    states = list(moves)
    reached = [state for state in states if any(state in targets for targets in moves.values())]
    lines = [
        f"| from \\ to | {' | '.join(map(str, reached))} |",
        f"|---|{':-:|' * len(reached)}",
    ]
    for state in states:
        name = f"**{state}**" if state in terminal else str(state)
        marks = ["●" if target in moves[state] else " " for target in reached]
        lines.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(lines)


def replaced(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks of `name`."""
    pattern = re.compile(rf"(<!-- states of {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    result, count = pattern.subn(lambda found: found[1] + text + found[2], page)
    if count != 1:
        raise ValueError(f"{PAGE.name} has {count} places for the states of {name}: it needs one")
    return result


if __name__ == "__main__":
    sys.exit(main())
