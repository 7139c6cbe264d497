"""One of many processes that write to one SQLite file: submits, plans, claims, records, settles, reads and sweeps.

`python -m tests.chaos.writer SCENE SECONDS SEED`, with the scene as JSON; prints what it did as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from orchestrator import ledger, registry
from orchestrator.bulk_inference import (
    get_bulk_inference_details,
    get_bulk_inference_job,
    pause_bulk_inference_job,
    resume_bulk_inference_job,
    submit_bulk_inference_job,
)
from orchestrator.bulk_inference.finish import finish
from orchestrator.bulk_inference.plan import plan
from orchestrator.bulk_inference.record import StoredResult, Target, record
from orchestrator.database import transact
from orchestrator.errors import LeaseLost, OrchestratorError
from orchestrator.ledger import Lease, Outcome, UnitState
from orchestrator.ledger.reconcile import reconcile
from tests.support.bulk_inference import Scene, refuse


@dataclass
class Did:
    """What a writer did, the errors that reached it, and its longest wait in seconds."""

    job_ids: list[str]
    acts: Counter[str]
    errors: list[str]
    longest: float = 0.0


class NoBroker:
    """Publishes nothing: the writers find their units in the ledger."""

    def publish(self, units: Iterable[object]) -> None: ...

    def depth(self, queue: str) -> int:
        return 0


def work(scene: Scene, seconds: float, seed: int) -> Did:
    """Do one thing after another, chosen by the seed, for so long."""
    did, chance = Did([], Counter(), []), random.Random(seed)
    acts = [submit, claim_one, claim_one, claim_one, look, sweep, pause]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        act = chance.choice(acts) if did.job_ids else submit
        begun = time.monotonic()
        try:
            act(scene, did, chance)
        except OrchestratorError as error:
            did.acts[type(error).__name__] += 1  # another writer was faster
        except SQLAlchemyError:
            did.errors.append(traceback.format_exc())
        did.acts[act.__name__] += 1
        did.longest = max(did.longest, time.monotonic() - begun)
    return did


def submit(scene: Scene, did: Did, _: random.Random) -> None:
    did.job_ids.append(submit_bulk_inference_job(scene.request()))


def claim_one(scene: Scene, did: Did, chance: random.Random) -> None:
    """Claim a unit, do what it says, and settle it."""
    waiting = ledger.list_units(states=[UnitState.READY, UnitState.PUBLISHED], limit=20)
    lease = ledger.claim(chance.choice(waiting).id, "writer") if waiting else None
    if lease is None:
        return
    try:
        ledger.renew(lease)
        transact(ledger.conclude, lease, perform(scene, lease))
    except LeaseLost:
        did.acts["lost"] += 1
    else:
        did.acts["settled"] += 1


def perform(scene: Scene, lease: Lease) -> Outcome:
    """What a worker does for the unit, with a model that answers at once."""
    match lease.kind.partition(".")[2]:
        case "plan":
            return plan(lease)
        case "infer":
            low, high = lease.payload["low"], lease.payload["high"]
            datums = registry.list_datums(scene.snapshot_id, "default", low - 1, high - low)
            results = [
                StoredResult(low + at, found.id, found.sha256, found.storage_key, "[]", "v2")
                for at, found in enumerate(datums)
            ]
            record(lease, Target(scene.model_id, "predict_proba"), results)
            return ledger.Done()
        case _:
            return finish(lease, refuse)


def look(_: Scene, did: Did, chance: random.Random) -> None:
    job_id = chance.choice(did.job_ids)
    get_bulk_inference_details(job_id)
    get_bulk_inference_job(job_id)


def sweep(_: Scene, __: Did, ___: random.Random) -> None:
    reconcile(NoBroker())


def pause(_: Scene, did: Did, chance: random.Random) -> None:
    job_id = chance.choice(did.job_ids)
    pause_bulk_inference_job(job_id)
    resume_bulk_inference_job(job_id)


if __name__ == "__main__":
    print(json.dumps(vars(work(Scene(**json.loads(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3])))))
