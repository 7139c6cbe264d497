"""What can go wrong in training, under the names that the documented SDK gives it."""

from __future__ import annotations

from typing import Any

from orchestrator import errors


class Portable:
    """An error that another process can be told of: it is pickled as it is, and never constructed again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), getattr(self, "args", ())), vars(self)


def _revived(kind: type[Exception], args: tuple[object, ...]) -> Exception:
    return kind.__new__(kind, *args)


class OpenApiException(Portable, errors.OrchestratorError):
    """The root of what the documented SDK calls failures of its service."""


class ApiException(errors.ApiException, OpenApiException):
    """A request that could not be served; `status` follows HTTP, `body` says what to do next."""

    def __init__(
        self,
        status: int | None = None,
        reason: str | None = None,
        http_resp: object = None,
        *,
        body: str | None = None,
        data: Any | None = None,
    ) -> None:
        super().__init__(body or reason or "")
        self.status = type(self).status if status is None else status
        self.reason = reason
        self.http_resp = http_resp
        self.data = data


#: The documentation has both spellings.
APIException = ApiException


class TrainingConflict(ApiException, errors.Conflict):
    """The run or checkpoint is in a state that forbids what was asked for."""

    status = 409

    def __init__(self, body: str) -> None:
        super().__init__(body=body)


class ProjectDoesNotExistError(ApiException, errors.ProjectNotFound):
    """No project has this id."""

    status = 404

    def __init__(self, id: str) -> None:  # noqa: A002  as of its siblings
        super().__init__(body=f"no project has the id {id!r}: `orchestrator project list` shows them")
        self.id = id


class BlueprintDoesNotExistError(ApiException, errors.NotFound):
    """No blueprint is as described, or it has been deleted."""

    status = 404

    def __init__(self, id: str | None = None, name: str | None = None, version_ilike: str | None = None) -> None:  # noqa: A002  the documented name
        wanted = f"with the id {id!r}" if id is not None else f"named {name!r}"
        version = "" if version_ilike is None else f" with a version like {version_ilike!r}"
        super().__init__(body=f"there is no blueprint {wanted}{version}: `orchestrator blueprint list` shows them")
        self.id = id
        self.name = name
        self.version_ilike = version_ilike


class RunDoesNotExistError(ApiException, errors.NotFound):
    """No run has this id, or it has been deleted."""

    status = 404

    def __init__(self, id: str | None = None) -> None:  # noqa: A002  the documented name
        super().__init__(body=f"there is no training run with the id {id!r}: `orchestrator run list` shows them")
        self.id = id


class CheckpointDoesNotExistError(ApiException, errors.NotFound):
    """No checkpoint has this id, or it has been deleted."""

    status = 404

    def __init__(self, id: str) -> None:  # noqa: A002  as above
        super().__init__(
            body=f"there is no checkpoint with the id {id!r}: `orchestrator run checkpoints RUN` shows them"
        )
        self.id = id


class ValidationError(errors.InvalidRequest, ValueError):
    """A value is wrong; the message names every offending field. Nothing was written."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class StaleLaunch(Portable, errors.OrchestratorError):
    """This launch of the run is no longer the one that counts: nothing was written, and its trainer must end."""

    def __init__(self, run_id: str, launch: int) -> None:
        super().__init__(f"launch {launch} of run {run_id} is over: end its trainer")
        self.run_id = run_id
        self.launch = launch


class RunnerError(Portable, errors.OrchestratorError):
    """Training code could not talk to its run."""


class NotInARun(RunnerError):
    """This process is not the trainer of a run."""

    def __init__(self) -> None:
        super().__init__(
            "this process is no run's trainer: start it with `orchestrator run create`, "
            "or ask `runner.is_run()` first in a script that is also tried by hand"
        )


class SupervisorGone(RunnerError):
    """The supervisor of this trainer does not listen any more: the launch is over, and nothing can be reported."""

    def __init__(self, why: object = "it closed the connection") -> None:
        super().__init__(f"this trainer's supervisor has gone ({why}): the launch is over, end the trainer")
