"""The reports of one launch: a socket that its trainer talks to, and everything behind it."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import ApiException, Unavailable
from orchestrator.training_v2.exceptions import StaleLaunch, ValidationError
from orchestrator.training_v2.logs import forget_if_deleted
from orchestrator.training_v2.measured import check_metrics
from orchestrator.training_v2.models import Progress
from orchestrator.training_v2.runner import wire
from workers.runtimes.reports.checkpoints import Checkpoints
from workers.runtimes.reports.measurements import Measurements
from workers.runtimes.reports.outlasting import PAUSE, GivenUp, Outlasting
from workers.runtimes.reports.output import Output

log = structlog.get_logger(__name__)

#: Trainers' connections that wait to be taken.
BACKLOG = 128
#: Connections that are served at a time: more than any trainer has processes and threads that report.
CONNECTIONS = 1000
#: Seconds for what takes no time, unless the machine is very busy.
PATIENCE = 5.0
#: Seconds in which an output comes to its end at least, also of a launch for which nothing is stored any more.
SETTLING = 2.0


class Reports:
    """Takes what the trainer of a launch reports and prints, and stores it.

    While the database or the blob store is away it keeps some of it, makes the trainer wait with the rest, and tries
    again: nothing is dropped and nothing is doubled. Connections are served by threads of their own.

    Parameters:
        run_id: The run.
        launch: The number of its launch.
        folder: The launch's folder, which exists.
        shared: Whether the socket is for the folder's group, too, as where trainer and supervisor are two users.
    """

    def __init__(self, run_id: str, launch: int, folder: Path, *, shared: bool = False) -> None:
        self._run_id = run_id
        self._launch = launch
        self._folder = folder
        self._mode = 0o660 if shared else 0o600
        self._outlasting = Outlasting()
        self._measurements = Measurements(run_id, launch, self._outlasting)
        self._checkpoints = Checkpoints(run_id, launch, self._outlasting)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening = threading.Thread(target=self._listen, name="reports", daemon=True)
        self._free = threading.Semaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self._served: dict[socket.socket, threading.Thread] = {}
        self._outputs: list[Output] = []

    @property
    def stale(self) -> bool:
        """Whether a report was refused because the launch is over: kill the trainer; nothing more is stored."""
        return self._outlasting.is_stale

    def bind(self) -> None:
        """Make the folder's `socket`, also in place of one that was left behind: whoever connects is served when the
        reports are opened.
        """
        path = self._folder / wire.SOCKET
        path.unlink(missing_ok=True)
        previous = os.umask(0o777 & ~self._mode)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(previous)
        self._listener.listen(BACKLOG)

    @property
    def is_waiting(self) -> bool:
        """Whether the database or the blob store is away, as far as the last report could tell."""
        return self._outlasting.is_waiting

    def open(self) -> None:
        """Listen on the folder's `socket`, which is made if it was not."""
        if not self._listener.getsockname():
            self.bind()
        self._measurements.start()
        self._listening.start()

    def keep_output(self, descriptor: int) -> None:
        """Keep what can be read from `descriptor` until its end as the launch's log; closes it then."""
        self._outputs.append(Output(self._run_id, self._launch, descriptor, self._outlasting))

    def close(self, within: float) -> bool:
        """Store what is left in sockets and pipes, and end. The trainer and all that it has started must have gone.

        Done again, it changes nothing.

        Returns:
            Whether everything was stored within so many seconds.
        """
        self._outlasting.end(within)
        self._stop_listening()
        whole = True
        for connection, thread in self._connections():
            thread.join(self._outlasting.left)
            if thread.is_alive():
                whole = False
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        whole &= self._measurements.close(self._outlasting.left)
        for output in self._outputs:
            whole &= output.close(max(self._outlasting.left, SETTLING))
        if self._outputs and not self.is_waiting:
            self._clear()
        return whole and not self.stale

    def _clear(self) -> None:
        """Leave nothing behind of a run that was deleted while it was told of."""
        try:
            forget_if_deleted(self._run_id)
        except (SQLAlchemyError, Unavailable) as error:
            log.warning("output_not_cleared", run=self._run_id, launch=self._launch, error=str(error))

    def _connections(self) -> list[tuple[socket.socket, threading.Thread]]:
        with self._lock:
            return list(self._served.items())

    def _stop_listening(self) -> None:
        """Take every connection that was made, and no other."""
        if self._listener.fileno() < 0 or not self._listening.is_alive():
            self._listener.close()
            return
        self._listener.settimeout(0)
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            # Wakes the thread that waits for a connection; from then on it does not wait.
            last.settimeout(PATIENCE)
            last.connect(str(self._folder / wire.SOCKET))
        (self._folder / wire.SOCKET).unlink(missing_ok=True)
        self._listening.join(PATIENCE)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            self._free.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                self._free.release()
                if self._listener.fileno() < 0 or isinstance(error, BlockingIOError):
                    return
                # The connection waits on: in a moment there may be a descriptor for it.
                log.warning("reports_not_taken", run=self._run_id, error=str(error))
                time.sleep(PAUSE)
                continue
            connection.setblocking(True)
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=[connection], name="report", daemon=True)
        try:
            with self._lock:  # which the thread takes when it ends
                thread.start()
                self._served[connection] = thread
        except RuntimeError as error:  # there can be no more threads; the other end hears that it is hung up
            log.warning("reports_not_taken", run=self._run_id, error=str(error))
            connection.close()
            self._free.release()

    def _serve(self, connection: socket.socket) -> None:
        """Answer a connection until its other end has gone."""
        try:
            with connection:
                while (answer := self._next_answer(connection)) is not None:
                    wire.send(connection, answer)
                    if isinstance(answer, wire.Refused):
                        return
        except OSError as error:
            log.debug("report_broken_off", run=self._run_id, error=str(error))
        finally:
            with self._lock:
                self._served.pop(connection, None)
            self._free.release()

    def _next_answer(self, connection: socket.socket) -> wire.Answer | None:
        """The next answer that the other end is to have; None once it has gone."""
        answer = None
        try:
            while answer is None and (received := wire.receive(connection)) is not None:
                answer = self._answered(*received)
        except wire.WireError as error:
            return wire.refusal(error)
        return answer

    def _answered(self, message: wire.Message, descriptor: int | None) -> wire.Answer | None:
        try:
            return self._do(message, descriptor)
        except (ApiException, StaleLaunch, GivenUp, wire.WireError) as error:
            return wire.refusal(error)
        except Exception as error:
            # The one place where an unforeseen error may end: it is logged, and told to the trainer.
            log.exception("report_failed", run=self._run_id, launch=self._launch)
            return wire.refusal(error)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _do(self, message: wire.Message, descriptor: int | None) -> wire.Answer | None:  # noqa: C901  a table of cases
        """What the message asks for."""
        if self.stale:
            raise StaleLaunch(self._run_id, self._launch)
        match message:
            case wire.Metrics(metrics):
                check_metrics(metrics)
                self._measurements.add(metrics)
                return None
            case wire.CurrentProgress(progress):
                self._measurements.replace(checked_progress(progress))
                return None
            case wire.Flush():
                self._measurements.flush()
            case wire.Begin(global_step):
                return self._checkpoints.begin(global_step)
            case wire.Keep(checkpoint_id, path) if descriptor is not None:
                self._checkpoints.keep(checkpoint_id, path, descriptor)
            case wire.Complete(checkpoint_id):
                self._checkpoints.complete(checkpoint_id)
            case wire.Discard(checkpoint_id):
                self._checkpoints.discard(checkpoint_id)
            case wire.Find(checkpoint_id):
                return self._checkpoints.find(checkpoint_id)
            case wire.Fill(checkpoint_id, number) if descriptor is not None:
                self._checkpoints.fill(checkpoint_id, number, descriptor)
            case _:
                raise wire.WireError(f"{type(message).__name__} is no request, or lacks its file")
        return wire.Done()


def checked_progress(progress: list[wire.Progress]) -> list[Progress]:
    """The progress as the intake wants it.

    Raises:
        ValidationError: a value is no finite number.
    """
    if not all(math.isfinite(each.value) and math.isfinite(each.final_value) for each in progress):
        raise ValidationError("progress: value and final_value must be finite numbers")
    return [Progress(**each._asdict()) for each in progress]
