"""`orchestrator inference`: what the store keeps, found, counted, described and deleted."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.inference_filters import filtered
from orchestrator.cli.names import find_project, find_store_model
from orchestrator.cli.output import (
    JsonOption,
    LimitOption,
    ProjectOption,
    ago,
    console,
    counted,
    moment,
    print_facts,
    print_json,
    print_table,
)
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.inference_store import (
    BaseInferenceFilter,
    Inference,
    MetadataStatisticsType,
    NewGetInferencesRequest,
    NewGetMetadataStatisticsRequest,
    NewRegisterModelRequest,
    Pagination,
    PaginationSortDirection,
    TaskType,
    bulk_delete_inferences,
    count_inferences,
    delete_inference,
    filter_inferences,
    get_inference,
    get_metadata_key_type_counts,
    get_metadata_statistics,
    register_model_for_inference_storage,
)
from orchestrator.inference_store.register import list_registered_models

app = typer.Typer(help="Find, count, describe and delete stored inferences.", no_args_is_help=True)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Name or id of the model.")]

#: Characters of an inference's output in a table.
WIDTH = 60


@app.command("list", cls=NeedsDatabase)
@filtered
def list_(
    filters: BaseInferenceFilter,
    model: ModelOption,
    project: ProjectOption = None,
    newest: Annotated[bool, typer.Option("--newest", help="The newest first, not the oldest.")] = False,
    offset: Annotated[int, typer.Option(min=0, help="How many to pass over first.")] = 0,
    presign: Annotated[bool, typer.Option("--presign", help="With a URL of the data, in --json.")] = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List a model's inferences, all of them or those that the options choose, oldest first."""
    direction = PaginationSortDirection.DESCENDING if newest else PaginationSortDirection.ASCENDING
    found = filter_inferences(
        find_store_model(model, project),
        NewGetInferencesRequest(
            filters=filters,
            pagination=Pagination(limit=limit, offset=offset, direction=direction),
            presign=presign,
        ),
    )
    if as_json:
        print_json(found)
        return
    print_table(
        ["INFERENCE", "ACTION", "OUTPUT", "SOURCE", "AGE#"],
        (
            [one.inference_id, one.inference_action, _short(one.data), one.data_source or "", ago(one.created_at)]
            for one in found
        ),
        empty="No inference here.",
    )


