"""What retention is made of: the states of a task, and what there is to know of one beyond the spec."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class TaskState(StrEnum):
    """Where a retention task stands."""

    PENDING = "pending"  #: submitted; nothing is counted yet
    SCHEDULED = "scheduled"  #: counted; its sweep waits for a worker
    RUNNING = "running"  #: it deletes, or lists what it would delete
    COMPLETE = "complete"  #: everything it was to delete is gone
    FAILED = "failed"  #: given up; its receipts tell what it has deleted
    STOPPED = "stopped"  #: somebody stopped it, or its policy was replaced; its receipts tell what it has deleted


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dry run found, to be approved: running it deletes exactly that, less what was protected since."""

    task_id: str
    sha256: str  #: of the whole file

    def __str__(self) -> str:
        return f"{self.task_id}/{self.sha256}"


@dataclass(frozen=True, slots=True)
class RetentionDetails:
    """Everything there is to know of a retention task."""

    task_id: str
    model_id: str
    policy_id: str
    state: TaskState
    dry_run: bool
    maximum_record_age_limit: datetime
    maximum_blob_age_limit: datetime
    deleted_record_count: int
    deleted_blob_count: int
    #: None before they are counted.
    total_record_count: int | None
    total_blob_count: int | None
    #: Inferences that stay and have lost their input data; the blobs of bulk inferences stay with their datasets.
    stripped_count: int
    #: A dry run's, once it is complete.
    manifest: Manifest | None
    #: The dry run whose manifest the task runs.
    approved_task_id: str | None
    reason: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.state in (TaskState.COMPLETE, TaskState.FAILED, TaskState.STOPPED)
