"""A composition root for chaos: `celery -A tests.chaos.faulty worker`, the real one with named crash points.

Production code carries none of this: the points are hooks on SQLAlchemy's sessions and on the classes
that publish, acknowledge and store. What a point does is told by `tests.chaos.points`.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, BinaryIO

import kombu.message
import structlog
from celery import Celery
from celery.signals import beat_init, worker_process_init
from sqlalchemy import event, select
from sqlalchemy.orm import Session

import workers.celery  # noqa: F401  the real root, which makes the app what it is
from orchestrator.bulk_inference import plan
from orchestrator.database import transact
from orchestrator.inference_store.exports import plan as export_plan
from orchestrator.ledger import Lease
from orchestrator.ledger.tables import UnitRow
from orchestrator.queues import CeleryPublisher, app
from orchestrator.storage.local import LocalBlobs
from orchestrator.storage.s3 import S3Blobs
from tests.chaos import journal, points
from workers.archive import piece

__all__ = ["app"]

TRANSACT = transact.__code__
WORK = "work"
# Small jobs shall pass the points that otherwise only large ones do.
plan.PAGE = 2
# Also once it is known that the model is fast.
plan.SHORTEST = 0.02
export_plan.MOST = 60
piece.PIECE_BYTES = 20_000
JOB = "chaos_job"
#: Whether the database keeps a journal, once that is known.
_journal: bool | None = None


@app.on_configure.connect
def _name_this_module(sender: Any, **_: Any) -> None:
    # Connected after the real root's: a spawned child imports this, and with it the real root.
    sender.conf.imports = (__name__,)


@worker_process_init.connect
def _be_a_child(**_: Any) -> None:
    points.role = "child"


@beat_init.connect
def _be_beat(**_: Any) -> None:
    points.role = "beat"


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    frame = _transaction()
    if frame is None:
        return
    name, lease = _name(frame), _lease(frame)
    session.info[JOB] = _job_id(session, frame, lease)
    if lease is not None and _keeps_journal(session):
        journal.note(session.connection(), lease.unit_id, lease.attempt, name, os.getpid())
    points.reach(f"before commit {name}", session.info[JOB])


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    frame = _transaction()
    if frame is not None:
        points.reach(f"after commit {_name(frame)}", session.info.get(JOB))


def _transaction() -> FrameType | None:
    """The call of `transact` that is about to commit."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not TRANSACT:
        frame = frame.f_back
    return frame


def _name(frame: FrameType) -> str:
    """The function that the transaction runs, by its qualified name."""
    work = frame.f_locals[WORK]
    return str(getattr(work, "func", work).__qualname__)


def _values(frame: FrameType) -> list[Any]:
    """What a transaction's function works on: its arguments, and what it closes over."""
    variables = frame.f_locals
    cells = getattr(variables[WORK], "__closure__", None) or ()
    return [*variables["args"], *variables["kwargs"].values(), *(cell.cell_contents for cell in cells)]


def _lease(frame: FrameType) -> Lease | None:
    """The lease under which a transaction writes."""
    return next((value for value in _values(frame) if isinstance(value, Lease)), None)


def _job_id(session: Session, frame: FrameType, lease: Lease | None) -> str | None:
    """The job that a transaction is about, if it is about one."""
    if lease is not None:
        return lease.job_id
    if _name(frame) != points.CLAIM:
        return _job_at_work()
    claim = inspect.getclosurevars(frame.f_locals[WORK]).nonlocals
    # A claim that failed is about no job.
    mine = UnitRow.id == claim["unit_id"], UnitRow.lease_owner == claim["owner"]
    return session.scalar(select(UnitRow.job_id).where(*mine))


def _job_at_work() -> str | None:
    """The job whose unit this process works on."""
    return structlog.contextvars.get_contextvars().get("job")


def _keeps_journal(session: Session) -> bool:
    global _journal
    if _journal is None:
        _journal = journal.is_kept(session.connection())
    return _journal


def _surround(owner: type, name: str, label: Callable[..., str]) -> None:
    """Make points of the moments before and after a method."""
    method: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(method)
    def surrounded(self: Any, *args: Any, **kwargs: Any) -> Any:
        points.reach(f"before {label(*args)}", _job_at_work())
        answer = method(self, *args, **kwargs)
        points.reach(f"after {label(*args)}", _job_at_work())
        return answer

    setattr(owner, name, surrounded)


_surround(CeleryPublisher, "publish", lambda *_: "publish")
_surround(Celery, "send_task", lambda name, *_: f"send {name}")
_surround(kombu.message.Message, "ack", lambda *_: "ack")
_surround(LocalBlobs, "delete_many", lambda *_: "blob delete")
_surround(S3Blobs, "delete_many", lambda *_: "blob delete")
_surround(S3Blobs, "_put_one_missing", lambda *_: "blob put")
_replacing = LocalBlobs._replacing


@contextmanager
def _replacing_with_points(self: LocalBlobs, target: str) -> Iterator[BinaryIO]:
    points.reach("before blob write")
    with _replacing(self, target) as file:
        points.reach("during blob write")
        yield file
        points.reach("before blob rename")
    points.reach("after blob rename")


LocalBlobs._replacing = _replacing_with_points  # type: ignore[method-assign]  # that is the point
