"""Bulk inference jobs: infer with a model over one split of a snapshot, and store every inference."""

from orchestrator.bulk_inference.job import (
    abort_bulk_inference_job,
    create_bulk_inference_job,
    get_bulk_inference_details,
    get_bulk_inference_evaluation,
    get_bulk_inference_failures,
    get_bulk_inference_job,
    get_bulk_inference_jobs,
    list_bulk_inference_jobs,
    pause_bulk_inference_job,
    resume_bulk_inference_job,
    retry_bulk_inference_job,
    submit_bulk_inference_job,
    wait_for_bulk_inference_job,
)
from orchestrator.bulk_inference.models import (
    BulkInferenceJob,
    InferenceFailure,
    JobDetails,
    NewBulkInferenceJobRequest,
    ProgressState,
    SubmitOptions,
)

__all__ = [
    "BulkInferenceJob",
    "InferenceFailure",
    "JobDetails",
    "NewBulkInferenceJobRequest",
    "ProgressState",
    "SubmitOptions",
    "abort_bulk_inference_job",
    "create_bulk_inference_job",
    "get_bulk_inference_details",
    "get_bulk_inference_evaluation",
    "get_bulk_inference_failures",
    "get_bulk_inference_job",
    "get_bulk_inference_jobs",
    "list_bulk_inference_jobs",
    "pause_bulk_inference_job",
    "resume_bulk_inference_job",
    "retry_bulk_inference_job",
    "submit_bulk_inference_job",
    "wait_for_bulk_inference_job",
]
