"""The proxy does to a connection what it says, and nothing else: without that, no test through it means anything."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import CHUNK, Direction, Proxy
from tests.support.processes import free_port, wait_until

#: Seconds after which a test believes that nothing more will come.
SILENCE = 0.3


class Echo(socketserver.BaseRequestHandler):
    """Says everything again, and notes what it heard and how each connection ended."""

    heard: bytearray
    ends: list[str]

    def handle(self) -> None:
        try:
            while chunk := self.request.recv(CHUNK):
                self.heard.extend(chunk)
                self.request.sendall(chunk)
            self.ends.append("closed")
        except ConnectionResetError:
            self.ends.append("reset")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error of the server's."""


@pytest.fixture
def echo() -> type[Echo]:
    """A server, and what it remembers."""
    return type("Memory", (Echo,), {"heard": bytearray(), "ends": []})


@pytest.fixture
def proxy(echo: type[Echo]) -> Iterator[Proxy]:
    with Server(("127.0.0.1", 0), echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        with Proxy(server.server_address[1]) as between:
            yield between
        server.shutdown()
        thread.join(5)


def connected(proxy: Proxy) -> socket.socket:
    """A client that has had an answer through the proxy."""
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    client.sendall(b"hello")
    assert client.recv(5) == b"hello"
    return client


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def test_bytes_pass_both_ways_and_so_does_the_end(proxy: Proxy, echo: type[Echo]) -> None:
    with connected(proxy) as client:
        sent = bytes(range(256)) * 4096
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        received = bytearray()
        while len(received) < len(sent):
            received += client.recv(CHUNK)
        assert bytes(received) == sent
        assert (proxy.accepted, proxy.open) == (1, 1)
    wait_until(lambda: echo.ends, "the server's side has ended")
    wait_until(lambda: proxy.open == 0, "the proxy has forgotten the connection")


def test_a_reset_is_seen_on_both_sides_and_the_next_connection_is_served(proxy: Proxy, echo: type[Echo]) -> None:
    with connected(proxy) as client:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    wait_until(lambda: echo.ends == ["reset"], "the server was told")
    connected(proxy).close()


@pytest.mark.parametrize("direction", [Direction.BOTH, Direction.TO_SERVER, Direction.TO_CLIENT])
def test_a_black_hole_takes_connections_and_bytes_and_gives_them_back_when_it_heals(
    proxy: Proxy, echo: type[Echo], direction: Direction
) -> None:
    with connected(proxy) as client:
        echo.heard.clear()
        proxy.black_hole(direction)
        client.sendall(b"lost?")
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as late:
            late.sendall(b"late?")
            assert is_silent(client)
            assert is_silent(late)
            assert bytes(echo.heard) == b"" or direction == Direction.TO_CLIENT
            proxy.heal()
            assert client.recv(5) == b"lost?"
            assert late.recv(5) == b"late?"


def test_latency_delays_each_way(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.slow(0.1)
        begun = time.monotonic()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert time.monotonic() - begun >= 0.2
        proxy.heal()
        client.sendall(b"y")
        assert client.recv(1) == b"y"


def test_a_half_open_connection_swallows_everything_and_never_recovers_but_new_ones_are_served(
    proxy: Proxy, echo: type[Echo]
) -> None:
    with connected(proxy) as client:
        proxy.half_open()
        wait_until(lambda: echo.ends == ["reset"], "the server's side has gone")
        client.sendall(b"anybody there?")
        assert is_silent(client)
        proxy.heal()
        client.sendall(b"still there?")
        assert is_silent(client)
        connected(proxy).close()


def test_nothing_listens_while_the_proxy_refuses(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    proxy.heal()
    connected(proxy).close()


def test_a_server_that_is_away_ends_the_connection() -> None:
    with Proxy(free_port()) as proxy:
        # As soon as the proxy knows: perhaps within the connection's own handshake.
        with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
            client.recv(1)
        wait_until(lambda: proxy.open == 0, "the connection is forgotten")


def test_the_proxy_takes_the_place_of_host_and_port_in_a_url() -> None:
    with Proxy(1) as proxy:
        here = f"127.0.0.1:{proxy.port}"
        assert proxy.url("redis://127.0.0.1:6379/3") == f"redis://{here}/3"
        assert proxy.url("amqp://guest:p%40ss@localhost:5672/vhost") == f"amqp://guest:p%40ss@{here}/vhost"
        assert proxy.url("postgresql+psycopg://u:p@db:5432/name?x=1") == f"postgresql+psycopg://u:p@{here}/name?x=1"
