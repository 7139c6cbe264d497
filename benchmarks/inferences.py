"""A store of many inferences: of callers, with metadata and places, and of bulk jobs, with labels alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import insert
from sqlalchemy.orm import DeclarativeBase

from benchmarks.snapshots import analyze
from orchestrator import clock
from orchestrator.database import insert_rows, instant_text, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.filtering import facets
from orchestrator.inference_store.tables import (
    EmbeddingRow,
    InferenceRow,
    LabelRow,
    MetadataLeafRow,
    MetadataRow,
    OriginRow,
    StoreModelRow,
)
from orchestrator.registry.keys import datum_key
from orchestrator.registry.models import Snapshot
from orchestrator.registry.tables import DatumRow

#: Rows in one transaction.
PAGE: Final = 10_000
#: One inference in so many is a caller's.
CALLERS: Final = 5
#: Inferences of the job that is not indexed yet, at most.
WAITING: Final = 10_000
#: Datums that the registry knows.
DATUMS: Final = 10_000
CAMERAS, SOURCES, CLASSES = 200, 1000, 1000
WEATHER: Final = ("rain", "snow", "sun", "fog")


class Store(NamedTuple):
    """What a filter may ask for."""

    model_id: str
    start: datetime
    end: datetime
    snapshot_id: str
    datum_id: str
    datum_hash: str


class Rows:
    """Rows that wait to be inserted, by table and by the columns that they have."""

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.waiting: dict[tuple[type[DeclarativeBase], tuple[str, ...]], list[tuple[str, ...]]] = {}

    def add(self, table: type[DeclarativeBase], **values: str) -> None:
        """One row, each value as text."""
        self.waiting.setdefault((table, tuple(values)), []).append(tuple(values.values()))

    def flush(self) -> None:
        """Insert them, inferences first."""
        order: list[type[DeclarativeBase]] = [InferenceRow, DatumRow, MetadataRow, MetadataLeafRow, LabelRow]
        with writing() as session:
            for (table, names), rows in sorted(self.waiting.items(), key=lambda item: order.index(item[0][0])):
                shared: dict[str, str | datetime] = {"model_id": self.model_id}
                if table is DatumRow:
                    shared = {"split": "other"}
                insert_rows(session, table, shared, names, rows)
        self.waiting.clear()


def fill(snapshot: Snapshot, count: int) -> Store:
    """Write `count` inferences of one model, a hundredth of a second apart."""
    chance = random.Random(7)
    end = clock.now()
    start = end - count * timedelta(seconds=0.01)
    model_id = new_id()
    jobs = [new_id() for _ in range(3)]
    with writing() as session:
        session.add(
            StoreModelRow(model_id=model_id, project_id="p", task_type="Image Classification", embedding_size=0)
        )
        for number, job_id in enumerate(jobs):
            session.add(
                OriginRow(
                    bulk_inference_job_id=job_id,
                    model_id=model_id,
                    dataset_id=snapshot.dataset_id,
                    dataset_snapshot_id=f"snapshot-{number}" if number else snapshot.id,
                    dataset_snapshot_split="other",
                    indexed_at=end if number < 2 else None,
                )
            )
        texts = [instant_text(session, start + at * timedelta(seconds=0.01)) for at in range(count)]
    rows = Rows(model_id)
    for at, created in enumerate(texts):
        if at % CALLERS == 0:
            add_callers(rows, chance, at, created)
        else:
            waits = count - at < min(WAITING, count // 10)
            add_bulk(rows, chance, jobs[2 if waits else at % 2], snapshot.id if at % 2 == 0 else None, at, created)
        if at % PAGE == PAGE - 1:
            rows.flush()
    rows.flush()
    analyze()
    return Store(model_id, start, end, snapshot.id, "datum-2", hash_of(2))


def add_callers(rows: Rows, chance: random.Random, at: int, created: str) -> None:
    """An inference that somebody stored, with a place, a source and four items of metadata."""
    inference_id = f"mine-{at:08}"
    rows.add(
        InferenceRow,
        inference_id=inference_id,
        created_at=created,
        inference_action="detect" if at % 100 == 0 else "predict",
        version="v2",
        data_hash=f"{chance.getrandbits(256):064x}" if at else "0" * 64,
        data_source=f"source-{chance.randrange(SOURCES)}",
        latitude=f"{chance.uniform(-90, 90):.6f}",
        longitude=f"{chance.uniform(-180, 180):.6f}",
    )
    light = f'{{"light": {{"lux": {chance.randrange(100_000)}}}, "weather": "{chance.choice(WEATHER)}"}}'
    for key, kind, value in (
        ("camera", "string", f"camera-{chance.randrange(CAMERAS):03}"),
        ("frame", "int", f"{at}"),
        ("temperature", "float", f"{chance.gauss(15, 10):.3f}"),
        ("scene", "json", light),
    ):
        found = facets.of_metadata(key, kind, value)
        item = {"inference_id": inference_id, "key": key}
        numbers = {} if found.number is None else {"number": repr(found.number)}
        heads = {} if found.head is None else {"head": found.head}
        rows.add(MetadataRow, **item, type=kind, value=value, created_at=created, **heads, **numbers)
        for leaf in found.leaves:
            rows.add(MetadataLeafRow, **item, path=leaf.path, type=leaf.type, value=leaf.value, head=leaf.head)
    add_label(rows, inference_id, 0, chance)


def add_bulk(rows: Rows, chance: random.Random, job_id: str, snapshot_id: str | None, at: int, created: str) -> None:
    """An inference of a bulk job, on a datum that the registry knows if it is one of the first of its snapshot."""
    inference_id, datum_id = f"{job_id}-{at:08}", f"datum-{at}"
    score = chance.random()
    label = f"class-{int(chance.random() ** 2 * CLASSES)}"
    rows.add(
        InferenceRow,
        inference_id=inference_id,
        created_at=created,
        inference_action="predict",
        version="v2",
        data=f'[{{"label":"{label}","score":{score!r}}}]',
        data_hash=hash_of(at),
        data_storage_key=datum_key(hash_of(at)),
        bulk_inference_job_id=job_id,
        datum_id=datum_id,
        ordinal=str(at),
    )
    rows.add(LabelRow, inference_id=inference_id, element="0", label=label, score=repr(score))
    if snapshot_id is not None and at < DATUMS:
        rows.add(
            DatumRow,
            id=datum_id,
            snapshot_id=snapshot_id,
            ordinal=str(at),
            path=f"other-{at}",
            sha256=hash_of(at),
            size="0",
            content_type="image/png",
            storage_key=datum_key(hash_of(at)),
        )


def hash_of(at: int) -> str:
    """The hash of a datum's content, in no order, as hashes are."""
    return hashlib.sha256(b"%d" % at).hexdigest()


