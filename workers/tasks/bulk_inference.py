"""The units of a bulk inference job: plan, infer, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Concatenate, NamedTuple, ParamSpec

import structlog
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference import finish as finishing
from orchestrator.bulk_inference import plan as planning
from orchestrator.bulk_inference import queries, suspects
from orchestrator.bulk_inference.lifecycle import TERMINAL
from orchestrator.bulk_inference.metrics import measure
from orchestrator.bulk_inference.record import FailedResult, StoredResult, Target, explain, fail_job, record
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import fetch_rows, reading, transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import Again, Done, Hopeless, Lease, Outcome, Postponed
from orchestrator.registry import get_model
from orchestrator.registry.models import InferenceAction, Model
from orchestrator.storage import blobs
from workers.inference import bisect, connections
from workers.inference.bisect import RetryPolicy
from workers.inference.failures import Busy, EndpointRefused, FailureClass, Unreachable
from workers.inference.feed import Feed, Reference
from workers.inference.loop import Loop
from workers.unit import unit

P = ParamSpec("P")

log = structlog.get_logger(__name__)

#: Datums whose references are read in one go.
PAGE = 2048
#: Seconds of work after which a unit gives way to a project that waits; starting again costs a small part of that.
SLICE = 0.5
#: Seconds after which a model's rate is written again although it has hardly changed.
RATE_LASTS = 10.0

#: Postponements in a row, some minutes, after which items that nothing speaks for are at fault, and not the server.
PATIENCE = 32

#: What this process last wrote of each model's rate, and when.
_rates: dict[str, tuple[float, float]] = {}


@unit("bulk_inference.plan")
def plan(lease: Lease) -> Outcome:
    """Cut the job into units."""
    return planning.plan(lease)


@unit("bulk_inference.infer")
def infer(lease: Lease) -> Outcome:
    """Infer on the unit's datums, except those that have a result or a failure already."""
    with reading() as session:
        job = session.get_one(BulkInferenceJobRow, lease.job_id)
        gate = ledger.gates.find(session, job.model_id)
    if job.state in TERMINAL:
        # The attempt that ended the job was killed before it could settle.
        return Hopeless(f"the job has ended: {job.reason or job.state}")
    pieces = suspects.cut_up(lease, job) if lease.follows_failure else None
    if pieces is not None:
        log.warning("unit_cut_up", pieces=[piece.key for piece in pieces.rest])
        return pieces
    model = get_model(job.model_id)
    recorder = Recorder(lease, job, was_shut=bool(gate and gate.reason))
    try:
        ended = connections.run(infer_all(lease, job, model, recorder))
    except EndpointRefused as error:
        reason = f"{model.endpoint.url} will not serve {model.endpoint.model_name!r}: {error}"
        fail_job(lease, reason)
        return Hopeless(reason)
    except Unreachable as error:
        reason = f"waiting for endpoint {model.endpoint.url}: {error}"
        if isinstance(error, Busy):
            tell_gate(lease, ledger.gates.narrow, job.model_id)
        else:
            tell_gate(lease, ledger.gates.shut, job.model_id, reason)
        return postpone(lease, reason)
    except Unavailable as error:
        return postpone(lease, f"waiting: {error}")
    learn(lease, job.model_id, ended.rate)
    return follow_up(lease, job, ended, is_wanted=recorder.is_wanted)


def follow_up(lease: Lease, job: BulkInferenceJobRow, ended: Ended, *, is_wanted: bool) -> Outcome:
    """What becomes of the unit after an attempt that met no trouble."""
    if ended.position is None:
        return Done()
    # Where nothing was handed out there is nothing to cut off: all that is left would be this unit once more.
    if not is_wanted or not ended.rate or ended.position <= lease.payload["low"]:
        return Again()
    return planning.cut_again(lease, job, ended.position, ended.rate)


@unit("bulk_inference.finish")
def finish(lease: Lease) -> Outcome:
    """Decide how the job ended."""
    try:
        return finishing.finish(lease, measure)
    except Unavailable as error:
        return postpone(lease, f"waiting: {error}")


