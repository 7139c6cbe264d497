"""A server that fails three requests in ten, in sixteen ways: no wrong row, no datum given up, few requests in vain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from sqlalchemy import select

from orchestrator.bulk_inference import ProgressState
from orchestrator.database import reading
from orchestrator.inference_store.tables import InferenceRow
from tests.chaos.harness import Harness
from tests.chaos.unreliable_server import FAULTS, TIMEOUT, UnreliableServer
from tests.support.bulk_inference import LABELS, content
from tests.support.model_server import label_index

pytestmark = pytest.mark.faults

#: Sent requests that are allowed for each that is needed.
MOST = 1.5


@pytest.fixture
def server(harness: Harness) -> Iterator[UnreliableServer]:
    with UnreliableServer(harness.chance.randrange(1 << 30), delay=0.005) as serving:
        yield serving


def run_on(server: UnreliableServer, harness: Harness, datums: int, batch_size: int) -> None:
    """Run a job, the second half of it ten times as slow as the first, and compare every row with the model."""
    scene = harness.scene(datums, url=server.url, timeout=TIMEOUT)
    harness.start(workers=2)
    job_id = harness.submit(scene, batch_size=batch_size)
    harness.until(lambda: (harness.job(job_id).num_computed or 0) > datums / 2, "half of it", within=240)
    server.behaviour.delay *= 10
    (details,) = harness.wait(job_id, within=240)
    assert (details.status, details.num_failed) == (ProgressState.SUCCEEDED, 0)
    assert_right(job_id, datums)
    least = -(-datums // batch_size)
    print(f"{server.seen.requests} requests for {least} batches: {server.seen.requests / least:.3f}; {server.dealt}")
    assert set(server.dealt) == set(FAULTS)
    assert server.seen.requests <= MOST * least


def assert_right(job_id: str, datums: int) -> None:
    """Each datum has the row that the model gives for its content."""
    with reading() as session:
        chosen = select(InferenceRow.ordinal, InferenceRow.data).where(InferenceRow.bulk_inference_job_id == job_id)
        rows = {int(row[0] or 0): row[1] for row in session.execute(chosen.order_by(InferenceRow.ordinal))}
    assert list(rows) == list(range(datums))
    wrong = {at: data for at, data in rows.items() if best_label(data) != LABELS[label_index(content(at), len(LABELS))]}
    assert wrong == {}


def best_label(data: Any) -> str:
    """The label of the highest score in a stored inference."""
    found = orjson.loads(data) if isinstance(data, str | bytes) else data
    return str(max(found, key=lambda one: one["score"])["label"])


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_server_that_fails_three_requests_in_ten_spoils_nothing(server: UnreliableServer, harness: Harness) -> None:
    run_on(server, harness, datums=400, batch_size=4)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("database, batch_size", [("sqlite", 1), ("postgres", 32)], indirect=["database"])
def test_hundreds_of_failures_spoil_nothing(server: UnreliableServer, harness: Harness, batch_size: int) -> None:
    run_on(server, harness, datums=300 * batch_size, batch_size=batch_size)
