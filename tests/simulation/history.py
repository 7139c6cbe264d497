"""What happened to the ledger, commit by commit, held against what may happen: the invariants of a simulation.

It believes nobody: who owns a unit, what a job has stored and where each thing stands is worked out
here from the changed rows alone, by rules of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.attempts import Attempts
from tests.simulation.database import Change, Row
from tests.simulation.gates import Gates
from tests.simulation.scheduler import Process, Scheduler

#: The moves of a unit that nobody has to ask for; `ready` again after the end is a person's wish.
UNIT_MOVES = {
    "ready": {"published", "leased", "cancelled"},
    "published": {"ready", "leased", "cancelled"},
    "leased": {"ready", "done", "dead", "cancelled"},
    "done": {"ready"},
    "dead": {"ready"},
    "cancelled": {"ready"},
}
ENDED = {"done", "dead", "cancelled"}
JOB_MOVES = {
    "initialized": {"in_progress", "failed", "aborted"},
    "in_progress": {"running", "failed", "aborted"},
    "running": {"running_failed", "succeeded", "aborted"},
    "running_failed": {"failed", "succeeded", "aborted"},
    "succeeded": {"running"},
    "failed": {"running"},
    "aborted": set(),
}
TERMINAL = {"succeeded", "failed", "aborted"}


class Violation(Exception):
    """An invariant does not hold."""


@dataclass
class Job:
    """What a job's rows said last."""

    id: str
    paused: bool = False
    closed: bool = False
    state: str = ""
    total: int | None = None
    events: int = 0
    last_event: str | None = None
    results: set[int] = field(default_factory=set)
    failures: set[int] = field(default_factory=set)
    units: dict[str, Row] = field(default_factory=dict)


