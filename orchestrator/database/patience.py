"""A PostgreSQL connection that gives up on a server that has fallen silent, and on no other.

TCP notices a peer that acknowledges nothing. It does not notice a server that is gone behind a proxy
or a load balancer, which acknowledges everything: whoever waits for an answer then waits for ever.
A deadline for each statement would end long ones that are at work, so the server is asked instead.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")

#: Seconds without a byte after which the server is asked, over another connection, about the statement.
SILENCE = 2.0
#: Seconds that the answer may still be under way, once the server says that it is not at work.
GRACE = 1.0
#: Seconds that the server has to take the other connection, and again to answer on it.
PROBE_PATIENCE = 2

#: Whether the server works on a session's statement. One that waits for us to read has stopped working.
AT_WORK = """
SELECT pg_backend_pid(), EXISTS (
    SELECT 1 FROM pg_stat_activity
    WHERE pid = %s AND state IN ('active', 'fastpath function call', 'disabled')
    AND wait_event IS DISTINCT FROM 'ClientWrite'
)
"""


class Silent(psycopg.OperationalError):
    """The server no longer works on the statement, or cannot be asked; the connection is closed."""


class PatientConnection(psycopg.Connection[Any]):
    """Waits as long as the server is at work."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Run an operation of the connection.

        Raises:
            Silent: the server fell silent. What became of the statement is unknown, as with any lost connection.
        """
        return super().wait(self._watch(gen), interval, timeout)

    def _watch(self, gen: PQGen[T]) -> PQGen[T]:
        """`gen`, which is given `Ready.NONE` every `interval` as long as nothing comes."""
        silent_since: float | None = None
        is_suspect = False
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    silent_since, is_suspect = None, False
                elif silent_since is None:
                    silent_since = time.monotonic()
                elif time.monotonic() - silent_since > (GRACE if is_suspect else SILENCE):
                    if is_suspect:
                        raise self._given_up()
                    is_suspect = not is_at_work(self)
                    silent_since = time.monotonic()
                wanted = gen.send(ready)
        except StopIteration as end:
            return cast(T, end.value)

    def _given_up(self) -> Silent:
        self.close()
        return Silent("the server fell silent in the middle of a statement, and is not at work on it")


class Probe(psycopg.Connection[Any]):
    """A connection on which nothing may take long."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        return super().wait(gen, interval, timeout or PROBE_PATIENCE)


def is_at_work(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server, asked over another connection, says that it works on this one's statement."""
    info = connection.info
    if info.host.startswith("/"):
        return True  # a socket of this machine, whose kernel tells when the server is gone
    try:
        with Probe.connect(
            info.dsn,
            host=info.host,
            port=info.port,
            password=info.password,
            connect_timeout=PROBE_PATIENCE,
            autocommit=True,
        ) as probe:
            pid, at_work = probe.execute(AT_WORK, [info.backend_pid]).fetchone() or (0, False)
            # Behind a pooler a session's number is the pooler's own, and says nothing to the server.
            return bool(at_work or pid != probe.info.backend_pid)
    except psycopg.Error as error:
        # A refusal in words, such as too many connections, comes from a server that is there.
        return "FATAL" in str(error)
