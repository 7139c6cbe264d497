"""`orchestrator blueprint`: how each kind of model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.output import JsonOption, LimitOption, ago, console, moment, print_facts, print_json, print_table
from orchestrator.training_v2 import Blueprint
from orchestrator.training_v2 import blueprint as blueprints
from orchestrator.training_v2.exceptions import BlueprintDoesNotExistError

app = typer.Typer(help="How each kind of model is trained.", no_args_is_help=True)

BlueprintArgument = Annotated[str, typer.Argument(metavar="BLUEPRINT", help="Name or id.")]
VersionOption = Annotated[
    str | None, typer.Option("--version", help="SQL ILIKE pattern, such as `1.%`; the one registered last by default.")
]


@app.command("register", cls=NeedsDatabase)
def register(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .toml or .json file.")],
    as_json: JsonOption = False,
) -> None:
    """Register the blueprint that a file describes.

    Its fields: name, version, image or entry_point (a list of arguments), task_types, config_schema
    (JSON Schema), checkpoint_policy {keep_last, keep_best, best_by, best_is} and serving {url, …}.
    """
    _print(blueprints.register_blueprint(file), as_json)


@app.command("list", cls=NeedsDatabase)
def list_(
    name: Annotated[str | None, typer.Option(help="Only versions of this one.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List blueprints, the one registered last first."""
    found = blueprints.list_blueprints(name=name, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["ID", "NAME", "VERSION", "RUNS AS", "AGE#"],
        ([each.id, each.name, each.version, _program(each), ago(each.created_at)] for each in found),
        empty="No blueprint yet: `orchestrator blueprint register FILE` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(blueprint: BlueprintArgument, version: VersionOption = None, as_json: JsonOption = False) -> None:
    """Show a blueprint and the schema of its configs."""
    _print(find_blueprint(blueprint, version), as_json)


@app.command("delete", cls=NeedsDatabase)
def delete(blueprint: BlueprintArgument, version: VersionOption = None) -> None:
    """Let no further run begin with a blueprint; its runs stay."""
    found = find_blueprint(blueprint, version)
    blueprints.delete_blueprint(found.id)
    console().print(f"Blueprint {found.name} {found.version} is deleted.")


def find_blueprint(name: str, version: str | None) -> Blueprint:
    """The blueprint of this id, or else the newest of this name whose version matches.

    Raises:
        BlueprintDoesNotExistError: there is neither.
    """
    if version is None:
        try:
            return blueprints.get_blueprint(name)
        except BlueprintDoesNotExistError:
            pass  # then it is a name
    return blueprints.get_blueprint(blueprints.lookup_blueprint_id(name, version))


def _program(blueprint: Blueprint) -> str:
    return " ".join(filter(None, (blueprint.image, " ".join(blueprint.entry_point or ()))))


def _print(blueprint: Blueprint, as_json: bool) -> None:
    if as_json:
        print_json(blueprint)
        return
    policy, serving = blueprint.checkpoint_policy, blueprint.serving
    print_facts(
        f"Blueprint {blueprint.name} {blueprint.version}",
        [
            ("id", blueprint.id),
            ("image", blueprint.image or ""),
            ("entry point", " ".join(blueprint.entry_point or ())),
            ("task types", ", ".join(blueprint.task_types)),
            ("keeps", policy.model_dump_json(exclude_none=True) if policy else ""),
            ("served at", serving.url if serving else ""),
            ("config", orjson.dumps(blueprint.config_schema, option=orjson.OPT_INDENT_2).decode()),
            ("registered", moment(blueprint.created_at)),
        ],
    )
