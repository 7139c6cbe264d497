"""The command as a whole: every noun in its place."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Annotated

import structlog
import typer

from orchestrator.cli import (
    blueprint,
    bulk_inference,
    dataset,
    db,
    demo,
    doctor,
    export,
    flower,
    inference,
    model,
    project,
    retention,
    run,
    schedule,
    snapshot,
    up,
    work,
)
from orchestrator.cli.guard import Guarded

#: Panels of `orchestrator --help`.
RUNNING, JOBS, REGISTRY = "Run", "Jobs", "Registry"

app = typer.Typer(
    name="orchestrator",
    cls=Guarded,
    help="Durable jobs for machine learning: submit once; kill anything; the result is the same.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up", rich_help_panel=RUNNING)(up.up)
app.command("demo", rich_help_panel=RUNNING, context_settings=demo.CONTEXT)(demo.demo)
app.command("doctor", rich_help_panel=RUNNING)(doctor.doctor)
app.command("flower", rich_help_panel=RUNNING)(flower.flower)
app.add_typer(db.app, name="db", rich_help_panel=RUNNING)
app.add_typer(bulk_inference.app, name="bulk-inference", rich_help_panel=JOBS)
app.add_typer(inference.app, name="inference", rich_help_panel=JOBS)
app.add_typer(export.app, name="export", rich_help_panel=JOBS)
app.add_typer(retention.app, name="retention", rich_help_panel=JOBS)
app.add_typer(run.app, name="run", rich_help_panel=JOBS)
app.add_typer(schedule.app, name="schedule", rich_help_panel=JOBS)
app.add_typer(work.app, name="work", rich_help_panel=JOBS)
app.add_typer(project.app, name="project", rich_help_panel=REGISTRY)
app.add_typer(dataset.app, name="dataset", rich_help_panel=REGISTRY)
app.add_typer(snapshot.app, name="snapshot", rich_help_panel=REGISTRY)
app.add_typer(model.app, name="model", rich_help_panel=REGISTRY)
app.add_typer(blueprint.app, name="blueprint", rich_help_panel=REGISTRY)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("orchestrator"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    """Hold the options that stand before any noun."""


def quiet_logs() -> None:
    """Leave the terminal to the command: only errors are logged, on stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def main() -> None:
    """Run the command that this process was called with."""
    quiet_logs()
    app()
