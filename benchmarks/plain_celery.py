"""What a user would write first: a Celery task for each datum, httpx, and an INSERT."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from celery import Celery
from sqlalchemy import func, insert, select

from benchmarks.instant_server import LABELS
from benchmarks.stage import Stage
from orchestrator import clock
from orchestrator.database import reading, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.registry.models import Datum, Model
from orchestrator.storage import blobs
from tests.support.processes import Running, wait_until

app = Celery("plain", broker=os.environ.get("ORCHESTRATOR_BROKER_URL"))
app.conf.update(task_ignore_result=True, task_default_queue="plain")

client = httpx.Client()


@app.task  # type: ignore[untyped-decorator]  # Celery leaves it untyped
def infer(url: str, model_id: str, job_id: str, datum: dict[str, Any]) -> None:
    """Infer on one datum and store the row."""
    image = base64.b64encode(blobs().get(datum["storage_key"])).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}
    answer = client.post(f"{url}/v2/models/model/infer", json={"inputs": [tensor]}).json()
    scores = zip(LABELS, answer["outputs"][0]["data"], strict=True)
    with writing() as session:
        session.execute(
            insert(InferenceRow).values(
                model_id=model_id,
                inference_id=f"{job_id}-{datum['ordinal']:08d}",
                created_at=clock.now(),
                inference_action="predict_proba",
                version="v2",
                data=json.dumps([{"label": label, "score": score} for label, score in scores]),
                data_hash=datum["sha256"],
                data_storage_key=datum["storage_key"],
                bulk_inference_job_id=job_id,
                datum_id=datum["id"],
                ordinal=datum["ordinal"],
            )
        )


def run(stage: Stage, model: Model, datums: Sequence[Datum], processes: int = 2) -> float:
    """Send a task for each datum to real worker processes; returns datums a second, from first send to last row."""
    app.conf.broker_url = os.environ["ORCHESTRATOR_BROKER_URL"]
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.plain_celery", "worker", "-Q", "plain"]
    command += ["--concurrency", str(processes), "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
    log = Path(stage.home / "plain.log")
    worker = Running(command, log=log, reaper=stage.workers.reaper)
    try:
        worker.wait_ready(lambda: " ready." in log.read_text())
        job_id = new_id()
        started = time.perf_counter()
        for datum in datums:
            fields = {"id", "ordinal", "sha256", "storage_key"}
            infer.delay(model.endpoint.url, model.id, job_id, datum.model_dump(include=fields))
        wait_until(lambda: stored(job_id) == len(datums), "every row is stored", within=300)
        return len(datums) / (time.perf_counter() - started)
    finally:
        worker.stop()


def stored(job_id: str) -> int:
    """Rows of the job."""
    with reading() as session:
        count = select(func.count()).select_from(InferenceRow).where(InferenceRow.bulk_inference_job_id == job_id)
        return session.scalar(count) or 0
