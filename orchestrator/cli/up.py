"""`orchestrator up`: everything on this machine, in one folder, until Ctrl-C."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from orchestrator import settings as configuration
from orchestrator.cli.output import JsonOption, console, counted, print_facts, print_json_line
from orchestrator.embedded import Addresses, Instance


def up(
    folder: Annotated[Path | None, typer.Argument(help="Where everything is kept; .orchestrator by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    database_url: Annotated[
        str | None, typer.Option(envvar="ORCHESTRATOR_DATABASE_URL", show_envvar=False, help="Instead of SQLite.")
    ] = None,
    blob_url: Annotated[
        str | None, typer.Option(envvar="ORCHESTRATOR_BLOB_URL", show_envvar=False, help="Instead of a folder.")
    ] = None,
    broker_url: Annotated[
        str | None, typer.Option(envvar="ORCHESTRATOR_BROKER_URL", show_envvar=False, help="Instead of a Redis.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run everything on this machine until Ctrl-C: database, blobs, a Redis, workers, beat.

    The three URLs may also be set as ORCHESTRATOR_DATABASE_URL, ORCHESTRATOR_BLOB_URL and
    ORCHESTRATOR_BROKER_URL: then that part is used, and not started.
    """
    for name, url in (("DATABASE", database_url), ("BLOB", blob_url), ("BROKER", broker_url)):
        if url:
            os.environ[f"ORCHESTRATOR_{name}_URL"] = url
    screen = JsonStatus() if as_json else Status()
    Instance(folder or configuration.home(), workers=workers).run(screen)


class Status:
    """A few lines once everything runs, then a line for whatever happens."""

    def __init__(self) -> None:
        if sys.stdout.isatty():
            console().print(Text("starting …", style="dim"))

    def ready(self, addresses: Addresses) -> None:
        names = [name for name in addresses.processes if name.startswith("worker")]
        print_facts(
            Text.assemble(("Orchestrator is up", "bold green"), f", after {addresses.ready_after:.1f} s"),
            [
                ("database", addresses.database),
                ("blobs", addresses.blobs),
                ("broker", addresses.broker),
                ("workers", f"{counted(len(names), 'process').replace('processs', 'processes')}, and beat"),
                ("metrics", f"{addresses.metrics['beat']} (of beat; workers: {addresses.folder / 'metrics.json'})"),
                ("logs", str(addresses.folder / "logs")),
            ],
        )
        if addresses.folder != Path.cwd() / ".orchestrator":
            console().print(Text(f"In another shell: export ORCHESTRATOR_HOME={addresses.folder}", style="dim"))
        console().print(Text("Ctrl-C stops everything.", style="dim"))

    def event(self, text: str) -> None:
        typer.secho(text, fg=typer.colors.YELLOW)

    def stopped(self) -> None:
        console().print(Text("stopped", style="dim"))


class JsonStatus:
    """The same, as a line of JSON each."""

    def ready(self, addresses: Addresses) -> None:
        print_json_line({"event": "ready", **{name: getattr(addresses, name) for name in Addresses.__slots__}})

    def event(self, text: str) -> None:
        print_json_line({"event": "note", "text": text})

    def stopped(self) -> None:
        print_json_line({"event": "stopped"})
