"""Protection: what retention must not touch, said of an inference that is stored already."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, transact
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.inference_store.texts import checked_text


def protect_inference(model_id: str, inference_id: str, is_protected: bool = True) -> str | None:
    """Protect an inference and its data from retention, or let retention have them again.

    Once this has returned, no sweep deletes the inference, not even one that is at work on it.

    Parameters:
        model_id: The model id.
        inference_id: The inference id.
        is_protected: Whether the inference and its associated data should be protected from deletion by retention
            policy.

    Returns:
        The inference id; None if there is no such inference, or a sweep was faster.
    """
    model_id, inference_id = checked_text("model_id", model_id), checked_text("inference_id", inference_id)
    return transact(protect, model_id, inference_id, is_protected)


def protect(session: Session, model_id: str, inference_id: str, is_protected: bool = True) -> str | None:
    """The same, in the caller's transaction, of ids that were checked."""
    return session.scalar(
        update(InferenceRow)
        .where(InferenceRow.model_id == model_id, InferenceRow.inference_id == inference_id)
        .where(InferenceRow.deleted_at.is_(None))
        .values(is_protected=is_protected, updated_at=db_now())
        .returning(InferenceRow.inference_id),
        execution_options={"synchronize_session": False},
    )
