"""The units of a bulk inference job: plan, infer, finish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import structlog

from orchestrator.bulk_inference import finish as finishing
from orchestrator.bulk_inference import plan as planning
from orchestrator.bulk_inference import queries
from orchestrator.bulk_inference.lifecycle import TERMINAL
from orchestrator.bulk_inference.metrics import measure
from orchestrator.bulk_inference.record import FailedResult, StoredResult, Target, explain, fail_job, record
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading
from orchestrator.errors import Unavailable
from orchestrator.ledger import Again, Done, Hopeless, Lease, Outcome, Postponed
from orchestrator.registry import get_model
from orchestrator.registry.models import InferenceAction, Model
from orchestrator.storage import blobs
from workers.inference import bisect, connections
from workers.inference.failures import EndpointRefused, Unreachable
from workers.inference.feed import Feed, Reference
from workers.inference.loop import Loop
from workers.unit import unit

log = structlog.get_logger(__name__)


@unit("bulk_inference.plan")
def plan(lease: Lease) -> Outcome:
    """Cut the job into units."""
    return planning.plan(lease)


@unit("bulk_inference.infer")
def infer(lease: Lease) -> Outcome:
    """Infer on the unit's datums, except those that have a result or a failure already."""
    with reading() as session:
        job = session.get_one(BulkInferenceJobRow, lease.job_id)
    if job.state in TERMINAL:
        # The attempt that ended the job was killed before it could settle.
        return Hopeless(f"the job has ended: {job.reason or job.state}")
    references = outstanding(lease, job)
    if not references:
        return Done()
    model = get_model(job.model_id)
    try:
        complete = connections.run(infer_all(lease, job, model, references))
    except EndpointRefused as error:
        reason = f"{model.endpoint.url} will not serve {model.endpoint.model_name!r}: {error}"
        fail_job(lease, reason)
        return Hopeless(reason)
    except Unreachable as error:
        return postpone(lease, f"waiting for endpoint {model.endpoint.url}: {error}")
    except Unavailable as error:
        return postpone(lease, f"waiting for storage: {error}")
    return Done() if complete else Again()


@unit("bulk_inference.finish")
def finish(lease: Lease) -> Outcome:
    """Decide how the job ended."""
    return finishing.finish(lease, measure)


def outstanding(lease: Lease, job: BulkInferenceJobRow) -> list[Reference]:
    """The unit's datums that have no outcome yet."""
    low, high = lease.payload["low"], lease.payload["high"]
    with reading() as session:
        # A first attempt cannot have left anything behind.
        settled = set(session.scalars(queries.settled(job.id, low, high))) if lease.attempt > 1 else ()
        rows = session.execute(queries.datums(job, low, high))
        return [Reference(*row) for row in rows if row[0] not in settled]


async def infer_all(lease: Lease, job: BulkInferenceJobRow, model: Model, references: Sequence[Reference]) -> bool:
    """Run the loop over the datums; say whether all of them have an outcome now."""
    connection = await connections.connect(model, InferenceAction(job.action))
    feed = Feed(blobs(), references, job.batch_size)
    recorder = Recorder(lease, Target(job.model_id, job.action))
    try:
        return await Loop(connection.client, connection.window, feed, recorder.store).run()
    except (EndpointRefused, Unreachable):
        await connections.disconnect_all()
        raise


class Recorder:
    """Stores what the loop hands over, under the attempt's lease."""

    def __init__(self, lease: Lease, target: Target) -> None:
        self.lease = lease
        self.target = target
        #: Whether an earlier attempt may have left word on the job that it waits for something.
        self.may_have_waited = lease.attempt > 1

    def store(self, outcomes: Sequence[bisect.Outcome], in_flight: int) -> bool:
        """Record outcomes; say whether the unit should go on."""
        results: list[StoredResult] = []
        failures: list[FailedResult] = []
        for outcome in outcomes:
            match outcome:
                case bisect.Stored(item, data, version):
                    results.append(StoredResult(*item[:4], data, version))
                case bisect.Failed(item, failure_class, status, message, attempts):
                    failures.append(FailedResult(item.ordinal, item.datum_id, failure_class, status, message, attempts))
                case _:
                    assert_never(outcome)
        if outcomes and self.may_have_waited:
            explain(self.lease, "")
            self.may_have_waited = False
        return not record(self.lease, self.target, results, failures, in_flight=in_flight).paused


def postpone(lease: Lease, reason: str) -> Outcome:
    """Say on the job what it waits for, and come back."""
    explain(lease, reason)
    return Postponed(reason)
