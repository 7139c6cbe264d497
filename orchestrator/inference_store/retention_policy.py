"""The doors of retention policies: set, look up, delete."""

from __future__ import annotations

from orchestrator.inference_store.models import NewRetentionPolicyRequest, RetentionPolicy
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention.policies import end_policy, find_policy, set_policy
from orchestrator.inference_store.retention.tables import RetentionPolicyRow
from orchestrator.inference_store.texts import checked_text


def create_retention_policy(model_id: str, request_body: NewRetentionPolicyRequest) -> RetentionPolicy | None:
    """Create a new retention policy for a particular model, in place of the one it has.

    Tasks of the former policy that still run are stopped.

    Parameters:
        model_id: The model id.
        request_body: The retention policy to attach to the model.

    Returns:
        Retention policy details.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
        InvalidRequest: an age or the interval is out of bounds, or blobs would outlive their records.
    """
    row = set_policy(
        checked_text("model_id", model_id),
        automated_interval=request_body.automated_interval,
        maximum_record_age=request_body.maximum_record_age,
        maximum_blob_age=request_body.maximum_blob_age,
        delete_action=Action(request_body.delete_action),
    )
    return _as_policy(row)


def get_retention_policy(model_id: str) -> RetentionPolicy | None:
    """Get the current retention policy for a model.

    Parameters:
        model_id: The model id.

    Returns:
        Retention policy details; None if the model has no policy.
    """
    row = find_policy(checked_text("model_id", model_id))
    return None if row is None else _as_policy(row)


def delete_retention_policy(model_id: str, retention_policy_id: str) -> str | None:
    """Delete a retention policy for a model; its tasks that still run are stopped, its receipts stay.

    Parameters:
        model_id: The model id.
        retention_policy_id: The retention policy id.

    Returns:
        The deleted retention policy id; None if the model has no such policy.
    """
    checked_text("model_id", model_id)
    return retention_policy_id if end_policy(model_id, retention_policy_id) else None


def _as_policy(row: RetentionPolicyRow) -> RetentionPolicy:
    return RetentionPolicy(
        id=row.id,
        model_id=row.model_id,
        delete_action=row.delete_action,
        maximum_record_age=row.maximum_record_age,
        maximum_blob_age=row.maximum_blob_age,
        automated_interval=row.automated_interval,
        last_scheduled_at=row.last_scheduled_at,
    )
