"""What callers see of training: blueprints, resources, states, events, metrics, progress."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class RunState(StrEnum):
    """The status of a training run."""

    RUN_CREATED = "run_created"  #: written, and nothing else has happened
    JOB_CREATED = "job_created"  #: what is to be launched is settled
    JOB_SUBMITTED = "job_submitted"  #: handed over to the runtime
    JOB_PENDING = "job_pending"  #: waiting for resources
    JOB_RUNNING = "job_running"  #: its trainer trains
    JOB_UNKNOWN = "job_unknown"  #: its trainer fell silent, and may write no more
    RUN_RESTART_REQUESTED = "run_restart_requested"  #: to be launched again
    RUN_STOP_REQUESTED = "run_stop_requested"  #: somebody wants it to end
    JOB_TERMINATE_REQUESTED = "job_terminate_requested"  #: there is a trainer that has to be told
    JOB_TERMINATING = "job_terminating"  #: the trainer was told, and has its grace period
    JOB_CREATE_FAILED = "job_create_failed"  #: the runtime refused it
    JOB_TERMINATED = "job_terminated"  #: ended because somebody wanted it
    JOB_FAILED = "job_failed"  #: ended with an error
    JOB_COMPLETED = "job_completed"  #: ended well


RunStatus = Literal[
    "run_created",
    "run_stop_requested",
    "run_restart_requested",
    "job_create_failed",
    "job_created",
    "job_submitted",
    "job_pending",
    "job_running",
    "job_terminate_requested",
    "job_terminating",
    "job_terminated",
    "job_failed",
    "job_completed",
    "job_unknown",
]
CheckpointStatus = Literal["incomplete", "complete"]


class BaseModelWithDatetime(BaseModel):
    """The base of the documented models; instants are aware, in UTC."""

    model_config = ConfigDict(protected_namespaces=(), validate_assignment=True)


class Gpu(BaseModelWithDatetime):
    """GPUs of one type.

    Parameters:
        count: How many.
        type: Which, such as "Tesla V100".
    """

    count: int
    type: str


class Resources(BaseModelWithDatetime):
    """What a run needs, in Kubernetes quantities: `cpu="500m"`, `memory="5Gi"`, `ephemeral_storage="20Gi"`."""

    cpu: str
    memory: str
    ephemeral_storage: str | None = None
    gpu: Gpu | None = None


class Event(BaseModelWithDatetime):
    """A change of a run's status; `sequence` counts 1, 2, 3 … for each run, without gaps."""

    id: str
    sequence: int
    run_id: str
    created_at: datetime
    status: str
    details: dict[str, Any]


class Metric(BaseModelWithDatetime):
    """A number that a run measured at a step; `job_id` names the launch of the run that did."""

    id: str
    created_at: datetime
    run_id: str
    global_step: int
    tag: str
    value: float | int
    job_id: str | None = None


class Progress(BaseModelWithDatetime):
    """How far an operation of a run has come."""

    operation: str
    value: float | int
    final_value: float | int
    units: str


class CheckpointPolicy(BaseModel):
    """Which complete checkpoints of a run are kept; what neither rule keeps is deleted.

    A checkpoint that a model or another run needs is spared, and so is the newest while the run is alive.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The newest so many.
    keep_last: int = Field(1, ge=1)
    #: So many with the best value of the metric `best_by` at their step.
    keep_best: int = Field(0, ge=0)
    best_by: str | None = None
    #: Whether the highest or the lowest value is the best.
    best_is: Literal["max", "min"] = "max"


class Serving(BaseModel):
    """How the models of a blueprint's checkpoints are served; all of it may be left open until there is a server."""

    model_config = ConfigDict(protected_namespaces=(), extra="forbid")

    #: Base URL of the server, without `/v2`.
    url: str = ""
    #: The model's name there; the name that the model is given by default.
    model_name: str | None = None
    model_version: str | None = None
    #: By default those of the task type.
    input_codec: str | None = None
    output_codec: str | None = None
    labels: list[str] | None = None


class NewBlueprint(BaseModel):
    """A blueprint to be registered: how to train one kind of model."""

    model_config = ConfigDict(extra="forbid")

    name: str
    version: str
    #: A container image; needed where runs are Kubernetes jobs.
    image: str | None = None
    #: The command that trains, as a list of arguments; needed where runs are local processes.
    entry_point: list[str] | None = None
    #: Task types that runs may have; any, when empty.
    task_types: list[str] = Field(default_factory=list)
    #: JSON Schema of a run's config.
    config_schema: dict[str, Any] = Field(default_factory=dict)
    #: Which checkpoints of a run are kept; all, by default.
    checkpoint_policy: CheckpointPolicy | None = None
    serving: Serving | None = None


class Blueprint(NewBlueprint):
    """A registered blueprint."""

    id: str
    created_at: datetime
