"""What runs over the store: export tasks, retention policies and retention tasks."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.inference_store.models.filters import (
    BaseInferenceFilter,
    DeleteAction,
    Pagination,
    TimeWindowFilter,
)


class RetentionTaskState(str, Enum):  # noqa: UP042  the documented SDK has it so, and `str()` differs
    """Defines the retention task state options."""

    COMPLETE = "complete"
    FAILED = "failed"
    PENDING = "pending"
    RUNNING = "running"
    SCHEDULED = "scheduled"
    STOPPED = "stopped"


class ExportTask(BaseModel):
    """Defines an inference store export task resource.

    Parameters:
        id: The export task id.
        progress_count: The current number of inferences added to the archive file.
        expected_count: The expected number of inferences to be added to archive file.
        state: The export task state.
        presigned_url: A presigned url to the archive if the export task is complete.
    """

    model_config = ConfigDict(protected_namespaces=())

    id: str
    progress_count: int
    expected_count: int
    state: str
    presigned_url: str | None = None


class NewExportTaskRequest(BaseModel):
    """Helper object to create an export task.

    Parameters:
        filters: A collection of filters.
        include_inference_ids: The list of additional inference ids to include.
        exclude_inference_ids: The list of additional inference ids to exclude.
        include_inferences_as_annotations: Whether to include the inferences as annotations (only eligible for
            version=v2 inferences).
        include_custom_metadata: Whether to include custom metadata attached to the inference.
    """

    model_config = ConfigDict(protected_namespaces=())

    filters: BaseInferenceFilter = BaseInferenceFilter()
    include_inference_ids: list[str] = Field(default_factory=list)
    exclude_inference_ids: list[str] = Field(default_factory=list)
    include_inferences_as_annotations: bool = False
    include_custom_metadata: bool = False


class RetentionPolicy(BaseModel):
    """Defines an inference store retention policy resource.

    Parameters:
        id: The retention policy id.
        model_id: The model id.
        delete_action: Whether records are soft deleted or hard deleted.
        maximum_record_age: The maximum age (in hours) in which an inference and its associated data is safe from
            deletion.
        maximum_blob_age: The maximum age (in hours) in which a blob is safe from deletion.
        automated_interval: The interval (in hours) in which this retention policy will be automatically run.
        last_scheduled_at: The last time a retention task for this retention policy was run.
    """

    model_config = ConfigDict(protected_namespaces=())

    id: str
    model_id: str
    delete_action: str
    maximum_record_age: int
    maximum_blob_age: int
    automated_interval: int | None = None
    last_scheduled_at: datetime | None = None


class NewRetentionPolicyRequest(BaseModel):
    """Helper object to create a retention policy.

    A value of -1 for maximum_record_age indicates that inferences should never be deleted. The maximum_blob_age must
    be greater than or equal to 0. The maximum_blob_age must also be equal to or less than the maximum_record_age.
    What breaks these rules is refused where the policy is created.

    Parameters:
        automated_interval: Interval to automatically run retention policy in hours. Set to 0 if manual executions are
            desired.
        maximum_record_age: The maximum age (in hours) since now in which an inference and its associated data is safe
            from deletion.
        maximum_blob_age: The maximum age (in hours) since now in which a blob is safe from deletion.
        delete_action: Whether to 'soft' or 'hard' delete the database records
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    automated_interval: int
    maximum_record_age: int
    maximum_blob_age: int
    delete_action: DeleteAction = DeleteAction.SOFT


class RetentionTask(BaseModel):
    """Defines an inference store retention task resource.

    Parameters:
        id: The retention task id.
        retention_policy_id: The retention policy id.
        deleted_record_count: The count of all records currently deleted.
        deleted_blob_count: The count of all blobs currently deleted.
        total_record_count: The expected total count of all records to be deleted.
        total_blob_count: The expected total count of all blobs to be deleted.
        state: The state of the retention task.
        maximum_record_age_limit: The timestamp in which records are safe from deletion.
        maximum_blob_age_limit: The timestamp in which blobs are safe from deletion.
    """

    model_config = ConfigDict(protected_namespaces=())

    id: str
    retention_policy_id: str
    deleted_record_count: int
    deleted_blob_count: int
    total_record_count: int
    total_blob_count: int
    state: str
    maximum_record_age_limit: datetime
    maximum_blob_age_limit: datetime


class NewRetentionTaskRequest(BaseModel):
    """Helper object to create a retention task.

    Parameters:
        dry_run: If true, returns the number of inferences that would be deleted if the retention policy was fully
            executed.
        retention_policy_id: The id of the retention policy to run.
    """

    model_config = ConfigDict(protected_namespaces=())

    dry_run: bool
    retention_policy_id: str


class NewGetRetentionTasksRequest(BaseModel):
    """Helper object to filter retention tasks.

    Parameters:
        retention_policy_id: Filter by retention policy id.
        state_filter: Filter by retention task state.
        time_window_filter: Get retention tasks within a time window.
        pagination: Get retention tasks matching pagination constraints.
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    retention_policy_id: str | None = None
    state_filter: RetentionTaskState | None = None
    time_window_filter: TimeWindowFilter | None = None
    pagination: Pagination | None = None
