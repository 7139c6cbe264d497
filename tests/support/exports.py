"""What a test of exports starts from: a model with stored inferences; tasks run without workers; archives read back."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update

from orchestrator import ledger, registry
from orchestrator.database import insert_ignoring, reading, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.export_task import get_export_details, submit_export_task
from orchestrator.inference_store.exports.models import ExportDetails
from orchestrator.inference_store.models import NewExportTaskRequest
from orchestrator.inference_store.tables import InferenceRow, MetadataRow, StoreModelRow
from orchestrator.ledger import UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.storage import blobs
from workers.tasks import exports as tasks

START = datetime(2025, 1, 1, tzinfo=UTC)
#: The smallest picture that decoders take.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cfc0f01f"
    "00050001ff5c0b8a9e0000000049454e44ae426082"
)
UNITS = {"plan": tasks.plan, "part": tasks.part, "assemble": tasks.assemble, "finish": tasks.finish}


@dataclass(frozen=True)
class Stored:
    """A model that is registered with the store, and its project."""

    model_id: str
    project_id: str

    def store(self, inference_id: str, content: bytes | None, **values: Any) -> None:
        """Store an inference upon `content`; `values` are columns, and `metadata` as (type, value) by key."""
        self.store_many([(inference_id, content, values)])

    def store_many(self, inferences: Sequence[tuple[str, bytes | None, Mapping[str, Any]]]) -> None:
        """Store inferences, each as `store` does."""
        rows, entries = [], []
        for number, (inference_id, content, values) in enumerate(inferences):
            own = dict(values)
            for key, (kind, value) in own.pop("metadata", {}).items():
                entries.append(self._entry(inference_id, key, kind, value))
            rows.append(self._row(inference_id, content, number) | own)
        with writing() as session:
            insert_ignoring(session, InferenceRow, rows)
            insert_ignoring(session, MetadataRow, entries)

    def _row(self, inference_id: str, content: bytes | None, number: int) -> dict[str, Any]:
        return {
            "model_id": self.model_id,
            "inference_id": inference_id,
            "created_at": START + timedelta(seconds=number),
            "inference_action": "predict",
            "version": "v2",
            "data": json.dumps([{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]),
            "data_hash": hashlib.sha256(content or b"").hexdigest(),
            "data_size": None if content is None else len(content),
            "data_source": None,
            "data_storage_key": None if content is None else blobs().put_content(content, under="inferences"),
            "latitude": None,
            "longitude": None,
        }

    def _entry(self, inference_id: str, key: str, kind: str, value: str) -> dict[str, Any]:
        return {
            "model_id": self.model_id,
            "inference_id": inference_id,
            "key": key,
            "type": kind,
            "value": value,
            "head": value[:200],
            "created_at": START,
        }

    def key_of(self, inference_id: str) -> str:
        """Where an inference's data is."""
        with reading() as session:
            key = session.get_one(InferenceRow, (self.model_id, inference_id)).data_storage_key
        assert key is not None
        return key

    def submit(self, **request: Any) -> str:
        """Submit an export task; options of a submission may be among the fields of the request."""
        options = {name: request.pop(name) for name in ("archive_format", "request_id") if name in request}
        return submit_export_task(self.model_id, NewExportTaskRequest(**request), **options)

    def export(self, **request: Any) -> Archived:
        """Export, and read the archive."""
        task_id = self.submit(**request)
        run(task_id)
        return archived(task_id)


def register(task_type: str = "Image Classification") -> Stored:
    """A model of a new project, registered with the store."""
    project = registry.create_project(f"project {new_id()}")
    model_id = new_id()
    with writing() as session:
        session.add(StoreModelRow(model_id=model_id, project_id=project.id, task_type=task_type, embedding_size=0))
    return Stored(model_id, project.id)


def several(count: int, **values: Any) -> list[tuple[str, bytes | None, dict[str, Any]]]:
    """So many inferences upon small texts; every seventh has no data."""
    return [(f"inference-{n:05d}", None if n % 7 == 6 else f"content {n}".encode(), dict(values)) for n in range(count)]


def run(task_id: str) -> ExportDetails:
    """Do all that a task has to do, a unit after the other."""
    while step(task_id):
        pass
    return get_export_details(task_id)


def step(task_id: str) -> str | None:
    """Do one of the task's units; its kind, or None when nothing is left."""
    units = ledger.list_units(task_id, states=[UnitState.READY, UnitState.PUBLISHED], limit=10_000)
    if not units:
        return None
    unit = min(units, key=lambda unit: unit.id)
    kind = unit.kind.removeprefix("exports.")
    UNITS[kind](unit.id)
    return kind


def skip_delays(task_id: str) -> None:
    """Let the next attempts at the task's units begin now."""
    with writing() as session:
        session.execute(update(UnitRow).where(UnitRow.job_id == task_id).values(not_before=UnitRow.created_at))


@dataclass(frozen=True)
class Archived:
    """A finished task and what its archive holds."""

    details: ExportDetails
    content: bytes
    files: Mapping[str, bytes]

    def lines(self, path: str) -> list[Any]:
        """The JSON documents of a file, a line each."""
        return [json.loads(line) for line in self.files[path].splitlines()]

    @property
    def images(self) -> dict[str, bytes]:
        """The data of the inferences by path."""
        return {path: data for path, data in self.files.items() if path.startswith("images/")}


def archived(task_id: str) -> Archived:
    """The archive of a task that is complete, checked against its own manifest."""
    details = get_export_details(task_id)
    assert details.archive is not None, details
    content = blobs().get(details.archive.key)
    assert (details.archive.size, details.archive.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    files = dict(unpack(content))
    manifest = [json.loads(line) for line in files["manifest.jsonl"].splitlines()]
    listed = {entry["path"]: (entry["size"], entry["sha256"]) for entry in manifest[1:]}
    found = {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()}
    assert found.pop("manifest.jsonl") is not None
    assert found == listed
    return Archived(details, content, files)


def unpack(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of a `.tar.gz`, no name twice, by the standard library."""
    seen = set()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            assert member.name not in seen
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            seen.add(member.name)
            yield member.name, file.read()
