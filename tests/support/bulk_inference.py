"""What a test of bulk inference starts from: a project with a snapshot and a model; and jobs run without workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import func, select

from orchestrator import ledger, registry
from orchestrator.bulk_inference.finish import finish
from orchestrator.bulk_inference.models import NewBulkInferenceJobRequest
from orchestrator.bulk_inference.plan import plan
from orchestrator.bulk_inference.record import FailedResult, Recorded, StoredResult, Target, record
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading, transact, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import Lease, Outcome, UnitState, UnitSummary
from orchestrator.ledger.tables import UnitRow
from orchestrator.registry.models import Endpoint, InputCodec, OutputCodec, TaskType

LABELS = [f"class-{index}" for index in range(10)]
#: Nobody listens there; a test that infers names a server of its own.
NOWHERE = "http://127.0.0.1:9"
TARGET = Target("model", "predict_proba")


@dataclass(frozen=True)
class Scene:
    """A project with one snapshot and one model."""

    project_id: str
    dataset_id: str
    snapshot_id: str
    model_id: str

    def request(self, **overrides: Any) -> NewBulkInferenceJobRequest:
        """A request to infer on the split `default`."""
        values: dict[str, Any] = {
            "model_project_id": self.project_id,
            "model_id": self.model_id,
            "dataset_project_id": self.project_id,
            "dataset_id": self.dataset_id,
            "dataset_snapshot_id": self.snapshot_id,
            "dataset_snapshot_split": "default",
            "inference_method": "predict_proba",
            **overrides,
        }
        return NewBulkInferenceJobRequest(**values)

    def register(self, name: str, task_type: TaskType, url: str = NOWHERE, **endpoint: Any) -> str:
        """Another model of the project; returns its id."""
        values = {"input_codec": InputCodec.TEXT, "output_codec": OutputCodec.CLASSIFICATION, **endpoint}
        answer = Endpoint(url=url, **{"model_name": "model", "labels": LABELS, **values})
        return registry.register_model(self.project_id, name, task_type, answer).id


def content(number: int, mark: str = "") -> bytes:
    """The bytes of a datum: no two are alike, and the mark makes it a poison item for a server that looks for it."""
    return f"datum-{number:06}{mark}".encode()


def set_scene(
    folder: Path,
    datums: int = 10,
    *,
    url: str = NOWHERE,
    poison: Collection[int] = (),
    annotations: Mapping[int, Any] = MappingProxyType({}),
    image: bytes | None = None,
    **endpoint: Any,
) -> Scene:
    """Import a snapshot of `datums` files named by their ordinals, and register a classifier at `url`.

    `endpoint` is what else to say of the classifier, which by default takes texts.

    Those in `poison` hold the word POISON; `annotations` are those of a datum by its ordinal; with
    `image` every file is a copy of it.
    """
    source = folder / "source"
    source.mkdir(parents=True)
    lines = []
    for number in range(datums):
        (source / file_name(number)).write_bytes(image or content(number, "-POISON" if number in poison else ""))
        annotated = {"annotations": [annotations[number]]} if number in annotations else {}
        lines.append(json.dumps({"path": file_name(number), **annotated}))
    if annotations:
        (source / "annotations.jsonl").write_text("\n".join(lines))
    project = registry.create_project(f"project {new_id()}")
    dataset = registry.create_dataset(project.id, "dataset")
    snapshot = registry.import_snapshot(dataset.id, source, name="snapshot")
    scene = Scene(project.id, dataset.id, snapshot.id, "")
    return replace(scene, model_id=scene.register("classifier", TaskType.IMAGE_CLASSIFICATION, url, **endpoint))


def labelled(ordinals: Iterable[int], label: str = "class-1") -> dict[int, Any]:
    """Annotations that give each of `ordinals` the same class."""
    return {number: {"class_label": label} for number in ordinals}


def file_name(number: int) -> str:
    """The path of a datum, which sorts like its ordinal."""
    return f"{number:06}.png"


def claim(job_id: str, kind: str) -> Lease:
    """Claim the job's first unit of this kind that waits."""
    for unit in waiting(job_id, kind):
        if (lease := ledger.claim(unit.id, "test")) is not None:
            return lease
    raise AssertionError(f"no {kind} unit of job {job_id} can be claimed")


def waiting(job_id: str, kind: str) -> list[UnitSummary]:
    """The job's units of this kind that nobody works on, in order."""
    units = ledger.list_units(job_id, states=[UnitState.READY, UnitState.PUBLISHED], limit=10_000)
    return sorted((unit for unit in units if unit.kind == f"bulk_inference.{kind}"), key=lambda unit: unit.id)


def settle(lease: Lease, outcome: Outcome) -> None:
    """Settle the unit as a worker would, and add the finishing unit once nothing else is left."""
    transact(ledger.settle, lease, outcome)
    transact(ledger.finish_if_drained, lease.job_id)


def skip_delay(unit_id: str) -> None:
    """Let the next attempt at a unit begin now, whatever delay it was given."""
    with writing() as session:
        unit = session.get_one(UnitRow, unit_id)
        unit.not_before = unit.created_at


def run_plan(job_id: str) -> None:
    """Do what the planning unit does."""
    lease = claim(job_id, "plan")
    settle(lease, plan(lease))


def run_infer(job_id: str, *, failing: Collection[int] = ()) -> Lease:
    """Do what one inferring unit does, with an instant model that fails on some ordinals; returns its lease."""
    lease = claim(job_id, "infer")
    ordinals = range(lease.payload["low"], lease.payload["high"])
    store(lease, [number for number in ordinals if number not in failing], [n for n in ordinals if n in failing])
    settle(lease, ledger.Done())
    return lease


def run_finish(job_id: str, evaluate: Callable[[BulkInferenceJobRow], dict[str, Any]] | None = None) -> None:
    """Do what the finishing unit does."""
    lease = claim(job_id, "finish")
    settle(lease, finish(lease, evaluate or refuse))


def refuse(job: BulkInferenceJobRow) -> dict[str, Any]:
    """The evaluator of a job that must not be evaluated."""
    raise AssertionError(f"job {job.id} was not to be evaluated")


def run_all(job_id: str, *, failing: Collection[int] = ()) -> None:
    """Do the whole job, as a worker would."""
    run_plan(job_id)
    while waiting(job_id, "infer"):
        run_infer(job_id, failing=failing)
    run_finish(job_id)


def store(lease: Lease, ordinals: Collection[int], failed: Collection[int] = ()) -> Recorded:
    """Record a result for each of `ordinals`, and a failure for each of `failed`."""
    results = [
        StoredResult(number, f"datum-{number}", f"sha-{number}", f"key-{number}", "[]", "v2") for number in ordinals
    ]
    failures = [FailedResult(number, datum_id(lease, number), "item", 400, "cannot be read", 1) for number in failed]
    return record(lease, TARGET, results, failures)


def datum_id(lease: Lease, ordinal: int) -> str:
    """The id of a datum of the job's split."""
    with reading() as session:
        job = session.get_one(BulkInferenceJobRow, lease.job_id)
    return registry.list_datums(job.snapshot_id, job.split, ordinal - 1, 1)[0].id


def stored(job_id: str) -> list[int]:
    """The ordinals that have a result, in order, each as often as it is stored."""
    with reading() as session:
        chosen = select(InferenceRow.ordinal).where(InferenceRow.bulk_inference_job_id == job_id)
        return [ordinal for ordinal in session.scalars(chosen.order_by(InferenceRow.ordinal)) if ordinal is not None]


def row_count(table: Any) -> int:
    """How many rows a table has."""
    with reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
