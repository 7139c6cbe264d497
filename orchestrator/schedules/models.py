"""What a schedule says, and what is told of its occurrences."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Overlap(StrEnum):
    """What to do when a schedule is due while its last job is still at work."""

    SKIP = "skip"  #: nothing, and say so
    QUEUE = "queue"  #: wait for it, one after the other; when a thousand wait, skip
    ALLOW = "allow"  #: submit all the same


class OccurrenceState(StrEnum):
    """What became of an instant at which a schedule was due."""

    FIRED = "fired"  #: a job was submitted in time
    CAUGHT_UP = "caught_up"  #: a job was submitted late: nobody ticked, or a job before it had to end
    QUEUED = "queued"  #: it waits for the job before it
    SKIPPED = "skipped"  #: nothing was submitted; the reason says why


class NewSchedule(BaseModel):
    """A job to be submitted again and again: by `cron` in `time_zone`, or `every` so often, counted from `starts_at`.

    Attributes:
        project_id: whose schedule it is; names are unique within a project.
        name: for people.
        kind: what kind of job, as in a message on the queue `submissions`.
        spec: the job's request, as in such a message.
        options: the submission's options, such as `priority`.
        cron: five fields; see `timing` for what daylight saving time does to it.
        every: the interval, in whole seconds.
        time_zone: an IANA name, such as `Europe/Berlin`.
        overlap: what to do while the last job is still at work.
        catch_up: what was due for longer than this, because nobody ticked, is skipped; the rest is made up for.
        starts_at: nothing is due before; by default now.
        ends_at: nothing is due after; by default for ever.
        paused: whether everything is skipped for the time being.
    """

    model_config = ConfigDict(extra="forbid")

    project_id: str = Field(min_length=1, max_length=255)
    name: str = Field(min_length=1, max_length=255)
    kind: str = Field(min_length=1, max_length=255)
    spec: dict[str, Any]
    options: dict[str, Any] = {}
    cron: str | None = None
    every: timedelta | None = None
    time_zone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    catch_up: timedelta = timedelta(hours=1)
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    paused: bool = False


class Schedule(NewSchedule):
    """A schedule as it stands; `next_due_at` is None when nothing will be due any more."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)

    id: str
    next_due_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None


class Occurrence(BaseModel):
    """An instant at which a schedule was due, and what was done about it."""

    model_config = ConfigDict(from_attributes=True)

    schedule_id: str
    due_at: datetime
    state: OccurrenceState
    reason: str
    job_id: str | None
    decided_at: datetime
