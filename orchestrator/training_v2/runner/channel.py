"""A trainer's connections to its supervisor."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self, TypeVar

from orchestrator.training_v2.exceptions import SupervisorGone
from orchestrator.training_v2.runner import wire
from orchestrator.training_v2.runner.surroundings import surroundings

A = TypeVar("A", bound=wire.Answer)


class Connection:
    """One connection, on which one thread talks."""

    def __init__(self) -> None:
        """Connect.

        Raises:
            NotInARun: this process is no run's trainer.
            SupervisorGone: nobody listens.
        """
        self._ours = surroundings()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(self._ours.folder / wire.SOCKET))
        except OSError as error:
            self._socket.close()
            raise SupervisorGone(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def tell(self, request: wire.Request, descriptor: int | None = None) -> None:
        """Send a request, with an open file if it needs one.

        Raises:
            SupervisorGone: nobody listens any more; or what the supervisor said before it hung up.
        """
        try:
            wire.send(self._socket, request, descriptor)
        except OSError as error:
            self.hear(wire.Done)
            raise SupervisorGone(error) from error

    def hear(self, kind: type[A]) -> A:
        """The answer, which is to be of this kind.

        Raises:
            SupervisorGone: there will be none.
            ValidationError, TrainingConflict, CheckpointDoesNotExistError, StaleLaunch, RunnerError: it was refused.
        """
        try:
            received = wire.receive(self._socket)
        except OSError as error:
            raise SupervisorGone(error) from error
        match received:
            case None:
                raise SupervisorGone
            case wire.Refused() as refused, _:
                raise wire.error_of(refused, self._ours.run_id, self._ours.launch)
            case answer, _ if isinstance(answer, kind):
                return answer
            case _:
                raise wire.WireError(f"{kind.__name__} was to be answered")


def ask(request: wire.Request, kind: type[A], descriptor: int | None = None) -> A:
    """Ask on a connection of its own, and wait for the answer, however long that takes; any thread may, at any time."""
    with Connection() as connection:
        connection.tell(request, descriptor)
        return connection.hear(kind)
