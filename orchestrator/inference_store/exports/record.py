"""Recording: each piece goes in one fenced transaction, and the last one brings what follows."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import reading, transact
from orchestrator.inference_store.exports import queries
from orchestrator.inference_store.exports.lifecycle import KIND, TERMINAL
from orchestrator.inference_store.exports.models import LargeFile, Piece, Stream
from orchestrator.inference_store.exports.tables import ExportPieceRow, ExportTaskRow
from orchestrator.ledger import Lease, NewUnit
from orchestrator.queues import QueueName

#: Puts the archive together.
ASSEMBLE = NewUnit(f"{KIND}.assemble", "assemble", QueueName.EXPORTS)


def record_piece(lease: Lease, piece: Piece) -> None:
    """Count the members of a piece whose blobs are written, so that no later attempt writes it again.

    The last piece of the archive adds the unit that puts it together, in the same transaction.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or was cancelled; nothing was written.
    """

    def record(session: Session) -> None:
        ledger.check(session, lease)
        session.execute(
            insert(ExportPieceRow).values(
                task_id=lease.job_id,
                part=piece.part,
                piece=piece.piece,
                low=piece.low,
                high=piece.high,
                size=sum(blob.size for blob in chain[Stream | LargeFile](piece.streams.values(), piece.large_files)),
                streams={name: asdict(stream) for name, stream in piece.streams.items()},
                large_files=[asdict(file) for file in piece.large_files],
                counts=dict(piece.counts),
            )
        )
        ledger.hold(session, lease, done=piece.high - piece.low)
        _say(session, lease, "")
        _go_on(session, lease)

    transact(record)


def _go_on(session: Session, lease: Lease) -> None:
    # Of two that record the last pieces at once, the second sees what the first did.
    locked = select(ExportTaskRow.expected_count).where(ExportTaskRow.id == lease.job_id)
    expected = session.scalar(locked.with_for_update(key_share=True))
    if session.scalar(queries.recorded(lease.job_id)) == expected:
        ledger.add(session, lease.job_id, [ASSEMBLE])


def explain(lease: Lease, reason: str) -> None:
    """Say on the task why it waits; what was said is cleared by the next piece.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or was cancelled; nothing was written.
    """

    def say(session: Session) -> None:
        ledger.check(session, lease)
        _say(session, lease, reason)

    transact(say)


def _say(session: Session, lease: Lease, reason: str) -> None:
    session.execute(
        update(ExportTaskRow)
        # Why a task ended stays, whatever its last units have to say.
        .where(ExportTaskRow.id == lease.job_id, ExportTaskRow.state.not_in(TERMINAL))
        .where(ExportTaskRow.reason != reason)
        .values(reason=reason),
        execution_options={"synchronize_session": False},
    )


def pieces_of(task_id: str, part: int | None = None) -> list[Piece]:
    """The pieces of a task, or of one of its parts, in order."""
    with reading() as session:
        rows = session.scalars(queries.pieces(task_id, part)).all()
    return [
        Piece(
            part=row.part,
            piece=row.piece,
            low=row.low,
            high=row.high,
            streams={name: Stream(**value) for name, value in row.streams.items()},
            large_files=[LargeFile(**value) for value in row.large_files],
            counts=row.counts,
        )
        for row in rows
    ]
