"""Rows that are inserted in bulk arrive as they are, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import clock
from orchestrator.database import fetch_rows, insert_rows, reading, transact
from orchestrator.database.bulk import RUN
from orchestrator.ids import new_id
from orchestrator.inference_store.tables import InferenceRow

pytestmark = pytest.mark.usefixtures("database")

NAMES = ("inference_id", "data", "data_hash")
MADE_AT = clock.now().replace(microsecond=120)


def insert(session: Session, model_id: str, rows: Sequence[tuple[str, ...]]) -> None:
    shared: dict[str, str | datetime] = {
        "model_id": model_id,
        "created_at": MADE_AT,
        "inference_action": "pre\tdict\\N",
        "version": "v2",
    }
    insert_rows(session, InferenceRow, shared, NAMES, rows)


def stored(model_id: str) -> list[InferenceRow]:
    with reading() as session:
        mine = select(InferenceRow).where(InferenceRow.model_id == model_id)
        return list(session.scalars(mine.order_by(InferenceRow.inference_id)))


@pytest.mark.parametrize("count", [0, 1, 2, 3, RUN - 1, RUN, RUN + 1, 2 * RUN, 5 * RUN + 77])
def test_any_number_of_rows_goes_in_with_what_they_have_in_common(count: int) -> None:
    model_id = new_id()
    rows = [(f"{at:06}", f"[{at}]", f"hash-{at}") for at in range(count)]
    transact(insert, model_id, rows)
    found = stored(model_id)
    assert [(row.inference_id, row.data, row.data_hash) for row in found] == rows
    assert all((row.created_at, row.inference_action, row.version) == (MADE_AT, "pre\tdict\\N", "v2") for row in found)


def test_rows_come_out_as_they_are_in_the_order_of_the_statement() -> None:
    model_id = new_id()
    rows = [(f"{at:06}", 'a "text"\twith\n\\N', f"hash-{at}") for at in range(2000)]
    transact(insert, model_id, rows)
    columns = InferenceRow.inference_id, InferenceRow.data, InferenceRow.data_hash
    mine = select(*columns).where(InferenceRow.model_id == model_id).order_by(InferenceRow.inference_id)
    with reading() as session:
        assert fetch_rows(session, mine) == rows
        assert fetch_rows(session, mine.where(InferenceRow.data == "none")) == []


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(
    ["\\N", "\\.", "\t", "a\nb", "\r\n", "\\", "?1", "'); DROP TABLE inferences; --", ":data %s $1", "NULL", ""]
)


@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, texts), max_size=40))
def test_every_text_arrives_as_it_was(values: list[tuple[str, str]]) -> None:
    model_id = new_id()
    rows = [(f"{at:06}", *pair) for at, pair in enumerate(values)]
    transact(insert, model_id, rows)
    assert [(row.inference_id, row.data, row.data_hash) for row in stored(model_id)] == rows


def test_of_rows_one_of_which_exists_none_goes_in() -> None:
    model_id = new_id()
    transact(insert, model_id, [("000300", "", "")])
    with pytest.raises(IntegrityError):
        transact(insert, model_id, [(f"{at:06}", "", "") for at in range(RUN + 100)])
    assert [row.inference_id for row in stored(model_id)] == ["000300"]
