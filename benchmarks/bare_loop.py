"""The limit: one loop that posts datums and writes the rows a job would write, and nothing else.

No job, no ledger, no lease, no retry, no checks of an answer, no second process; and no reading of files, where the
datums are in memory already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import orjson
from pybase64 import b64encode_as_string
from pyreqwest.client import ClientBuilder
from pyreqwest.http import Url

from benchmarks.instant_server import LABELS
from orchestrator import clock
from orchestrator.bulk_inference.record import COLUMNS
from orchestrator.database import insert_rows, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.registry.models import Datum, Model
from orchestrator.storage import blobs

CHUNK = 1000
#: A datum with its bytes, or with None where the loop has to read its file.
Loaded = tuple[Datum, bytes | None]


def run(model: Model, datums: Sequence[Loaded], batch_size: int, in_flight: int = 64) -> float:
    """Infer on all datums and store the rows; returns datums a second."""
    started = time.perf_counter()
    asyncio.run(Loop(model, datums, batch_size).run(in_flight))
    return len(datums) / (time.perf_counter() - started)


class Loop:
    """So many coroutines over one iterator, and a writer that takes what they leave."""

    def __init__(self, model: Model, datums: Sequence[Loaded], batch_size: int) -> None:
        self.model = model
        self.batches = batched(datums, batch_size)
        self.url = Url(f"{model.endpoint.url}/v2/models/model/infer")
        self.job_id = new_id()
        self.rows: list[tuple[str, ...]] = []
        self.idle = True

    async def run(self, in_flight: int) -> None:
        async with ClientBuilder().build() as self.http, asyncio.TaskGroup() as group:
            self.group = group
            for _ in range(in_flight):
                group.create_task(self.consume())
        await asyncio.to_thread(self.write, self.rows)

    async def consume(self) -> None:
        for batch in self.batches:
            await self.infer(batch)
            if self.idle and len(self.rows) >= CHUNK:
                self.idle = False
                self.group.create_task(self.flush())

    async def infer(self, batch: Sequence[Loaded]) -> None:
        images = [b64encode_as_string(data) for data in contents(batch)]
        tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": images}
        body = orjson.dumps({"inputs": [tensor]})
        while True:
            response = await self.http.post(self.url).body_bytes(body).build().send()
            answer = orjson.loads((await response.bytes()).to_bytes())
            if response.status == 200:
                break
        scores = answer["outputs"][0]["data"]
        width = len(LABELS)
        for place, (datum, _) in enumerate(batch):
            scored = zip(LABELS, scores[place * width : place * width + width], strict=True)
            ranked = sorted(scored, key=itemgetter(1), reverse=True)
            self.rows.append(self.row(datum, [{"label": label, "score": score} for label, score in ranked]))

    def row(self, datum: Datum, scores: list[dict[str, Any]]) -> tuple[str, ...]:
        inference_id = f"{self.job_id}-{datum.ordinal:08d}"
        data = orjson.dumps(scores).decode()
        return inference_id, data, datum.sha256, datum.storage_key, datum.id, str(datum.ordinal)

    async def flush(self) -> None:
        rows, self.rows = self.rows, []
        await asyncio.to_thread(self.write, rows)
        self.idle = True

    def write(self, rows: Sequence[tuple[str, ...]]) -> None:
        """By the fastest way into the table, which is the job's, too."""
        shared: dict[str, str | datetime] = {
            "model_id": self.model.id,
            "created_at": clock.now(),
            "inference_action": "predict_proba",
            "version": "v2",
            "bulk_inference_job_id": self.job_id,
        }
        with writing() as session:
            insert_rows(session, InferenceRow, shared, COLUMNS, rows)


def contents(batch: Sequence[Loaded]) -> list[bytes]:
    """The bytes of each datum; here and now, which is faster than in a thread while there is nothing to wait for."""
    found = [data for _, data in batch if data is not None]
    return found or blobs().get_together([datum.storage_key for datum, _ in batch])


def batched(datums: Sequence[Loaded], size: int) -> Iterator[Sequence[Loaded]]:
    return (datums[start : start + size] for start in range(0, len(datums), size))
