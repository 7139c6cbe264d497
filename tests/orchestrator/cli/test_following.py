"""What every kind of work that is watched has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from rich.text import Text
from sqlalchemy.exc import OperationalError

from orchestrator.cli import watch
from orchestrator.cli.watch import AWAY, Watched, follow


@dataclass(frozen=True)
class Baking:
    state: str
    minute: int = 0

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "burnt")


class WatchedOven(Watched[Baking]):
    """Looks that were agreed on; None is one at which the database is away."""

    noun = "cake"
    command = "cake watch"

    def __init__(self, *looks: Baking | None) -> None:
        super().__init__("apple")
        self.looks = list(looks)

    def look(self) -> Baking:
        found = self.looks.pop(0)
        if found is None:
            raise OperationalError("SELECT", {}, Exception("connection refused"))
        return found

    def went_well(self, found: Baking) -> bool:
        return found.state == "done"

    def summary(self, found: Baking) -> Text:
        return Text(f"the cake is {found.state}")

    def standing(self, found: Baking) -> object:
        return found.state

    def line(self, found: Baking) -> Sequence[str]:
        return found.state, "", f"minute {found.minute}"

    def picture(self, found: Baking) -> Text:
        return Text(found.state)


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 0)


def test_a_line_follows_each_change_and_a_summary_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    oven = WatchedOven(Baking("rising"), Baking("rising", 1), Baking("brown", 2), Baking("done", 3))
    assert follow(oven) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["rising  minute 0", "brown  minute 2", "done  minute 3", "the cake is done"]


def test_as_json_every_change_is_a_line_and_nothing_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(WatchedOven(Baking("rising"), Baking("rising"), Baking("burnt", 1)), as_json=True) == 1
    assert capsys.readouterr().out == '{"state":"rising","minute":0}\n{"state":"burnt","minute":1}\n'


def test_a_database_that_is_away_for_some_looks_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(WatchedOven(Baking("rising"), None, None, Baking("done"))) == 0
    assert capsys.readouterr().err.count(AWAY) == 2


def test_a_database_that_is_away_from_the_beginning_is_an_error() -> None:
    with pytest.raises(OperationalError):
        follow(WatchedOven(None, Baking("done")))


def test_ctrl_c_ends_the_watching_and_says_how_to_look_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert follow(WatchedOven(Baking("rising"))) == 130
    assert "the cake goes on; look again with `orchestrator cake watch apple`" in capsys.readouterr().err
