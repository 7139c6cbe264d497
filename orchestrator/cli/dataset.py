"""`orchestrator dataset`: named lines of snapshots."""

from __future__ import annotations

import typer

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.names import find_project
from orchestrator.cli.output import JsonOption, ProjectOption, ago, moment, print_facts, print_json, print_table
from orchestrator.registry import create_dataset, list_datasets

app = typer.Typer(help="Named lines of snapshots, each in one project.", no_args_is_help=True)


@app.command("create", cls=NeedsDatabase)
def create(name: str, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Make an empty dataset."""
    owner = find_project(project)
    dataset = create_dataset(owner.id, name)
    if as_json:
        print_json(dataset)
        return
    facts = [("id", dataset.id), ("project", owner.name), ("created", moment(dataset.created_at))]
    print_facts(f"Dataset {dataset.name}", facts)


@app.command("list", cls=NeedsDatabase)
def list_(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List a project's datasets, by name."""
    datasets = list_datasets(find_project(project).id)
    if as_json:
        print_json(datasets)
        return
    print_table(
        ["ID", "NAME", "AGE#"],
        ([dataset.id, dataset.name, ago(dataset.created_at)] for dataset in datasets),
        empty="No dataset yet: `orchestrator dataset create NAME` makes one.",
    )
