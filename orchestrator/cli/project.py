"""`orchestrator project`: the tenants that share the workers."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.output import JsonOption, ago, moment, print_facts, print_json, print_table
from orchestrator.registry import create_project, get_project, list_datasets, list_models, list_projects
from orchestrator.registry.models import Project

app = typer.Typer(help="Tenants, which share the workers by weight.", no_args_is_help=True)


@app.command("create", cls=NeedsDatabase)
def create(
    name: str,
    weight: Annotated[int, typer.Option(help="Its share of the workers when several projects compete.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Make a project."""
    _print(create_project(name, weight), as_json)


@app.command("list", cls=NeedsDatabase)
def list_(as_json: JsonOption = False) -> None:
    """List every project, by name."""
    projects = list_projects()
    if as_json:
        print_json(projects)
        return
    print_table(
        ["ID", "NAME", "WEIGHT#", "AGE#"],
        ([project.id, project.name, str(project.weight), ago(project.created_at)] for project in projects),
        empty="No project yet: `orchestrator project create NAME` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(name: Annotated[str, typer.Argument(help="Name or id.")], as_json: JsonOption = False) -> None:
    """Show a project, its datasets and its models."""
    _print(get_project(name), as_json)


def _print(project: Project, as_json: bool) -> None:
    if as_json:
        print_json(project)
        return
    print_facts(
        f"Project {project.name}",
        [
            ("id", project.id),
            ("weight", str(project.weight)),
            ("datasets", ", ".join(dataset.name for dataset in list_datasets(project.id))),
            ("models", ", ".join(dict.fromkeys(model.name for model in list_models(project.id)))),
            ("created", moment(project.created_at)),
        ],
    )
