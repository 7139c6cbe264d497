"""`orchestrator retention policy`: how old a model's inferences may become."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.names import find_store_model
from orchestrator.cli.output import JsonOption, ProjectOption, console, counted, moment, print_facts, print_json
from orchestrator.errors import NotFound
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention.policies import end_policy, find_policy, set_policy
from orchestrator.inference_store.retention.tables import RetentionPolicyRow

app = typer.Typer(help="Say how old a model's inferences may become.", no_args_is_help=True)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Name or id of the model.")]


@app.command("set", cls=NeedsDatabase)
def set_(
    model: ModelOption,
    record_age: Annotated[int, typer.Option(help="Hours after which a record is deleted; -1 for never.")],
    blob_age: Annotated[int, typer.Option(help="Hours after which its input data is; no more than --record-age.")],
    project: ProjectOption = None,
    hard: Annotated[bool, typer.Option("--hard/--soft", help="Delete rows, or only hide them.")] = False,
    every: Annotated[int, typer.Option(help="Run by itself every so many hours; 0 for never.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Set a model's policy, in place of the one it has; tasks of that one are stopped."""
    policy = set_policy(
        find_store_model(model, project),
        automated_interval=every,
        maximum_record_age=record_age,
        maximum_blob_age=blob_age,
        delete_action=Action.HARD if hard else Action.SOFT,
    )
    _print(policy, as_json)


@app.command("show", cls=NeedsDatabase)
def show(model: ModelOption, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show a model's policy."""
    _print(_find(model, project), as_json)


@app.command("delete", cls=NeedsDatabase)
def delete(model: ModelOption, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Delete a model's policy; its tasks are stopped, its receipts stay."""
    policy = _find(model, project)
    end_policy(policy.model_id, policy.id)
    if as_json:
        print_json({"deleted": policy.id})
    else:
        console().print(Text(f"Policy {policy.id} is deleted."))


def _find(model: str, project: str | None) -> RetentionPolicyRow:
    policy = find_policy(find_store_model(model, project))
    if policy is None:
        raise NotFound(f"model {model!r} has no policy: set one with `orchestrator retention policy set`")
    return policy


def _print(policy: RetentionPolicyRow, as_json: bool) -> None:
    if as_json:
        names = (
            "id",
            "model_id",
            "delete_action",
            "maximum_record_age",
            "maximum_blob_age",
            "automated_interval",
            "last_scheduled_at",
            "created_at",
        )
        print_json({name: getattr(policy, name) for name in names})
        return
    print_facts(
        f"Policy {policy.id}",
        [
            ("model", policy.model_id),
            ("records", "are kept" if policy.maximum_record_age == -1 else _after(policy.maximum_record_age)),
            ("input data", _after(policy.maximum_blob_age)),
            ("deletion", "hard: rows are deleted" if policy.delete_action == Action.HARD else "soft: rows are hidden"),
            ("runs", f"every {counted(policy.automated_interval, 'hour')}" if policy.automated_interval else "by hand"),
            ("last run", moment(policy.last_scheduled_at)),
            ("set", moment(policy.created_at)),
        ],
    )


def _after(hours: int) -> str:
    return f"deleted after {counted(hours, 'hour')}"