class History:
    """Hears of each change, and judges each commit."""

    def __init__(self, scheduler: Scheduler, *, window: int, lease: float) -> None:
        self.scheduler = scheduler
        self.window = window
        self.lease = lease
        self.jobs: dict[str, Job] = {}
        self.units: dict[str, Row] = {}
        #: Who may write under which attempt: the unit's owner, as its last claim made him.
        self.owners: dict[str, tuple[Process, int]] = {}
        #: The attempt that a process has in hand, whether or not it still owns the unit.
        self.in_hand: dict[Process, tuple[str, int]] = {}
        #: Units that a process has marked published and not sent yet.
        self.to_send: dict[Process, list[str]] = {}
        self.gates = Gates()
        self.attempts = Attempts()
        self.pending: list[Change] = []
        self.counts: Counter[str] = Counter()
        self.judges: dict[str, Callable[[Process, Row | None, Row | None], None]] = {
            "jobs": self._ledger_job,
            "work_units": self._unit,
            "bulk_inference_jobs": self._job,
            "bulk_inference_failures": self._failure,
            "inferences": self._result,
            "events": self._event,
            "gates": self._gate,
        }

    def commit(self, process: Process) -> None:
        """Judge the transaction that the process is about to commit.

        Raises:
            Violation: it breaks an invariant.
        """
        changes, self.pending = self.pending, []
        if not changes:
            return
        self.time = self.scheduler.instant.strftime("%Y-%m-%d %H:%M:%S.%f")
        self.has_settled = False
        self.cancelled: list[str] = []
        self.touched: dict[str, None] = {}
        self.ended: list[Job] = []
        self._check_fence(process, changes)
        for table, old, new in changes:
            self.judges[table](process, old, new)
        for job_id in self.touched:
            self._check_job(self.jobs[job_id])
        self._check_window(changes)
        for job in self.ended:
            self._check_end(process, job)
        if self.has_settled:
            del self.in_hand[process]

    def task_ended(self, process: Process) -> None:
        """The process has nothing in hand any more."""
        self.in_hand.pop(process, None)

    def sends(self, process: Process, unit_id: str) -> None:
        """The process publishes a unit, which a row that it committed must say already."""
        chosen = self.to_send.get(process, [])
        _hold(unit_id in chosen, f"{process.name} publishes unit {unit_id} whose row does not say so")
        chosen.remove(unit_id)

    def asks(self, process: Process) -> None:
        """The process is about to infer on what its unit has left, which it does not while one of that is suspect."""
        held = self.in_hand.get(process)
        if held is None or self.owners.get(held[0]) != (process, held[1]):
            return
        unit = self.units[held[0]]
        job, payload = self.jobs[unit["job_id"]], json.loads(unit["payload"])
        left = set(range(payload["low"], payload["high"])) - job.results - job.failures
        times = self.attempts.fruitless[held[0]]
        _hold(times == 0 or len(left) <= 1, f"unit {unit['key']} got nowhere {times} times, and is tried as a whole")

    def _check_fence(self, process: Process, changes: list[Change]) -> None:
        """Whoever has lost his unit writes nothing but that he was refused."""
        held = self.in_hand.get(process)
        if held is None or self.owners.get(held[0]) == (process, held[1]):
            return
        for table, old, new in changes:
            is_refusal = (
                table == "work_units" and old is not None and new is not None and _differ(old, new) == {"stale_writes"}
            )
            _hold(is_refusal, f"stale write: {process.name} lost {held} and wrote to {table}")
            self.counts["stale writes refused"] += 1

    def _owns(self, process: Process, unit_id: str) -> bool:
        return self.owners.get(unit_id, (None, 0))[0] is process

    def _ledger_job(self, process: Process, old: Row | None, new: Row | None) -> None:
        _hold(new is not None, "a job was deleted")
        assert new is not None
        job = self.jobs.setdefault(new["id"], Job(new["id"]))
        job.paused, job.closed = bool(new["paused"]), new["closed_at"] is not None
        self.touched[job.id] = None

    def _unit(self, process: Process, old: Row | None, new: Row | None) -> None:
        _hold(new is not None, "a unit was deleted")
        assert new is not None
        job = self.jobs[new["job_id"]]
        self.touched[job.id] = None
        if old is None:
            _hold((new["state"], new["attempt"]) == ("ready", 0), f"unit {new['id']} begins as {new['state']}")
        elif new["attempt"] != old["attempt"]:
            self._claimed(process, job, old, new)
        elif new["state"] != old["state"]:
            self._moved(process, job, old, new)
        else:
            self._written(process, old, new)
        self.units[new["id"]] = job.units[new["id"]] = new
        error = new["last_error"] or ""
        kind = error.split(":")[0]
        is_known = not kind.endswith("Error") or kind == "OperationalError"
        _hold(is_known, f"an attempt at {new['key']} failed as nobody foresaw: {error}")

    def _claimed(self, process: Process, job: Job, old: Row, new: Row) -> None:
        unit = f"unit {new['key']} ({new['id']})"
        _hold(new["attempt"] == old["attempt"] + 1, f"{unit}: attempt went from {old['attempt']} to {new['attempt']}")
        _hold(new["state"] == "leased", f"{unit}: attempt {new['attempt']} began without a lease")
        _hold(old["state"] not in ENDED, f"{unit} was claimed although it is {old['state']}")
        _hold(not job.paused, f"{unit} was claimed although its job is paused")
        _hold(old["not_before"] <= self.time, f"{unit} was claimed before its time")
        _hold(old["attempt"] < old["max_attempts"], f"{unit} was claimed although it has no attempts left")
        barred = self.gates.why_not_claim(old, self.time)
        _hold(not barred, f"{unit} was claimed although {barred}")
        if old["state"] == "leased":
            self._check_expired(old)
        self.attempts.claimed(old)
        self.owners[new["id"]] = (process, new["attempt"])
        self.in_hand[process] = (new["id"], new["attempt"])
        self.counts["claims"] += 1

    def _moved(self, process: Process, job: Job, old: Row, new: Row) -> None:
        unit, former, state = f"unit {new['key']} ({new['id']})", old["state"], new["state"]
        _hold(state in UNIT_MOVES[former], f"{unit} went from {former} to {state}")
        if former == "leased" and state != "cancelled" and not self._owns(process, new["id"]):
            _hold(state != "done", f"{unit} was done by {process.name}, which does not own it")
            self._check_expired(old)
            wrong = self.attempts.lost(new["id"], dead=state == "dead")
            _hold(not wrong, f"{unit}: {wrong}")
            self.counts["rescues"] += 1
        if former == "leased":
            self.has_settled |= self._owns(process, new["id"]) and state != "cancelled"
            self.owners.pop(new["id"], None)
        if state == "published":
            _hold(not job.paused, f"{unit} was published although its job is paused")
            _hold(old["not_before"] <= self.time, f"{unit} was published before its time")
            barred = self.gates.why_not_publish(old, self.units.values(), self.time)
            _hold(not barred, f"{unit} was published although {barred}")
            self.to_send.setdefault(process, []).append(new["id"])
        elif state == "cancelled":
            self.cancelled.append(new["id"])
        elif former in ENDED:
            _hold(process.name.startswith("user"), f"{unit} was {former}, and {process.name} began it anew")
            self.attempts.begun_anew(new["id"])

    def _written(self, process: Process, old: Row, new: Row) -> None:
        unit, changed = f"unit {new['key']} ({new['id']})", _differ(old, new)
        if changed & {"done_count", "lease_expires_at", "in_flight"}:
            _hold(self._owns(process, new["id"]), f"{unit} was written to by {process.name}, which does not own it")
            _hold(new["lease_expires_at"] > self.time, f"{unit} was renewed into the past")
        self.attempts.written(old, new)
        _hold(new["done_count"] >= old["done_count"], f"{unit} has less done than before")
        _hold(new["stale_writes"] >= old["stale_writes"], f"{unit} has fewer stale writes than before")

    def _check_expired(self, old: Row) -> None:
        unit = f"unit {old['key']} ({old['id']})"
        owner, attempt = self.owners.get(old["id"], (None, 0))
        _hold(
            old["lease_expires_at"] < self.time,
            f"{unit} was taken from {owner.name if owner else 'nobody'} before its lease ran out",
        )
        if owner is None or not owner.alive or self.in_hand.get(owner) != (old["id"], attempt):
            return
        is_well = not owner.frozen and owner.troubled_at < self.scheduler.now - 1.5 * self.lease
        _hold(not is_well, f"{owner.name} was alive and well, and lost {unit}: nobody renewed its lease")

    def _gate(self, process: Process, old: Row | None, new: Row | None) -> None:
        _hold(new is not None, "a gate was deleted")
        assert new is not None
        self.gates.learn(new)
        if new["failures"] and (old is None or not old["failures"]):
            self.counts["gates shut"] += 1

    def _job(self, process: Process, old: Row | None, new: Row | None) -> None:
        _hold(new is not None, "a job was deleted")
        assert new is not None
        job = self.jobs[new["id"]]
        self.touched[job.id] = None
        state = new["state"]
        if old is not None and state != old["state"]:
            _hold(state in JOB_MOVES[old["state"]], f"job {job.id} went from {old['state']} to {state}")
            is_wish = old["state"] in TERMINAL
            _hold(not is_wish or process.name.startswith("user"), f"{process.name} began job {job.id} anew")
            if state in TERMINAL:
                self.ended.append(job)
        elif old is None:
            _hold(state == "initialized", f"job {job.id} begins as {state}")
        _hold(
            (new["finished_at"] is not None) == (state in TERMINAL), f"job {job.id} is {state} and finished_at is not"
        )
        job.state, job.total = state, new["expected_total"]

    def _event(self, process: Process, old: Row | None, new: Row | None) -> None:
        _hold(old is None and new is not None, "an event was changed")
        assert new is not None
        job = self.jobs[new["subject_id"]]
        self.touched[job.id] = None
        _hold(new["sequence"] == job.events + 1, f"job {job.id} has event {new['sequence']} after {job.events}")
        _hold(new["from_state"] == job.last_event, f"job {job.id}: event from {new['from_state']} in {job.last_event}")
        job.events, job.last_event = new["sequence"], new["to_state"]

    def _result(self, process: Process, old: Row | None, new: Row | None) -> None:
        _hold(old is None and new is not None, "a result was changed or deleted")
        assert new is not None
        job, ordinal = self.jobs[new["bulk_inference_job_id"]], new["ordinal"]
        self.touched[job.id] = None
        self._check_covered(process, job, ordinal)
        _hold(ordinal not in job.results, f"job {job.id} has two results for datum {ordinal}")
        _hold(ordinal not in job.failures, f"job {job.id} has a result for datum {ordinal}, which failed")
        _hold(new["data"] == f"[{ordinal}]", f"job {job.id} has {new['data']} for datum {ordinal}")
        job.results.add(ordinal)

    def _failure(self, process: Process, old: Row | None, new: Row | None) -> None:
        row = new or old
        assert row is not None
        job, ordinal = self.jobs[row["job_id"]], row["ordinal"]
        self.touched[job.id] = None
        if new is None:
            _hold(process.name.startswith("user"), f"{process.name} deleted a failure")
            job.failures.discard(ordinal)
            return
        _hold(old is None, "a failure was changed")
        self._check_covered(process, job, ordinal)
        _hold(ordinal not in job.failures, f"job {job.id} has two failures for datum {ordinal}")
        _hold(ordinal not in job.results, f"job {job.id} has a failure for datum {ordinal}, which has a result")
        job.failures.add(ordinal)

    def _check_covered(self, process: Process, job: Job, ordinal: int) -> None:
        """Whoever writes an outcome owns a unit of the job that the datum belongs to."""
        held = self.in_hand.get(process)
        unit = self.units.get(held[0]) if held else None
        _hold(
            unit is not None and unit["job_id"] == job.id, f"{process.name} wrote to job {job.id} without a unit of it"
        )
        assert unit is not None
        if unit["kind"].endswith(".finish"):
            return
        payload = json.loads(unit["payload"])
        covered = payload["low"] <= ordinal < payload["high"]
        _hold(covered, f"{process.name} wrote datum {ordinal} under unit {unit['key']}")

    def _check_job(self, job: Job) -> None:
        """What must be so of every job after every commit."""
        done, failed = (sum(unit[name] for unit in job.units.values()) for name in ("done_count", "failed_count"))
        _hold(done == len(job.results), f"job {job.id} counts {done} done, and has {len(job.results)} results")
        _hold(failed == len(job.failures), f"job {job.id} counts {failed} failed, and has {len(job.failures)} failures")
        _hold(job.last_event == job.state, f"job {job.id} is {job.state}, and its last event says {job.last_event}")
        is_over = job.state in TERMINAL
        _hold(job.closed == is_over, f"job {job.id} is {job.state}, and {'closed' if job.closed else 'open'}")
        unfinished = [unit for unit in job.units.values() if unit["state"] not in ENDED]
        finishers = [unit for unit in unfinished if unit["kind"].endswith(".finish")]
        _hold(len(finishers) <= 1, f"job {job.id} is being finished {len(finishers)} times at once")
        if not is_over:
            _hold(not finishers or len(unfinished) == 1, f"job {job.id} is being finished, with units unfinished")

    def _check_end(self, process: Process, job: Job) -> None:
        """A job that is finished has nothing left to do; one that is aborted or refused drops what it has."""
        held = self.in_hand.get(process)
        rest = [
            unit["key"]
            for key, unit in job.units.items()
            if unit["state"] not in ENDED and (not held or key != held[0])
        ]
        _hold(not rest, f"job {job.id} is {job.state}, and {rest} go on")
        finishes = held is not None and self.units[held[0]]["kind"].endswith(".finish")
        _hold(not finishes or not self.cancelled, f"job {job.id} was finished with units unfinished")
        broken = [
            unit for unit in job.units.values() if unit["state"] == "dead" and not unit["kind"].endswith(".infer")
        ]
        if finishes and not broken:
            outcomes = job.results | job.failures
            _hold(outcomes == set(range(job.total or 0)), f"job {job.id} is {job.state} with outcomes for {outcomes}")

    def _check_window(self, changes: list[Change]) -> None:
        queues = {
            new["queue"] for table, _, new in changes if table == "work_units" and new and new["state"] == "published"
        }
        for queue in sorted(queues):
            waiting = [row for row in self.units.values() if row["state"] == "published" and row["queue"] == queue]
            # A project that has nothing in a full window may have one place beyond it.
            newcomers = len({row["project_id"] for row in waiting})
            _hold(len(waiting) <= self.window + newcomers, f"{len(waiting)} units of {queue} are in the broker")


def _differ(old: Row, new: Row) -> set[str]:
    return {name for name in old if old[name] != new[name]}


def _hold(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def describe(row: Row | None) -> dict[str, Any]:
    """The part of a row that a trace shows."""
    shown = ("state", "attempt", "done_count", "failed_count", "ordinal", "to_state", "paused")
    return {name: row[name] for name in shown if row is not None and name in row}
