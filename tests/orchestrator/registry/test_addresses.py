"""Which endpoints may be called, however their address is written."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from orchestrator.errors import ForbiddenAddress, InvalidRequest, Unavailable
from orchestrator.registry.addresses import check_address, resolve
from orchestrator.settings import settings


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to, for those that are listed here."""
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        found: list[Any] = []
        for address in table.get(host, [host]):
            found += real(address, port, *args, **options)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.1.1",
        "2852039166",  # decimal
        "0xA9FEA9FE",  # hexadecimal
        "0251.0376.0251.0376",  # octal
        "0xa9.254.0251.254",
        "169.254.43518",
        "①⑥⑨.254.169.254",
        "%31%36%39.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::]",
        "[ff02::1]",
        "0.0.0.0",
        "0",
        "224.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
    ],
)
def test_a_forbidden_address_is_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        check_address(f"http://{host}:8080/")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "10.1.2.3", "192.168.0.9", "172.16.0.1", "[fd12::1]", "8.8.8.8"]
)
def test_loopback_private_and_public_addresses_are_allowed(host: str) -> None:
    check_address(f"http://{host}:8080/")


@pytest.mark.parametrize("url", ["", "model", "ftp://10.0.0.1", "file:///etc/passwd", "http://", "http://u:p@10.0.0.1"])
def test_only_plain_http_urls_are_endpoints(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_address(url)


def test_a_name_that_leads_to_a_forbidden_address_is_refused(names: dict[str, list[str]]) -> None:
    names["innocent.example"] = ["10.0.0.1", "169.254.169.254"]
    with pytest.raises(ForbiddenAddress, match=r"leads to 169\.254\.169\.254"):
        check_address("https://innocent.example/models")


def test_ipv4_comes_first_and_the_url_is_in_the_spelling_of_the_client(names: dict[str, list[str]]) -> None:
    names["both.example"] = ["::1", "127.0.0.1"]
    resolved = resolve("HTTP://Both.Example:8080/base")
    assert resolved.addresses == ("127.0.0.1", "::1")
    assert (resolved.url, resolved.host, resolved.port) == ("http://both.example:8080/base", "both.example", 8080)


def test_a_name_that_does_not_resolve_may_be_registered_but_not_called() -> None:
    check_address("http://nobody.invalid")
    with pytest.raises(Unavailable, match="does not resolve"):
        resolve("http://nobody.invalid")


def test_an_operator_may_allow_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_ENDPOINT_ALLOW", '["169.254.7.7"]')
    settings.cache_clear()
    try:
        check_address("http://169.254.7.7")
        with pytest.raises(ForbiddenAddress):
            check_address("http://169.254.169.254")
    finally:
        settings.cache_clear()
