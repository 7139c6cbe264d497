"""An archive is imported as a snapshot, and the snapshot equals what was exported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import registry
from orchestrator.database import reading, writing
from orchestrator.inference_store.tables import InferenceRow, MetadataRow, OriginRow
from orchestrator.registry.models import Datum, Snapshot
from orchestrator.storage import blobs
from tests.support.bulk_inference import Scene, set_scene
from tests.support.exports import PNG, START, Archived, Stored, register

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

ASKED = {"include_inferences_as_annotations": True, "include_custom_metadata": True}
BOX = {"xmin": 1, "ymin": 2.5, "xmax": 3, "ymax": 4}
RING = [{"x": 0, "y": 0}, {"x": 1, "y": 0}, {"x": 1, "y": 1}]


@pytest.fixture
def stored(database: Database, broker: Broker) -> Stored:
    return register()


def reimport(stored: Stored, archive: Archived, folder: Path) -> Snapshot:
    """Import the archive into a new data set of the model's project."""
    path = folder / "archive.tar.gz"
    path.write_bytes(archive.content)
    dataset = registry.create_dataset(stored.project_id, "exported")
    return registry.import_snapshot(dataset.id, path)


def datums(snapshot: Snapshot) -> dict[str, Datum]:
    return {datum.path: datum for datum in registry.list_datums(snapshot.id, "default")}


def test_contents_annotations_and_metadata_come_back(stored: Stored, tmp_path: Path) -> None:
    lists: dict[str, tuple[list[Any], list[Any]]] = {
        "classified": ([{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}], [{"class_label": "cat"}]),
        "detected": ([{"label": "cat", "score": 0.9, **BOX}], [{"class_label": "cat", "bbox": BOX}]),
        "segmented": ([{"label": "cat", "contours": [RING]}], [{"class_label": "cat", "contour": [RING]}]),
        "empty": ([], []),
    }
    for name, (elements, _) in lists.items():
        stored.store(name, PNG + name.encode(), data=json.dumps(elements), metadata={"name": ("string", name)})
    stored.store("native", PNG + b"native", version="v1", data='{"raw": [1, 2]}')
    stored.store("gone", None, metadata={"name": ("string", "gone")})
    found = datums(reimport(stored, stored.export(**ASKED), tmp_path))
    assert set(found) == {f"images/{name}.png" for name in (*lists, "native")}
    for name, (_, expected) in lists.items():
        datum = found[f"images/{name}.png"]
        assert blobs().get(datum.storage_key) == PNG + name.encode()
        assert (datum.annotations, datum.metadata) == (expected, {"name": name})
    assert (found["images/native.png"].annotations, found["images/native.png"].metadata) == (None, None)


def test_metadata_keep_their_types(stored: Stored, tmp_path: Path) -> None:
    given = {
        "text": ("string", "12"),
        "whole": ("int", "12"),
        "huge": ("int", str(2**70)),
        "no number": ("int", "twelve"),
        "real": ("float", "1.5"),
        "nan": ("float", "nan"),
        "document": ("json", '{"a": [1, {"b": "ü"}]}'),
        "deep": ("json", "[" * 70 + "]" * 70),
        "nul": ("json", '["\\u0000"]'),
        "quote ' % \" \\": ("string", "'; DROP TABLE inferences; -- %s"),
    }
    stored.store("a", b"content", metadata=given)
    archive = stored.export(**ASKED)
    (line,) = archive.lines("inferences.jsonl")
    assert {entry["key"]: (entry["type"], entry["value"]) for entry in line["metadata"]} == given
    assert datums(reimport(stored, archive, tmp_path))["images/a.txt"].metadata == {
        "text": "12",
        "whole": 12,
        "huge": str(2**70),
        "no number": "twelve",
        "real": 1.5,
        "nan": "nan",
        "document": {"a": [1, {"b": "ü"}]},
        "deep": "[" * 70 + "]" * 70,
        "nul": '["\\u0000"]',
        "quote ' % \" \\": "'; DROP TABLE inferences; -- %s",
    }


