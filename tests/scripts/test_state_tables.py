"""The page of the architecture shows the state machines that the code runs on."""

from __future__ import annotations

from enum import StrEnum

import pytest

from orchestrator.ledger import MOVES, UnitState
from scripts.state_tables import PAGE, replaced, table, updated


class Door(StrEnum):
    OPEN = "open"
    SHUT = "shut"
    BRICKED_UP = "bricked_up"


def test_the_committed_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == updated(page), "run `make docs`"


def test_every_declared_move_of_a_unit_has_its_mark_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    start = page.index("<!-- states of unit -->")
    header, _, *lines = page[start : page.index("<!-- end -->", start)].splitlines()[1:]
    columns = [UnitState(cell.strip()) for cell in header.split("|")[2:-1]]
    shown = {
        UnitState(cells[0].strip(" *")): {to for to, mark in zip(columns, cells[1:], strict=True) if mark.strip()}
        for cells in (line.split("|")[1:-1] for line in lines)
    }
    assert shown == {state: set(targets) for state, targets in MOVES.items()}


def test_a_state_has_a_row_and_an_end_is_bold() -> None:
    moves = {Door.OPEN: {Door.SHUT}, Door.SHUT: {Door.OPEN, Door.BRICKED_UP}, Door.BRICKED_UP: set()}
    assert table(moves, {Door.BRICKED_UP}).splitlines() == [
        "| from \\ to | open | shut | bricked_up |",
        "|---|:-:|:-:|:-:|",
        "| open |   | ● |   |",
        "| shut | ● |   | ● |",
        "| **bricked_up** |   |   |   |",
    ]


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places for the states of door"):
        replaced("nothing here", "door", "table")
