"""What a person sees who asks where nothing is, or nothing answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import schema
from orchestrator.settings import settings
from tests.conftest import forget_settings

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.orchestrator.cli.conftest import Command


def test_asking_where_there_is_no_database_makes_none(orchestrator: Command, home: Path) -> None:
    for arguments in (("project", "list"), ("bulk-inference", "list"), ("work", "list"), ("db", "current")):
        ran = orchestrator(*arguments)
        assert ran.code == 3
        assert "orchestrator db upgrade" in ran.err
        assert ran.err.count("\n") == 1
    assert orchestrator("doctor").code == 1
    assert not home.exists()


def test_a_database_without_tables_wants_an_upgrade(orchestrator: Command, home: Path) -> None:
    home.mkdir()
    (home / "orchestrator.db").touch()
    ran = orchestrator("project", "list")
    assert ran.code == 3
    assert "run `orchestrator db upgrade`" in ran.err
    assert orchestrator("db", "current").code == 3
    upgraded = orchestrator.json("db", "upgrade")
    assert (upgraded["before"], upgraded["after"]) == (None, schema.head())
    assert orchestrator.json("db", "current")["current"] == schema.head()
    assert "newest" in orchestrator("db", "upgrade").out
    assert orchestrator.json("project", "list") == []


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_postgresql_without_tables_wants_an_upgrade(
    orchestrator: Command, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = database.url.set(database="template1").render_as_string(hide_password=False)
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", empty)
    forget_settings()
    ran = orchestrator("project", "list")
    assert ran.code == 3
    assert "run `orchestrator db upgrade`" in ran.err


def test_a_database_that_is_away_is_named_without_its_password(
    orchestrator: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", "postgresql://someone:s3cret@127.0.0.1:1/nowhere?password=s3cret")
    forget_settings()
    for arguments in (("project", "list"), ("doctor",), ("db", "upgrade")):
        ran = orchestrator(*arguments)
        assert ran.code == (1 if arguments == ("doctor",) else 3)
        assert "s3cret" not in ran.out + ran.err
        assert "127.0.0.1:1" in ran.out + ran.err
        assert "does not answer" in " ".join((ran.out + ran.err).split())


@pytest.mark.parametrize(
    "variable, value, said",
    [
        ("ORCHESTRATOR_DATABASE_URL", "nonsense", "postgresql://user:password@host/database"),
        ("ORCHESTRATOR_LEASE_SECONDS", "soon", "lease_seconds"),
    ],
)
def test_a_wrong_setting_is_a_usage_error_that_names_it(
    orchestrator: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    settings.cache_clear()
    ran = orchestrator("project", "list")
    assert ran.code == 2
    assert said in ran.err
    monkeypatch.delenv(variable)


def test_an_unknown_command_is_a_usage_error(orchestrator: Command) -> None:
    assert orchestrator("project", "destroy").code == 2
    assert orchestrator("bulk-inference", "submit").code == 2


def test_every_command_has_json_and_help(orchestrator: Command) -> None:
    nouns = {
        (): ("up", "demo", "doctor", "flower"),
        ("db",): ("upgrade", "current"),
        ("project",): ("create", "list", "show"),
        ("dataset",): ("create", "list"),
        ("snapshot",): ("import", "list", "show"),
        ("model",): ("register", "list", "show"),
        ("work",): ("list", "dead", "retry", "rejected"),
        ("bulk-inference",): (*("submit", "list", "show", "watch", "abort", "pause", "resume", "failures", "retry"),),
    }
    for noun, verbs in nouns.items():
        for verb in verbs:
            ran = orchestrator(*noun, verb, "--help")
            assert ran.code == 0, (noun, verb)
            assert "--json" in ran.out, (noun, verb)


def test_a_folder_that_cannot_be_made_is_named(orchestrator: Command, home: Path) -> None:
    home.touch()  # a file where the folder should be
    for arguments in (("db", "upgrade"), ("up",)):
        ran = orchestrator(*arguments)
        assert (ran.code, ran.err.count("\n")) == (3, 1)
        assert str(home) in ran.err


def test_a_database_of_another_make_is_refused(orchestrator: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", "mysql://somewhere/else")
    forget_settings()
    ran = orchestrator("project", "list")
    assert ran.code == 2
    assert "use sqlite:///file or postgresql://" in ran.err


def test_a_number_that_no_column_holds_is_refused(orchestrator: Command, database: Database) -> None:
    assert database.url
    for arguments in (("project", "create", "x", "--weight", "9" * 20), ("bulk-inference", "list", "-n", "9" * 20)):
        ran = orchestrator(*arguments)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "a number is too large" in ran.err


def test_an_argument_that_is_not_text_is_refused(orchestrator: Command, database: Database) -> None:
    assert database.url
    for arguments in (("project", "show"), ("model", "show"), ("snapshot", "show"), ("work", "retry")):
        ran = orchestrator(*arguments, "latin \udcff")
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "not UTF-8 text" in ran.err
