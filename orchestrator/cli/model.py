"""`orchestrator model`: the catalog of models and the servers that answer for them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.names import find_model, find_project
from orchestrator.cli.output import JsonOption, ProjectOption, ago, moment, print_facts, print_json, print_table
from orchestrator.registry import list_models, register_model, serve_model
from orchestrator.registry.models import (
    USUAL_INPUT,
    USUAL_OUTPUT,
    Endpoint,
    InferenceAction,
    InputCodec,
    Model,
    OutputCodec,
    TaskType,
)

E = TypeVar("E", bound=Enum)

app = typer.Typer(help="Models, and the servers that answer for them.", no_args_is_help=True)


def _slug(member: Enum) -> str:
    return str(member.value).lower().replace(" ", "-").replace("_", "-")


def _choices(kind: type[Enum]) -> str:
    return ", ".join(_slug(member) for member in kind)


def _choose(kind: type[E], text: str) -> E:
    """The member that `text` names; case, spaces, hyphens and underscores do not matter."""
    wanted = text.strip().lower().replace(" ", "-").replace("_", "-")
    for member in kind:
        if _slug(member) == wanted:
            return member
    raise typer.BadParameter(f"{text!r} is not one of {_choices(kind)}")


def _parse_task_type(text: str) -> TaskType:
    return _choose(TaskType, text)


def _parse_action(text: str) -> InferenceAction:
    return _choose(InferenceAction, text)


def _parse_input(text: str) -> InputCodec:
    return _choose(InputCodec, text)


def _parse_output(text: str) -> OutputCodec:
    return _choose(OutputCodec, text)


@app.command("register", cls=NeedsDatabase)
def register(
    name: str,
    url: Annotated[str, typer.Option(help="Base URL of its Open Inference Protocol server, without /v2.")],
    task_type: Annotated[
        TaskType, typer.Option("--task-type", "-t", parser=_parse_task_type, metavar="TASK", help=_choices(TaskType))
    ],
    project: ProjectOption = None,
    version: Annotated[str, typer.Option(help="The version to register.")] = "1",
    action: Annotated[
        list[InferenceAction] | None,
        typer.Option(
            parser=_parse_action, metavar="METHOD", help=f"{_choices(InferenceAction)}; all of the task's by default."
        ),
    ] = None,
    input_codec: Annotated[
        InputCodec | None,
        typer.Option("--input", parser=_parse_input, metavar="CODEC", help=f"{_choices(InputCodec)}; by task."),
    ] = None,
    output_codec: Annotated[
        OutputCodec | None,
        typer.Option("--output", parser=_parse_output, metavar="CODEC", help=f"{_choices(OutputCodec)}; by task."),
    ] = None,
    server_model: Annotated[str | None, typer.Option(help="Its name on the server; NAME by default.")] = None,
    server_version: Annotated[str | None, typer.Option(help="Its version on the server.")] = None,
    input_name: Annotated[str | None, typer.Option(help="Input tensor; the server's first by default.")] = None,
    output_name: Annotated[str | None, typer.Option(help="Output tensor; the server's first by default.")] = None,
    labels: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of class names, a line each.")
    ] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight, over all workers.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="Requests a second, over all workers.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until a request counts as timed out.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Register a model."""
    endpoint = Endpoint(
        url=url,
        model_name=server_model or name,
        model_version=server_version,
        input_codec=input_codec or USUAL_INPUT[task_type],
        output_codec=output_codec or USUAL_OUTPUT[task_type],
        input_name=input_name,
        output_name=output_name,
        labels=None if labels is None else labels.read_text(encoding="utf-8").splitlines(),
        max_concurrency=max_concurrency,
        requests_per_second=requests_per_second,
        timeout=timeout,
    )
    _print(register_model(find_project(project).id, name, task_type, endpoint, version, action or None), as_json)


@app.command("list", cls=NeedsDatabase)
def list_(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List a project's models, by name, the newest version of each first."""
    models = list_models(find_project(project).id)
    if as_json:
        print_json(models)
        return
    print_table(
        ["ID", "NAME", "VERSION", "TASK", "AGE#"],
        ([model.id, model.name, model.version, _slug(model.task_type), ago(model.created_at)] for model in models),
        empty="No model yet: `orchestrator model register NAME --url URL --task-type TASK` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(
    name: Annotated[str, typer.Argument(help="Name or id.")],
    project: ProjectOption = None,
    version: Annotated[str | None, typer.Option(help="The one registered last by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model and its endpoint."""
    _print(find_model(name, project, version), as_json)


@app.command("serve", cls=NeedsDatabase)
def serve(
    name: Annotated[str, typer.Argument(help="Name or id.")],
    url: Annotated[str, typer.Option(help="Base URL of its Open Inference Protocol server, without /v2.")],
    project: ProjectOption = None,
    version: Annotated[str | None, typer.Option(help="The one registered last by default.")] = None,
    server_model: Annotated[str | None, typer.Option(help="Its name on the server, if it is another now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which server answers for a model from now on, such as one made of a checkpoint."""
    changes = {} if server_model is None else {"model_name": server_model}
    _print(serve_model(find_model(name, project, version).id, url, **changes), as_json)


def _print(model: Model, as_json: bool) -> None:
    if as_json:
        print_json(model)
        return
    endpoint = model.endpoint
    limits = []
    if endpoint.max_concurrency:
        limits.append(f"{endpoint.max_concurrency} requests in flight")
    if endpoint.requests_per_second:
        limits.append(f"{endpoint.requests_per_second:g} requests a second")
    print_facts(
        f"Model {model.name} {model.version}",
        [
            ("id", model.id),
            ("project", model.project_id),
            ("task", model.task_type.value),
            ("methods", ", ".join(action.value for action in model.actions)),
            ("endpoint", endpoint.url or "none yet: `orchestrator model serve`"),
            ("on the server", " ".join(filter(None, (endpoint.model_name, endpoint.model_version)))),
            ("codecs", f"{endpoint.input_codec.value} in, {endpoint.output_codec.value} out"),
            ("labels", ", ".join(endpoint.labels or ())),
            ("limits", ", ".join(limits)),
            ("timeout", f"{endpoint.timeout:g} s"),
            ("registered", moment(model.created_at)),
        ],
    )
