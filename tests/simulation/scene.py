"""What the registry holds in every simulation, and what the database as a whole must look like at the end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import insert

from orchestrator.registry.models import Endpoint, InputCodec, OutputCodec
from orchestrator.registry.tables import DatasetRow, DatumRow, ModelRow, ProjectRow, SnapshotRow, SnapshotSplitRow
from tests.chaos.invariants import of_the_tables
from tests.simulation.database import Database
from tests.simulation.scheduler import EPOCH

#: Datums of each split.
SPLITS = {"one": 1, "few": 5, "some": 12}
PROJECTS = {"project 1": 1, "project 2": 3}


class Scene:
    """Projects with a model each, and one snapshot of some splits."""

    largest = max(SPLITS.values())

    def __init__(self, database: Database) -> None:
        with database.engine.begin() as connection:
            for number, (project, weight) in enumerate(PROJECTS.items()):
                connection.execute(insert(ProjectRow).values(id=project, name=project, weight=weight, created_at=EPOCH))
                connection.execute(
                    insert(ModelRow).values(_model(f"model {number + 1}", project, most=2 if number else None))
                )
            project = next(iter(PROJECTS))
            dataset = {"id": "dataset", "project_id": project, "name": "dataset", "created_at": EPOCH}
            connection.execute(insert(DatasetRow).values(dataset))
            snapshot = {"id": "snapshot", "dataset_id": "dataset", "name": "snapshot", "state": "ready"}
            connection.execute(insert(SnapshotRow).values(**snapshot, created_at=EPOCH, ready_at=EPOCH))
            for split, count in SPLITS.items():
                counts = {"datum_count": count, "annotated_count": 0}
                connection.execute(insert(SnapshotSplitRow).values(snapshot_id="snapshot", split=split, **counts))
                connection.execute(insert(DatumRow), [_datum(split, ordinal) for ordinal in range(count)])

    def request(self, chance: random.Random) -> dict[str, Any]:
        """The fields of a submission."""
        number = chance.randrange(len(PROJECTS))
        return {
            "model_project_id": list(PROJECTS)[number],
            "model_id": f"model {number + 1}",
            "dataset_project_id": next(iter(PROJECTS)),
            "dataset_id": "dataset",
            "dataset_snapshot_id": "snapshot",
            "dataset_snapshot_split": chance.choice(list(SPLITS)),
            "inference_method": "predict",
        }

    def check(self, database: Database, accepted: Sequence[str], requests: Sequence[str]) -> Iterator[str]:
        """What is wrong with the database, read as a whole once everything has ended."""
        jobs = {row[0]: row[1] for row in database.rows("SELECT id, request_id FROM jobs")}
        for job_id, request_id in zip(accepted, requests, strict=True):
            if jobs.get(job_id) != request_id:
                yield f"request {request_id!r} was accepted as job {job_id}, and there is none"
        for request_id, count in Counter(jobs.values()).items():
            if count > 1:
                yield f"request {request_id!r} became {count} jobs"
        for (unfinished,) in database.rows("SELECT key FROM work_units WHERE finished_at IS NULL"):
            yield f"unit {unfinished} is unfinished"
        yield from of_the_tables()


def _model(name: str, project: str, most: int | None) -> dict[str, Any]:
    endpoint = Endpoint(
        url="http://127.0.0.1:9",
        model_name=name,
        input_codec=InputCodec.TEXT,
        output_codec=OutputCodec.CLASSIFICATION,
        labels=["yes", "no"],
        max_concurrency=most,
    )
    return {
        "id": name,
        "project_id": project,
        "name": name,
        "version": "1",
        "task_type": "Image Classification",
        "actions": ["predict"],
        "config": endpoint.model_dump(mode="json"),
        "created_at": EPOCH,
    }


def _datum(split: str, ordinal: int) -> dict[str, Any]:
    return {
        "id": f"datum-{split}-{ordinal}",
        "snapshot_id": "snapshot",
        "split": split,
        "ordinal": ordinal,
        "path": f"{split}/{ordinal}",
        "sha256": f"sha-{ordinal}",
        "size": 1,
        "content_type": "text/plain",
        "storage_key": f"key-{ordinal}",
        "custom_metadata": None,
        "annotations": None,
    }
