"""`orchestrator db`: the database's schema."""

from __future__ import annotations

import typer

from orchestrator import schema
from orchestrator.cli.guard import UNAVAILABLE, NeedsDatabase, complain, shown_database
from orchestrator.cli.output import JsonOption, console, print_json

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(as_json: JsonOption = False) -> None:
    """Make or change the tables to what this version needs; done twice, it does nothing."""
    before = schema.current()
    schema.upgrade()
    after = schema.current()
    if as_json:
        print_json({"database": shown_database(), "before": before, "after": after})
    elif before == after:
        console().print(f"{shown_database()} is at {after}, the newest migration")
    else:
        console().print(f"{shown_database()}: upgraded from {before or 'nothing'} to {after}")


@app.command("current", cls=NeedsDatabase)
def current(as_json: JsonOption = False) -> None:
    """Say which migration the database is at; exit code 3 if that is not the newest."""
    found, newest = schema.current(), schema.head()
    if as_json:
        print_json({"database": shown_database(), "current": found, "head": newest})
    else:
        console().print(f"{shown_database()} is at {found or 'no migration'}; the newest is {newest}")
    if found != newest:
        complain("the database is not at the newest migration: run `orchestrator db upgrade`")
        raise typer.Exit(UNAVAILABLE)
