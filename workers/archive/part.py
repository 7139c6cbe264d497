"""A part of an archive: its members are written piece by piece, and each piece is a checkpoint.

Where a piece ends depends on what it holds and on nothing else, so an attempt that goes on where another was killed
writes the same bytes.
"""

from __future__ import annotations

import time

from orchestrator.errors import LeaseLost
from orchestrator.inference_store.exports.record import pieces_of, record_piece
from orchestrator.ledger import Again, Done, Lease, Outcome
from orchestrator.storage import blobs
from workers.archive.piece import PieceWriter
from workers.archive.records import Order

#: Seconds after which a unit lets others have the worker, and comes back.
SLICE = 10.0


def write_part(lease: Lease, order: Order) -> Outcome:
    """Write what is missing of the part `low <= ordinal < high`.

    A piece's blobs come first, under names of this attempt's own; the transaction that records them makes them part
    of the archive. Killed before it, they are nobody's, and go when the task has ended.
    """
    part, low, high = lease.payload["part"], lease.payload["low"], lease.payload["high"]
    written = pieces_of(lease.job_id, part)
    position, number = written[-1].high if written else low, len(written)
    begun = time.monotonic()
    while position < high:
        writer = PieceWriter(order, part, number, lease.attempt)
        piece = writer.write(position, high)
        try:
            record_piece(lease, piece)
        except LeaseLost:
            # Whoever has the unit now writes under other names, and may have ended the task: none sweeps after us.
            blobs().delete_many(writer.written)
            raise
        position, number = piece.high, number + 1
        if position < high and time.monotonic() - begun > SLICE:
            return Again()
    return Done()
