"""The Celery app, its queues and its settings, and how a unit's id is published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Protocol

from amqp.exceptions import ChannelError, MessageNacked
from celery import Celery
from celery.app.amqp import AMQP
from celery.exceptions import QueueNotFound
from kombu import Connection, Exchange, Queue
from kombu.exceptions import LimitExceeded, OperationalError

from orchestrator.errors import Unavailable
from orchestrator.settings import Settings, settings


class QueueName(StrEnum):
    """The queues; a worker serves one or several of them."""

    SUBMISSIONS = "submissions"  #: jobs that Celery producers submit
    TICKS = "ticks"  #: beat's dispatch and reconcile
    PLANNING = "planning"  #: cutting jobs into units, and finishing them
    INFERENCE = "inference"  #: calling model servers
    EXPORTS = "exports"  #: writing archives
    RETENTION = "retention"  #: sweeping what is too old
    TRAINING = "training"  #: advancing training runs


#: Dispatch counts the units that wait here; the other two queues carry no units.
UNIT_QUEUES = (
    QueueName.PLANNING,
    QueueName.INFERENCE,
    QueueName.EXPORTS,
    QueueName.RETENTION,
    QueueName.TRAINING,
)

#: Seconds after which publishing over one connection gives up.
PATIENCE = 4

#: Seconds between two attempts to reach a broker that is away, at most.
RECONNECT = 1.5

#: Seconds between two signs of life on a worker's connection to RabbitMQ; after two that are lacking it is given up.
HEARTBEAT = 3

#: The Redis transport gives an unacknowledged message to another worker after this many seconds.
VISIBILITY_TIMEOUT = 1200


class Publishable(Protocol):
    """What dispatch tells the broker of a unit; only `id` is needed to run it."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def label(self) -> str: ...


class Publisher(Protocol):
    """Sends one message for each unit, and knows how many messages wait."""

    def publish(self, units: Iterable[Publishable]) -> None: ...

    def depth(self, queue: str) -> int: ...


def celery_settings(config: Settings) -> dict[str, Any]:
    """Celery's settings; `docs/operations.md` says why each is what it is."""
    return {
        "broker_url": config.broker_url.get_secret_value(),
        "task_queues": [_queue(name, config) for name in QueueName],
        "task_default_queue": QueueName.PLANNING.value,
        # The queues' own would be replaced by this one, which otherwise bears the default queue's name.
        "task_default_exchange": "",
        "task_create_missing_queues": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": False,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_track_started": True,
        "task_send_sent_event": False,
        "task_repr_maxlevels": 1,
        "task_time_limit": 600,
        "task_soft_time_limit": 540,
        "worker_send_task_events": True,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": False,
        "worker_eta_task_limit": 100,
        "worker_soft_shutdown_timeout": 30,
        "worker_enable_soft_shutdown_on_idle": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_pool_start_method": "spawn",
        "worker_proc_alive_timeout": 60,
        "worker_max_tasks_per_child": 200,
        "worker_max_memory_per_child": 1_500_000,
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_pool_acquire_timeout": 10,
        "broker_heartbeat": HEARTBEAT,
        "broker_transport_options": _transport_options(config),
        "beat_enable_remote_control": True,
        "beat_cron_starting_deadline": 600,
        "timezone": "UTC",
        "enable_utc": True,
    }


def _transport_options(config: Settings) -> dict[str, Any]:
    if config.broker_url.get_secret_value().startswith("redis"):
        return {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            # A worker finds two connections half-open after a health check's interval and two timeouts.
            "socket_timeout": 3,
            "socket_connect_timeout": 5,
            "health_check_interval": 3,
            "socket_keepalive": True,
            "unacked_restore_throttle": 1,
        }
    # An answer is waited for so long: a publisher's confirmation, or a worker's event, which holds up its event loop.
    return {"confirm_publish": True, "read_timeout": 6, "write_timeout": 6}


def _queue(name: QueueName, config: Settings) -> Queue:
    # The default exchange needs no binding, so a wiped broker routes again as soon as it is back.
    # Strangers declare the queue that they submit to, with Celery's defaults; RabbitMQ refuses two
    # declarations that differ.
    if config.broker_url.get_secret_value().startswith("redis") or name is QueueName.SUBMISSIONS:
        return Queue(name.value, exchange=Exchange(""), routing_key=name.value)
    quorum = {"x-queue-type": "quorum", "x-delivery-limit": 20}
    return Queue(name.value, exchange=Exchange(""), routing_key=name.value, queue_arguments=quorum)


