"""The probe does everything that an attempt does, and nobody ever sees it."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.database import reading, writing
from orchestrator.ledger.probe import probe
from orchestrator.ledger.tables import JobRow, UnitRow

pytestmark = pytest.mark.usefixtures("database")


def test_a_probe_succeeds_and_leaves_nothing() -> None:
    probe()
    with reading() as session:
        assert [session.scalar(select(func.count()).select_from(table)) for table in (JobRow, UnitRow)] == [0, 0]


def test_a_probe_fails_where_a_claim_would() -> None:
    with writing() as session:
        session.execute(text("ALTER TABLE work_units RENAME TO moved"))
    with pytest.raises(SQLAlchemyError, match="work_units"):
        probe()
