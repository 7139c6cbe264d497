"""The error tree: what can go wrong, named so that a caller can tell one case from another."""

from __future__ import annotations

from typing import Any


class OrchestratorError(Exception):
    """Anything this project raises on purpose."""


class ApiException(OrchestratorError):
    """A request that could not be served; `status` follows HTTP, `body` says what to do next."""

    status = 500

    def __init__(self, body: str, **details: Any) -> None:
        super().__init__(body)
        self.body = body
        self.details = details


class InvalidRequest(ApiException):
    """A value in the request is wrong; nothing was written."""

    status = 400


class NotFound(ApiException):
    """The thing that the request names does not exist."""

    status = 404


class Conflict(ApiException):
    """The request is sound, but the thing it acts on is in a state that forbids it."""

    status = 409


class Unavailable(ApiException):
    """A server this process needs does not answer."""

    status = 503


class InferenceMethodNotSupported(InvalidRequest):
    """The model's task type has no such inference method, or the method must be named."""


class BadArchive(InvalidRequest):
    """A dataset folder or archive was refused; `member` and `line` say where. Nothing was kept."""

    def __init__(self, body: str, *, member: str | None = None, line: int | None = None) -> None:
        super().__init__(body, member=member, line=line)
        self.member = member
        self.line = line


class ProjectNotFound(NotFound):
    """No project has this id or name."""


class DatasetNotFound(NotFound):
    """No dataset has this id in this project."""


class SnapshotNotFound(NotFound):
    """No finished snapshot has this id in this dataset."""


class SplitNotFound(NotFound):
    """The snapshot has no such split."""


class ModelNotFound(NotFound):
    """No model has this id in this project."""


class ScheduleNotFound(NotFound):
    """No schedule has this id, or it was deleted."""


class BlobNotFound(NotFound):
    """Nothing is stored under this key."""


class JobNotFound(NotFound):
    """No job has this id."""


class ForbiddenAddress(InvalidRequest):
    """An endpoint resolves to an address that workers must not call."""


class SignatureInvalid(ApiException):
    """A signed URL was altered, has expired, or was signed with another key."""

    status = 403


class RequestIdReused(Conflict):
    """The request id is that of a job which was asked for something else; `details["job_id"]` says of which."""


class IllegalTransition(Conflict):
    """The lifecycle has no such move from the state that was found."""


class LeaseLost(OrchestratorError):
    """Another attempt owns this unit, or it was cancelled; nothing was written."""

    def __init__(self, unit_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} no longer owns unit {unit_id}")
        self.unit_id = unit_id
        self.attempt = attempt
