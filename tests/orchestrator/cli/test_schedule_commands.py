"""Schedules from a shell: made, previewed, shown, changed, paused, run at once, deleted."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.schedule import Kind
from orchestrator.cli.times import parse_instant, parse_span, show_span
from workers.tasks.submissions import KINDS

if TYPE_CHECKING:
    from tests.orchestrator.cli.conftest import Catalog, Command

NIGHTLY = ("--cron", "30 2 * * *", "--zone", "Europe/Berlin")


def create(orchestrator: Command, *options: str) -> Any:
    return orchestrator.json("schedule", "create", "nightly", "-k", "bulk_inference", *(options or NIGHTLY))


def test_a_schedule_is_made_of_a_request_and_a_timing(orchestrator: Command, catalog: Catalog, tmp_path: Path) -> None:
    request = {"model_id": catalog.model_id, "dataset_snapshot_split": "test"}
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))
    options = (*NIGHTLY, "--spec", str(file), "--overlap", "queue", "--catch-up", "1h30m", "--priority", "5")
    made = create(orchestrator, *options)
    assert (made["project_id"], made["kind"], made["spec"]) == (catalog.project_id, "bulk_inference", request)
    assert (made["overlap"], made["catch_up"], made["options"]) == ("queue", "PT1H30M", {"priority": 5})
    assert len(made["next_times"]) == 5
    assert made["next_times"][0] == made["next_due_at"]


@pytest.mark.usefixtures("catalog")
def test_what_is_shown_tells_the_next_times_as_the_zones_clock_does(orchestrator: Command) -> None:
    made = create(orchestrator, *NIGHTLY, "--start", "2030-03-30", "--spec", '{"a": 1}')
    shown = orchestrator("schedule", "show", "nightly").out
    for said in (
        made["id"],
        "30 2 * * *  Europe/Berlin",
        "Sat 2030-03-30 02:30 CET",
        "Sun 2030-03-31 03:30 CEST",
        "skip: nothing is submitted",
        "late by no more than 1h",
    ):
        assert said in shown
    listed = orchestrator("schedule", "list").out
    assert "nightly" in listed
    assert max(map(len, listed.splitlines())) <= 80


def test_a_timing_is_previewed_without_a_database(orchestrator: Command) -> None:
    said = orchestrator("schedule", "next", "--every", "90m", "--start", "2030-01-01T06:00", "-n", "2")
    assert said.out.splitlines() == ["Tue 2030-01-01 06:00 UTC", "Tue 2030-01-01 07:30 UTC"]
    assert orchestrator("schedule", "next", "--cron", "0 25 * * *").code == 1
    assert "five fields" in orchestrator("schedule", "next", "--cron", "0 25").err


@pytest.mark.usefixtures("catalog")
def test_a_schedule_is_changed_paused_and_resumed(orchestrator: Command) -> None:
    made = create(orchestrator, "--every", "15m", "--end", "2040-01-01")
    assert made["every"] == "PT15M"
    edited = orchestrator.json("schedule", "edit", "nightly", "--cron", "0 6 * * 1-5", "--name", "weekdays")
    assert (edited["id"], edited["name"], edited["every"]) == (made["id"], "weekdays", None)
    assert edited["cron"] == "0 6 * * 1-5"
    assert orchestrator.json("schedule", "edit", "weekdays", "--end", "never")["ends_at"] is None
    assert orchestrator.json("schedule", "pause", "weekdays")["paused"] is True
    assert "paused" in orchestrator("schedule", "show", "weekdays").out
    assert "paused" in orchestrator("schedule", "list").out
    assert orchestrator.json("schedule", "resume", made["id"])["paused"] is False
    assert "nothing to change" in orchestrator("schedule", "edit", "weekdays").err


@pytest.mark.usefixtures("catalog")
def test_a_run_at_once_shows_in_the_history_of_even_a_deleted_schedule(orchestrator: Command) -> None:
    schedule_id = create(orchestrator)["id"]
    assert "has not been due yet" in orchestrator("schedule", "history", "nightly").out
    assert orchestrator("schedule", "run", "nightly").code == 0
    assert orchestrator("schedule", "delete", "nightly").code == 0
    assert orchestrator("schedule", "show", "nightly").code == 1
    assert "No schedule yet" in orchestrator("schedule", "list").out
    [occurrence] = orchestrator.json("schedule", "history", schedule_id)
    assert (occurrence["state"], occurrence["reason"]) == ("fired", "somebody asked for it")
    assert "somebody asked for it" in orchestrator("schedule", "history", schedule_id, width=120).out


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize(
    "options, says",
    [
        ((), "give one of the two"),
        (("--cron", "0 0 * * *", "--every", "1h"), "give one of the two"),
        ((*NIGHTLY[:3], "Mars/Olympus"), "no IANA name"),
        (("--every", "soon"), "no length of time"),
        (("--every", "0s"), "whole number of seconds"),
        ((*NIGHTLY, "--spec", "{]"), "no JSON"),
        ((*NIGHTLY, "--spec", "nowhere.json"), "nowhere.json"),
        ((*NIGHTLY, "--start", "tomorrow"), "no instant"),
        ((*NIGHTLY, "--start", "2031-01-01", "--end", "2030-01-01"), "before starts_at"),
        ((*NIGHTLY, "--project", "other"), "other"),
    ],
)
def test_a_mistake_is_a_line_that_says_what_would_be_right(
    orchestrator: Command, options: tuple[str, ...], says: str
) -> None:
    ran = orchestrator("schedule", "create", "nightly", "-k", "bulk_inference", *options, width=200)
    assert ran.code in (1, 2, 3)
    assert says in ran.err
    assert orchestrator.json("schedule", "list") == []


def test_every_kind_of_job_that_a_message_may_ask_for_can_be_scheduled() -> None:
    assert {kind.value for kind in Kind} == set(KINDS)


@pytest.mark.usefixtures("catalog")
def test_a_name_is_taken_once(orchestrator: Command) -> None:
    create(orchestrator)
    ran = orchestrator("schedule", "create", "nightly", "-k", "retention", *NIGHTLY)
    assert (ran.code, "has a schedule" in ran.err) == (1, True)


@given(st.integers(0, 10**8))
def test_a_length_of_time_is_read_as_it_is_shown(seconds: int) -> None:
    length = timedelta(seconds=seconds)
    assert parse_span(show_span(length)) == length


@pytest.mark.parametrize("text", ["", "1", "1y", "-1h", "1h x", "h", "1.5h", "9" * 30 + "d"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_span(text)


def test_an_instant_without_offset_is_what_the_zones_clock_shows() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert parse_instant("2030-07-01T12:00", berlin) == parse_instant("2030-07-01T10:00:00Z", berlin)
