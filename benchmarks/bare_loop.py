"""The limit: one loop that posts datums already in memory and writes the rows a job would write, and nothing else.

No job, no ledger, no lease, no reading of files, no retry, no checks of an answer, no second process.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import psycopg
from pyreqwest.client import ClientBuilder
from pyreqwest.http import Url
from sqlalchemy import insert
from sqlalchemy.orm import Session

from benchmarks.instant_server import LABELS
from orchestrator import clock
from orchestrator.database import Base, engine, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.registry.models import Datum, Model

CHUNK = 1000
TABLE = Base.metadata.tables[InferenceRow.__tablename__]


def run(model: Model, datums: Sequence[tuple[Datum, bytes]], batch_size: int, in_flight: int = 64) -> float:
    """Infer on all datums and store the rows; returns datums a second."""
    started = time.perf_counter()
    asyncio.run(Loop(model, datums, batch_size).run(in_flight))
    return len(datums) / (time.perf_counter() - started)


class Loop:
    """So many coroutines over one iterator, and a writer that takes what they leave."""

    def __init__(self, model: Model, datums: Sequence[tuple[Datum, bytes]], batch_size: int) -> None:
        self.model = model
        self.batches = batched(datums, batch_size)
        self.url = Url(f"{model.endpoint.url}/v2/models/model/infer")
        self.job_id = new_id()
        self.rows: list[dict[str, Any]] = []
        self.idle = True

    async def run(self, in_flight: int) -> None:
        async with ClientBuilder().build() as self.http, asyncio.TaskGroup() as group:
            self.group = group
            for _ in range(in_flight):
                group.create_task(self.consume())
        await asyncio.to_thread(write, self.rows)

    async def consume(self) -> None:
        for batch in self.batches:
            await self.infer(batch)
            if self.idle and len(self.rows) >= CHUNK:
                self.idle = False
                self.group.create_task(self.flush())

    async def infer(self, batch: Sequence[tuple[Datum, bytes]]) -> None:
        images = [base64.b64encode(data).decode() for _, data in batch]
        tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": images}
        body = orjson.dumps({"inputs": [tensor]})
        while True:
            response = await self.http.post(self.url).body_bytes(body).build().send()
            answer = orjson.loads((await response.bytes()).to_bytes())
            if response.status == 200:
                break
        scores = answer["outputs"][0]["data"]
        width = len(LABELS)
        now = clock.now()
        for place, (datum, _) in enumerate(batch):
            scored = zip(LABELS, scores[place * width : place * width + width], strict=True)
            self.rows.append(self.row(datum, [{"label": label, "score": score} for label, score in scored], now))

    def row(self, datum: Datum, scores: list[dict[str, Any]], now: object) -> dict[str, Any]:
        return {
            "model_id": self.model.id,
            "inference_id": f"{self.job_id}-{datum.ordinal:08d}",
            "created_at": now,
            "inference_action": "predict_proba",
            "version": "v2",
            "data": orjson.dumps(scores).decode(),
            "data_hash": datum.sha256,
            "data_storage_key": datum.storage_key,
            "bulk_inference_job_id": self.job_id,
            "datum_id": datum.id,
            "ordinal": datum.ordinal,
        }

    async def flush(self) -> None:
        rows, self.rows = self.rows, []
        await asyncio.to_thread(write, rows)
        self.idle = True


def write(rows: Sequence[dict[str, Any]]) -> None:
    """The fastest way into the table: COPY on PostgreSQL, one prepared statement on SQLite."""
    if not rows:
        return
    with writing() as session:
        if engine().dialect.name == "postgresql":
            copy(session, rows)
        else:
            session.connection().execute(insert(TABLE), list(rows))


def copy(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    names = ", ".join(rows[0])
    with connection.cursor().copy(f"COPY inferences ({names}) FROM STDIN") as sink:
        for row in rows:
            sink.write_row(list(row.values()))


def batched(datums: Sequence[tuple[Datum, bytes]], size: int) -> Iterator[Sequence[tuple[Datum, bytes]]]:
    return (datums[start : start + size] for start in range(0, len(datums), size))