class PromptConnection(Connection):
    """Looks for a broker that is away at an even pace.

    kombu's own looks ever less often, down to twice a minute, and so finds a broker late that was away for long.
    """

    def _ensure_connection(  # type: ignore[override]  # the options that are not of interest are passed on
        self,
        errback: Any = None,
        max_retries: int | None = None,
        interval_start: float = RECONNECT,
        interval_step: float = 0,
        interval_max: float = RECONNECT,
        **options: Any,
    ) -> Any:
        start, longest = min(interval_start, RECONNECT), min(interval_max, RECONNECT)
        return super()._ensure_connection(  # type: ignore[no-untyped-call]  # kombu is typed in part
            errback, max_retries, start, interval_step, longest, **options
        )


class PromptAmqp(AMQP):  # type: ignore[misc]  # Celery ships no types
    """Gives workers and beat their connections."""

    Connection = PromptConnection


app = Celery("orchestrator", amqp=PromptAmqp)


@app.on_configure.connect
def _configure(sender: Celery, **_: Any) -> None:
    sender.conf.update(celery_settings(settings()))


class CeleryPublisher:
    """Publishes to the configured broker, and gives up at once when it is away.

    The caller still has the rows: what is not published now is published by a later dispatch.
    """

    def publish(self, units: Iterable[Publishable]) -> None:
        """Send one message for each unit.

        Raises:
            Unavailable: the broker does not answer.
        """
        notes = list(units)
        with _says_when_the_broker_is_away(), app.pool.acquire(block=True, timeout=PATIENCE) as connection:
            was_connected = connection.connected
            try:
                self._send(notes, connection)
            except _away() as error:
                if isinstance(error, QueueNotFound) or not was_connected:
                    raise
                # It may have fallen silent long ago, or a queue may be gone; what is sent twice does no harm.
                self._send(notes, connection)

    def _send(self, units: Iterable[Publishable], connection: Connection) -> None:
        _connect(connection)
        try:
            producer = app.amqp.Producer(connection, auto_declare=False)
            for unit in units:
                app.send_task(
                    unit.kind,
                    args=[unit.id],
                    argsrepr=unit.label,
                    kwargsrepr="",
                    queue=unit.queue,
                    producer=producer,
                    retry=False,
                    confirm_timeout=PATIENCE,
                    # What reaches no queue comes back as an error: a connection declares a queue once, also if
                    # somebody deletes it afterwards.
                    mandatory=True,
                )
        except BaseException:
            # Or else the pool would close it politely, and wait for a goodbye from whoever fell silent.
            connection.collect()
            raise

    def depth(self, queue: str) -> int:
        """How many messages wait in `queue`, not counting those that a worker holds.

        Raises:
            Unavailable: the broker does not answer.
        """
        wanted = app.amqp.queues[queue]
        with _says_when_the_broker_is_away(), app.connection_for_read() as connection:
            _connect(connection)
            try:
                declared = wanted(connection.default_channel).queue_declare(passive=True)
            except ChannelError as error:
                if str(error.reply_code) != "404":
                    raise
                return 0  # Redis has no empty lists, and a wiped broker has no queues
            return int(declared.message_count)


def _connect(connection: Connection) -> None:
    """Connect if need be, or fail at once: whoever publishes may be a person who waits."""
    connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=PATIENCE)


def _away() -> tuple[type[BaseException], ...]:
    """What it means that the broker does not answer."""
    transport = app.connection_for_write()
    errors = *transport.connection_errors, *transport.channel_errors
    return (*errors, MessageNacked, OperationalError, LimitExceeded, OSError)


@contextmanager
def _says_when_the_broker_is_away() -> Iterator[None]:
    away = _away()
    try:
        yield
    except QueueNotFound:
        raise  # a mistake of ours, although the Redis transport counts any KeyError as a lost connection
    except away as error:
        raise Unavailable(f"The broker does not answer: {error}") from error
