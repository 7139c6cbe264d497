"""What callers see of bulk inference: requests, jobs, states, failures."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class ProgressState(StrEnum):
    """The status of a bulk inference job."""

    ABORTED = "aborted"
    FAILED = "failed"
    INITIALIZED = "initialized"
    IN_PROGRESS = "in_progress"
    RUNNING = "running"
    RUNNING_FAILED = "running_failed"
    SUCCEEDED = "succeeded"


class NewBulkInferenceJobRequest(BaseModel):
    """A request to infer over one split of a snapshot.

    Parameters:
        model_project_id: The project of the model.
        model_id: The model to infer with.
        dataset_project_id: The project of the dataset.
        dataset_id: The dataset that holds the snapshot.
        dataset_snapshot_id: The snapshot to infer on.
        dataset_snapshot_split: The split of the snapshot to infer on.
        inference_method: The inference method (or action). May be left out where the task type has one only.
        evaluate_metrics: Compare the inferences with the annotations afterwards. Only annotated datums are
            inferred on then.
        batch_size: Datums that travel in one request to the model server; 1 to 4096.
    """

    model_config = ConfigDict(protected_namespaces=())

    model_project_id: str
    model_id: str
    dataset_project_id: str
    dataset_id: str
    dataset_snapshot_id: str
    dataset_snapshot_split: str
    inference_method: str = ""
    evaluate_metrics: bool = False
    batch_size: int = 1


class BulkInferenceJob(BaseModel):
    """A bulk inference job that was created earlier.

    Parameters:
        execution_id: The id of the job.
        execution_status: The status of the job.
        num_computed: The number of inferences stored so far.
        expected_total: The number of datums to infer on; None until planning has counted them.
    """

    execution_id: str
    execution_status: str
    num_computed: int | None = None
    expected_total: int | None = None

    @property
    def job_id(self) -> str:
        """The id of this job."""
        return self.execution_id

    @property
    def job_status(self) -> ProgressState:
        """The status of this job."""
        return ProgressState(self.execution_status)


class SubmitOptions(BaseModel):
    """What a submission may say beyond the request itself."""

    model_config = ConfigDict(extra="forbid")

    #: A second submission of the same with the same id returns the first one's job.
    request_id: str | None = Field(None, min_length=1, max_length=255)
    #: The share of datums that may fail before the job counts as failed.
    failure_threshold: float = Field(0.0, ge=0, le=1)
    #: Units of a higher priority are published first, within a project.
    priority: int = Field(0, ge=-1000, le=1000)


class JobDetails(BaseModel):
    """Everything there is to know of a job: what was asked, where it stands, and why."""

    job_id: str
    status: ProgressState
    request: NewBulkInferenceJobRequest
    failure_threshold: float
    priority: int
    paused: bool
    num_computed: int
    num_failed: int
    expected_total: int | None
    #: Requests open at the model server, as of each worker's last write.
    in_flight: int
    #: Units of work by state.
    units: dict[str, int]
    #: Why the job waits, failed or was aborted; empty when there is nothing to say.
    reason: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.finished_at is not None


class InferenceFailure(BaseModel):
    """A datum that could not be inferred on."""

    job_id: str
    datum_id: str
    path: str
    #: The datum's place in its split.
    ordinal: int
    #: `item`, `transient`, `bad_answer` … (`workers.inference.failures` says what each means).
    failure_class: str
    #: HTTP status of the server's last answer, where there was one.
    status: int | None
    message: str
    attempts: int
    created_at: datetime
