"""Lifecycles: declared tables of moves, made by compare-and-set, each leaving an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import CursorResult, Text, func, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator.database import Base, Identifier, db_now, storable
from orchestrator.errors import IllegalTransition

S = TypeVar("S", bound=StrEnum)


class EventRow(Base):
    """One change of state; `sequence` counts 1, 2, 3 … for each subject, without gaps."""

    __tablename__ = "events"

    subject_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    lifecycle: Mapped[str] = mapped_column(Text)
    from_state: Mapped[str | None] = mapped_column(Text)
    to_state: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text, default="")
    #: What else there is to say of the change; which names it has depends on the lifecycle.
    details: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


@dataclass(frozen=True)
class Lifecycle(Generic[S]):
    """The states of one kind of thing and the moves between them.

    `table` is the mapped class whose columns `id`, `state` and `finished_at` this lifecycle alone
    writes; `finished_at` is set while the state is a terminal one.
    """

    name: str
    table: type[DeclarativeBase]
    initial: S
    #: States that nothing leaves by itself; only a person's wish (a retry) may.
    terminal: frozenset[S]
    moves: Mapping[S, frozenset[S]]

    def sources(self, to: S) -> frozenset[S]:
        """The states from which `to` can be reached in one move."""
        return frozenset(state for state, targets in self.moves.items() if to in targets)

    def begin(self, session: Session, subject_id: str) -> None:
        """Record that the subject, just inserted, stands in the initial state."""
        self._remember(session, subject_id, None, self.initial, "")

    def move(
        self,
        session: Session,
        subject_id: str,
        to: S,
        *,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        only_from: Iterable[S] | None = None,
        **values: Any,
    ) -> bool:
        """Move the subject to `to` if it stands where the table allows it; say whether it moved.

        `only_from` narrows the states to leave; `details` are kept with the event, beside the reason;
        `values` are columns to set in the same statement.
        Of many that race, one moves.

        Raises:
            IllegalTransition: `only_from` names a state from which the table has no such move.
        """
        allowed = self.sources(to)
        wanted = allowed if only_from is None else frozenset(only_from)
        if not wanted <= allowed:
            raise IllegalTransition(f"{self.name} has no move from {sorted(wanted - allowed)} to {to}")
        table = cast(Any, self.table)
        # The lock makes the state that the event names the state that the update leaves. It spares the
        # key: rows that refer to the subject, which the same transaction may have written, hold that.
        found = session.scalar(select(table.state).where(table.id == subject_id).with_for_update(key_share=True))
        if found not in wanted:
            return False
        outcome = session.execute(
            update(self.table)
            .where(table.id == subject_id, table.state == found)
            .values(state=to, finished_at=db_now() if to in self.terminal else None, **values),
            execution_options={"synchronize_session": False},
        )
        if cast(CursorResult[Any], outcome).rowcount != 1:
            return False
        self._remember(session, subject_id, found, to, reason, details)
        return True

    def _remember(
        self,
        session: Session,
        subject_id: str,
        found: str | None,
        to: str,
        reason: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        following = select(func.coalesce(func.max(EventRow.sequence), 0) + 1).where(EventRow.subject_id == subject_id)
        session.execute(
            insert(EventRow).values(
                subject_id=subject_id,
                sequence=following.scalar_subquery(),
                lifecycle=self.name,
                from_state=found,
                to_state=to,
                reason=storable(reason),
                details=None if details is None else dict(details),
                created_at=db_now(),
            )
        )


def events_of(session: Session, subject_id: str) -> list[EventRow]:
    """Every change of the subject's state, oldest first."""
    return list(session.scalars(select(EventRow).where(EventRow.subject_id == subject_id).order_by(EventRow.sequence)))