def add_label(rows: Rows, inference_id: str, element: int, chance: random.Random) -> None:
    """A label, the first of which are more frequent than the last."""
    label = f"class-{int(chance.random() ** 2 * CLASSES)}"
    rows.add(LabelRow, inference_id=inference_id, element=str(element), label=label, score=repr(chance.random()))


def fill_embeddings(count: int, size: int) -> str:
    """A model with so many embeddings of this size, none near another; returns its id."""
    import numpy as np

    chance = np.random.default_rng(7)
    model_id = new_id()
    with writing() as session:
        session.add(StoreModelRow(model_id=model_id, project_id="p", task_type="Image Embedding", embedding_size=size))
    for ids in pages(f"{at:08}" for at in range(count)):
        vectors = chance.standard_normal((len(ids), size), np.float32)
        with writing() as session:
            shared: dict[str, str | datetime] = {
                "model_id": model_id,
                "created_at": clock.now(),
                "inference_action": "embed",
                "version": "v1",
                "data_hash": "",
            }
            insert_rows(session, InferenceRow, shared, ("inference_id",), [(inference_id,) for inference_id in ids])
            session.connection().execute(
                insert(EmbeddingRow),
                [
                    {"model_id": model_id, "inference_id": inference_id, "embedding": vector}
                    for inference_id, vector in zip(ids, vectors, strict=True)
                ],
            )
    analyze()
    return model_id


def pages(ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids, some at a time."""
    page: list[str] = []
    for inference_id in ids:
        page.append(inference_id)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