def outstanding(lease: Lease, job: BulkInferenceJobRow) -> Iterator[Sequence[Reference]]:
    """The unit's datums that have no outcome yet, page by page."""
    # Nobody was here before the first attempt of a unit that was planned.
    may_have_outcomes = lease.attempt > 1 or bool(lease.payload.get("rest"))
    for low in range(lease.payload["low"], lease.payload["high"], PAGE):
        high = min(low + PAGE, lease.payload["high"])
        with reading() as session:
            settled = set(session.scalars(queries.settled(job.id, low, high))) if may_have_outcomes else ()
            rows = fetch_rows(session, queries.datums(job, low, high))
        yield [Reference._make(row) for row in rows if row[0] not in settled]


async def infer_all(lease: Lease, job: BulkInferenceJobRow, model: Model, recorder: Recorder) -> Ended:
    """Run the loop over the datums."""
    connection = await connections.connect(model, InferenceAction(job.action))
    feed = Feed(blobs(), outstanding(lease, job), job.batch_size)
    try:
        policy = RetryPolicy(blames_without_proof=lease.postponements >= PATIENCE)
        loop = Loop(connection.client, connection.window, feed, recorder.store, policy=policy)
        complete = await loop.run()
        return Ended(None if complete else feed.position, loop.rate)
    except (EndpointRefused, Unreachable):
        await connections.disconnect_all()
        raise


class Ended(NamedTuple):
    """How far an attempt came: the first ordinal it left, if any, and the datums that it did in a second."""

    position: int | None
    rate: float


class Recorder:
    """Stores what the loop hands over, under the attempt's lease."""

    def __init__(self, lease: Lease, job: BulkInferenceJobRow, *, was_shut: bool) -> None:
        self.lease = lease
        self.target = Target(job.model_id, job.action)
        #: Whether an earlier attempt may have left word on the job, or at the gate, that it waits for something.
        self.may_have_waited = lease.attempt > 1 or was_shut
        #: Whether the unit may go on: nobody paused its job, and nobody else should have the worker.
        self.is_wanted = True
        self.started = time.monotonic()

    def store(self, outcomes: Sequence[bisect.Outcome], in_flight: int) -> bool:
        """Record outcomes; say whether the unit should go on."""
        results = [outcome for outcome in outcomes if isinstance(outcome, StoredResult)]
        failures = [outcome for outcome in outcomes if isinstance(outcome, FailedResult)]
        if self.may_have_waited and (results or any(map(was_answered, failures))):
            explain(self.lease, "")
            tell_gate(self.lease, ledger.gates.open_up, self.target.model_id)
            self.may_have_waited = False
        may_yield = time.monotonic() - self.started >= SLICE
        recorded = record(self.lease, self.target, results, failures, in_flight=in_flight, may_yield=may_yield)
        self.is_wanted = not recorded.paused and not recorded.gives_way
        return self.is_wanted


def was_answered(failure: FailedResult) -> bool:
    """Whether the server said what is wrong with the datum, and so is there."""
    return failure.failure_class == FailureClass.ITEM and failure.status is not None and failure.status >= 400


def postpone(lease: Lease, reason: str) -> Outcome:
    """Say on the job what it waits for, and come back."""
    explain(lease, reason)
    return Postponed(reason)


def tell_gate(
    lease: Lease, move: Callable[Concatenate[Session, P], None], *details: P.args, **options: P.kwargs
) -> None:
    """Move a gate under the lease: what a worker that froze has to say of a server is out of date."""

    def write(session: Session) -> None:
        ledger.check(session, lease)
        move(session, *details, **options)

    transact(write)


def learn(lease: Lease, model_id: str, rate: float) -> None:
    """Let planning know how fast a unit of the model goes, when that is news."""
    now = time.monotonic()
    known, at = _rates.get(model_id, (0.0, float("-inf")))
    if rate and (now - at > RATE_LASTS or not known / 1.5 < rate < known * 1.5):
        _rates[model_id] = rate, now
        tell_gate(lease, ledger.gates.learn, model_id, rate)