def test_hostile_ids_come_back_as_plain_names(stored: Stored, tmp_path: Path) -> None:
    ids = ["../../etc/passwd", "a/b", "a_b", "C:\\x", "ünïcode", "x" * 255, ".hidden", "-rf", "a\nb", "%s", "~"]
    for inference_id in ids:
        stored.store(inference_id, inference_id.encode())
    archive = stored.export()
    found = datums(reimport(stored, archive, tmp_path))
    named = {line["inference_id"]: line["path"] for line in archive.lines("inferences.jsonl")}
    assert set(named) == set(ids)
    for inference_id, path in named.items():
        assert blobs().get(found[path].storage_key) == inference_id.encode()


def test_what_a_bulk_job_inferred_on_comes_back_with_where_it_came_from(
    stored: Stored, database: Database, tmp_path: Path
) -> None:
    scene = set_scene(tmp_path / "first", 5)
    rows = registry.list_datums(scene.snapshot_id, "default")
    store_bulk(stored, scene, rows)
    archive = stored.export(**ASKED)
    found = datums(reimport(stored, archive, tmp_path))
    for datum, path in zip(rows, sorted(found), strict=True):
        assert found[path].sha256 == datum.sha256
        assert found[path].content_type == datum.content_type
        expected = {
            "bulk_inference_job_id": "job",
            "dataset_id": scene.dataset_id,
            "dataset_snapshot_id": scene.snapshot_id,
            "dataset_snapshot_split": "default",
            "datum_id": datum.id,
        }
        if datum.ordinal == 2:
            expected["datum_id"] = "replaced"
            del expected["dataset_id"]
        assert found[path].metadata == expected


def store_bulk(stored: Stored, scene: Scene, rows: list[Datum]) -> None:
    """What a bulk job writes; of the inference with the ordinal 2 two pieces of metadata were changed since."""
    with writing() as session:
        session.add(
            OriginRow(
                bulk_inference_job_id="job",
                model_id=stored.model_id,
                dataset_id=scene.dataset_id,
                dataset_snapshot_id=scene.snapshot_id,
                dataset_snapshot_split="default",
            )
        )
        for datum in rows:
            session.add(
                InferenceRow(
                    model_id=stored.model_id,
                    inference_id=f"job-{datum.ordinal:08d}",
                    inference_action="predict",
                    version="v2",
                    data="[]",
                    data_hash=datum.sha256,
                    data_storage_key=datum.storage_key,
                    bulk_inference_job_id="job",
                    datum_id=datum.id,
                    ordinal=datum.ordinal,
                )
            )
        session.flush()
        for key, value in (("datum_id", "replaced"), ("dataset_id", None)):
            session.add(
                MetadataRow(model_id=stored.model_id, inference_id="job-00000002", key=key, type="string", value=value)
            )


def test_an_archive_that_is_exported_from_its_own_import_holds_the_same_data(stored: Stored, tmp_path: Path) -> None:
    for n in range(5):
        stored.store(f"inference-{n}", PNG + bytes([n]))
    archive = stored.export()
    found = datums(reimport(stored, archive, tmp_path))
    again = register()
    for path, datum in found.items():
        again.store(path.removeprefix("images/").removesuffix(".png"), blobs().get(datum.storage_key))
    assert again.export().images == archive.images


def test_what_is_stored_of_an_inference_is_in_the_archive(stored: Stored) -> None:
    stored.store(
        "a", b"content", data_source="camera", latitude=46.9, longitude=7.4, inference_action="embed", version="v1"
    )
    (line,) = stored.export().lines("inferences.jsonl")
    with reading() as session:
        data = session.get_one(InferenceRow, (stored.model_id, "a")).data
    assert line == {
        "inference_id": "a",
        "path": "images/a.txt",
        "created_at": START.isoformat(),
        "inference_action": "embed",
        "version": "v1",
        "data": data,
        "data_hash": hashlib.sha256(b"content").hexdigest(),
        "data_source": "camera",
        "latitude": 46.9,
        "longitude": 7.4,
    }
