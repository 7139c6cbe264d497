"""`orchestrator snapshot`: immutable sets of datums, imported from a folder or an archive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.names import find_any_snapshot, find_dataset
from orchestrator.cli.output import (
    JsonOption,
    ProjectOption,
    ago,
    counted,
    moment,
    print_facts,
    print_json,
    print_table,
)
from orchestrator.registry import import_snapshot, list_snapshots
from orchestrator.registry.models import Snapshot

app = typer.Typer(help="Immutable sets of datums, in splits.", no_args_is_help=True)

DatasetArgument = Annotated[str, typer.Argument(help="Name or id of the dataset.")]


@app.command("import", cls=NeedsDatabase)
def import_(
    dataset: DatasetArgument,
    source: Annotated[Path, typer.Argument(help="A folder, or a .zip, .tar, .tar.gz or .tgz file.")],
    name: Annotated[str | None, typer.Option(help="What to call it; after the source by default.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a snapshot: all of it, or on any error nothing.

    `annotations.jsonl` at the root of the source describes its files, a line each:
    {"path": "train/1.png", "annotations": [{"class_label": "7"}]}.
    """
    with _progress(source, hidden=as_json) as report:
        snapshot = import_snapshot(find_dataset(dataset, project).id, source, name=name, progress=report)
    _print(snapshot, as_json)


@app.command("list", cls=NeedsDatabase)
def list_(dataset: DatasetArgument, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List a dataset's snapshots, newest first."""
    snapshots = list_snapshots(find_dataset(dataset, project).id)
    if as_json:
        print_json(snapshots)
        return
    print_table(
        ["ID", "NAME", "SPLITS", "AGE#"],
        ([snapshot.id, snapshot.name, _sizes(snapshot), ago(snapshot.created_at)] for snapshot in snapshots),
        empty=f"No snapshot yet: `orchestrator snapshot import {dataset} PATH` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(
    snapshot: Annotated[str, typer.Argument(help="Id, or with --dataset also the name.")],
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="Name or id of the dataset.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a snapshot and its splits."""
    _print(find_any_snapshot(snapshot, dataset, project), as_json)


@contextmanager
def _progress(source: Path, *, hidden: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr while an import runs."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    silent = hidden or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=silent) as progress:
        task = progress.add_task(f"importing {source.name or source}", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _sizes(snapshot: Snapshot) -> str:
    return ", ".join(f"{split.split} {split.datum_count:,}" for split in snapshot.splits)


def _print(snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        print_json(snapshot)
        return
    splits = [
        (split.split, f"{counted(split.datum_count, 'datum')}, {split.annotated_count:,} annotated")
        for split in snapshot.splits
    ]
    facts = [("id", snapshot.id), ("dataset", snapshot.dataset_id), ("created", moment(snapshot.created_at)), *splits]
    print_facts(f"Snapshot {snapshot.name}", facts)
