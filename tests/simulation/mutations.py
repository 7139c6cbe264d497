"""Mutants of the product: each lacks one thing that its promises stand on, and a simulation must notice.

Conditions are taken out of the SQL itself on its way to the database, so that a mutant lasts longer
than the function that builds the statement.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from typing import Any
from unittest.mock import patch

from sqlalchemy import event, false, literal, select

from orchestrator import ledger, transitions
from orchestrator.bulk_inference import queries as selects
from orchestrator.bulk_inference import record, suspects
from orchestrator.database import insert_ignoring, transact
from orchestrator.ledger import jobs, leases
from orchestrator.ledger.tables import UnitRow
from tests.simulation.database import Database
from workers import unit

dispatching = import_module("orchestrator.ledger.dispatch")
reconciling = import_module("orchestrator.ledger.reconcile")

Mutant = Callable[[Database], AbstractContextManager[Any]]


def without(*conditions: str, of: str = "") -> Mutant:
    """Let the conditions, each a regular expression, always hold in statements that begin like `of`."""
    patterns = {re.compile(f"({condition})"): 0 for condition in conditions}

    @contextlib.contextmanager
    def mutated(database: Database) -> Iterator[None]:
        def rewrite(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> tuple[str, Any]:
            if re.match(of, statement):
                for pattern in patterns:
                    statement, count = pattern.subn(r"(\1 OR 1)", statement)
                    patterns[pattern] += count
            return statement, parameters

        event.listen(database.engine, "before_cursor_execute", rewrite, retval=True)
        try:
            yield
        finally:
            event.remove(database.engine, "before_cursor_execute", rewrite)
        unused = [pattern.pattern for pattern, count in patterns.items() if count == 0]
        assert not unused, f"this is no mutant: no statement says {unused}"

    return mutated


def replacing(*replacements: tuple[Any, str, Any]) -> Mutant:
    """Put something else in the place of functions: (where, the name, what)."""

    @contextlib.contextmanager
    def mutated(_: Database) -> Iterator[None]:
        with ExitStack() as stack:
            for place, name, substitute in replacements:
                stack.enter_context(patch.object(place, name, substitute))
            yield

    return mutated


def _nothing(*_: Any, **__: Any) -> int:
    return 0


def _nothing_left(*_: Any) -> None:
    return None


_mark, _insert = dispatching._mark_published, insert_ignoring


def _publish_first(queue: str, publisher: Any) -> int:
    """As `_dispatch_queue`, with the commit after the messages."""
    units = transact(dispatching.choose, queue)
    with contextlib.suppress(dispatching.Unavailable):
        publisher.publish(units)
    transact(_mark, [unit.id for unit in units])
    return len(units)


def _count_all(session: Any, model: Any, rows: Any) -> int:
    """As `insert_ignoring`, counting also what was there."""
    _insert(session, model, rows)
    return len(rows)


NOW = r"(?:\(SELECT orchestrator_now\(\?\)\)|orchestrator_now\(\?\))"
UPDATE = "UPDATE work_units SET"
ANY_UNIT = r"work_units\.state = \?|work_units\.state IN \(\?[^()]*\)"

#: What the issue names: the fence, the lease, the compare-and-set and the reconciler.
NAMED: Mapping[str, Mutant] = {
    "fence": without(r"work_units\.attempt = \?"),
    "lease": without(rf"work_units\.lease_expires_at < {NOW}", of=UPDATE),
    "compare-and-set of units": without(ANY_UNIT, of=UPDATE),
    "compare-and-set of jobs": replacing((transitions.Lifecycle, "sources", lambda self, to: frozenset(self.moves))),
    "reconciler": replacing((ledger, "reconcile", ledger.Reconciled)),
}
MUTANTS: Mapping[str, Mutant] = {
    **NAMED,
    "rescue": replacing((reconciling, "rescue", _nothing)),
    "requeue": replacing((reconciling, "requeue", _nothing)),
    "finish of drained jobs": replacing((reconciling, "finish_drained", _nothing)),
    "heartbeat": replacing((unit, "_beat", _nothing)),
    "row before message": replacing(
        (dispatching, "_mark_published", _nothing), (dispatching, "_dispatch_queue", _publish_first)
    ),
    "count of new rows only": replacing(
        (record, "insert_ignoring", _count_all),
        (selects, "settled", lambda *_: select(literal(0)).where(false())),
    ),
    "no unit unfinished before the finish": replacing((jobs, "_has_unfinished", lambda *_: False)),
    "cancellation with the end": replacing((ledger, "cancel", _nothing)),
    "event with the move": replacing((transitions.Lifecycle, "_remember", _nothing)),
    "pause at the claim": without(r"NOT \(EXISTS \(SELECT jobs\.id[^()]*jobs\.paused[^()]*\)\)", of=UPDATE),
    "not before its time": without(rf"work_units\.not_before <= {NOW}", of=UPDATE),
    "gate at dispatch": replacing((ledger.gates, "rooms", lambda _: {})),
    "gate at the claim": without(rf"NOT \(EXISTS \(SELECT gates\.name\s[^()]*{NOW}\)\)", of=UPDATE),
    "suspects apart": replacing((suspects, "cut_up", _nothing_left)),
    "attempts kept by who is put back": replacing((leases, "_at_least", lambda _: UnitRow.max_attempts)),
    "request id": replacing((ledger, "requested", lambda *_: None)),
}