@app.command("show", cls=NeedsDatabase)
def show(
    inference: Annotated[str, typer.Argument(metavar="INFERENCE", help="The inference's id.")],
    model: ModelOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything there is to know of an inference."""
    model_id = find_store_model(model, project)
    found = get_inference(model_id, inference)
    if found is None:
        raise NotFound(f"model {model!r} has no inference {inference!r}: `orchestrator inference list -m {model}`")
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command("count", cls=NeedsDatabase)
@filtered
def count(
    filters: BaseInferenceFilter, model: ModelOption, project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Count a model's inferences, all of them or those that the options choose."""
    found = count_inferences(find_store_model(model, project), NewGetInferencesRequest(filters=filters))
    if as_json:
        print_json({"count": found})
    else:
        typer.echo(found)


@app.command("delete", cls=NeedsDatabase)
@filtered
def delete(
    filters: BaseInferenceFilter,
    model: ModelOption,
    inferences: Annotated[list[str] | None, typer.Argument(metavar="[INFERENCE]…", help="Ids.")] = None,
    project: ProjectOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the model's inferences.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete inferences with their metadata and data, protected ones as well: those named, or those chosen."""
    is_chosen = filters != BaseInferenceFilter()
    if (bool(inferences), is_chosen, everything).count(True) != 1:
        raise InvalidRequest("say which: ids, options that choose, or --all")
    model_id = find_store_model(model, project)
    if inferences:
        there = sum(get_inference(model_id, each) is not None for each in inferences)
    else:
        there = count_inferences(model_id, NewGetInferencesRequest(filters=filters))
    if dry_run:
        _print_count(there, "would be deleted", as_json)
        return
    if not yes:
        typer.confirm(f"Delete {counted(there, 'inference')} of {model}?", abort=True, err=True)
    if inferences:
        deleted = [each for each in inferences if delete_inference(model_id, each) is not None]
    else:
        deleted = [each for each in bulk_delete_inferences(model_id, filters) if each is not None]
    if as_json:
        print_json({"deleted": deleted})
    else:
        _print_count(len(deleted), "deleted", as_json)


@app.command("stats", cls=NeedsDatabase)
@filtered
def stats(
    filters: BaseInferenceFilter,
    model: ModelOption,
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A key; without one, all keys are counted.")
    ] = None,
    kind: Annotated[MetadataStatisticsType, typer.Option("--type", help="What its values are.")] = (
        MetadataStatisticsType.STRING
    ),
    bins: Annotated[int | None, typer.Option(min=1, help="How many bins; 10 unless --width is given.")] = None,
    width: Annotated[float | None, typer.Option(help="How wide each bin is.")] = None,
    minimum: Annotated[float | None, typer.Option(help="Where bins begin; at the smallest value by default.")] = None,
    maximum: Annotated[float | None, typer.Option(help="Where bins end; at the greatest value by default.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe the metadata of a model's inferences: keys, or the values of one of them."""
    model_id = find_store_model(model, project)
    if key is None:
        _print_keys(model_id, as_json)
        return
    found = get_metadata_statistics(
        model_id,
        NewGetMetadataStatisticsRequest(
            filters=filters,
            key=key,
            type=kind,
            distribution_bin_count=bins,
            distribution_bin_width=width,
            distribution_minimum_value=minimum,
            distribution_maximum_value=maximum,
        ),
    )
    if found is None:
        raise NotFound(_unregistered(model))
    if as_json:
        print_json(found)
        return
    rows = ([value, f"{count:,}"] for value, count in (found.distribution or {}).items())
    print_table(["VALUE", "INFERENCES#"], rows, empty=f"No {kind.value} is stored under {key!r}.")


@app.command("models", cls=NeedsDatabase)
def models(limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """List the models that are registered for inference storage, newest first."""
    found = list_registered_models(limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["MODEL", "EMBEDDING#", "AGE#"],
        ([one.model_id, str(one.embedding_size or ""), ago(one.created_at)] for one in found),
        empty="No model is registered: `orchestrator inference register`, or a bulk inference job, does it.",
    )


@app.command("register", cls=NeedsDatabase)
def register(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's id.")],
    task: Annotated[TaskType, typer.Option(help="What the model does.")],
    project: ProjectOption = None,
    embedding_size: Annotated[int, typer.Option(min=0, help="How many numbers its embeddings have.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Register a model for inference storage; bulk inference jobs do it by themselves."""
    request = NewRegisterModelRequest(
        model_id=model, project_id=find_project(project).id, task_type=task, embedding_size=embedding_size
    )
    model_id = register_model_for_inference_storage(request)
    if as_json:
        print_json({"model_id": model_id})
    else:
        console().print(Text(f"Registered {model_id}"))


def _print_keys(model_id: str, as_json: bool) -> None:
    found = get_metadata_key_type_counts(model_id)
    if found is None:
        raise NotFound(_unregistered(model_id))
    if as_json:
        print_json(found.counts)
        return
    print_table(
        ["KEY", "TYPE", "INFERENCES#"],
        ([key, kind, f"{count:,}"] for key, kinds in found.counts.items() for kind, count in kinds.items()),
        empty="No inference has metadata.",
    )


def _print(found: Inference) -> None:
    place = found.data_coordinates
    print_facts(
        f"Inference {found.inference_id}",
        [
            ("model", found.model_id),
            ("action", found.inference_action),
            ("created", moment(found.created_at)),
            ("updated", moment(found.updated_at) if found.updated_at != found.created_at else ""),
            ("protected", "yes" if found.is_protected else ""),
            ("output", found.data or ""),
            ("data", found.data_storage_key or "none"),
            ("hash", found.data_hash),
            ("source", found.data_source or ""),
            ("place", "" if place is None else f"{place.latitude}, {place.longitude}"),
            *((entry.key, entry.value) for entry in found.metadata or []),
        ],
    )


def _print_count(count: int, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"count": count})
    else:
        console().print(Text(f"{counted(count, 'inference')} {what}"))


def _short(data: str | None) -> str:
    text = data or ""
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _unregistered(model: str) -> str:
    return f"model {model!r} is not registered for inference storage: `orchestrator inference register`"
