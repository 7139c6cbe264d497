"""Which addresses an endpoint may have: asked at registration, and again by the worker that connects."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from pyreqwest.http import Url

from orchestrator.errors import ForbiddenAddress, InvalidRequest, Unavailable
from orchestrator.settings import settings

IPAddress = IPv4Address | IPv6Address

#: Names under which clouds serve credentials to their machines.
METADATA_HOSTS = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
#: Addresses of such services outside the link-local ranges: Alibaba, Oracle, Azure, AWS over IPv6.
METADATA_ADDRESSES = frozenset(
    ip_address(text) for text in ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254")
)
THIS_NETWORK = ip_network("0.0.0.0/8")
BROADCAST = ip_address("255.255.255.255")
#: IPv6 ranges whose last 32 bits are an IPv4 address that a gateway may call.
CARRIERS = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))


class Resolved(NamedTuple):
    """A URL in the spelling its client uses, its host and port, and the addresses it may connect to."""

    url: str
    host: str
    port: int
    addresses: tuple[str, ...]


def check_address(url: str) -> None:
    """Refuse an endpoint that workers must not call; a name that does not resolve yet passes.

    Raises:
        InvalidRequest: not an http or https URL with a host.
        ForbiddenAddress: the host is, or resolves to, a forbidden address.
    """
    try:
        resolve(url)
    except Unavailable:
        # The server may not be deployed yet, and its worker asks again before it connects.
        return


def resolve(url: str) -> Resolved:
    """Look up the host of `url` and check every address behind it, IPv4 first.

    A client has to connect to `addresses` and not to the name: the name may point elsewhere a moment later.

    Raises:
        InvalidRequest: not an http or https URL with a host.
        ForbiddenAddress: the host is, or resolves to, a forbidden address.
        Unavailable: the name does not resolve.
    """
    parsed = parse(url)
    host = (parsed.host_str or "").strip("[]")
    port = parsed.port_or_known_default or 80
    allowed = {name.lower().rstrip(".") for name in settings().endpoint_allow}
    name = host.lower().rstrip(".")
    if name in METADATA_HOSTS - allowed:
        raise refusal(url, name)
    addresses = look_up(host, port)
    for address in addresses:
        if is_forbidden(address) and not {name, str(address)} & allowed:
            raise refusal(url, str(address))
    return Resolved(str(parsed), host, port, tuple(map(str, addresses)))


def parse(url: str) -> Url:
    """Read `url` as the HTTP client will, so that the two cannot disagree about the host."""
    try:
        parsed = Url(url)
    except ValueError as error:
        raise InvalidRequest(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https"):
        raise InvalidRequest(f"an endpoint needs an http:// or https:// URL, not {parsed.scheme}://")
    if parsed.username or parsed.password:
        raise InvalidRequest("an endpoint's URL must not carry a user name or password")
    return parsed


def look_up(host: str, port: int) -> list[IPAddress]:
    """The addresses of `host`, IPv4 first: many servers listen on nothing else."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"the host {host!r} does not resolve: {error}") from error
    unique = dict.fromkeys(str(entry[4][0]) for entry in found)
    return sorted(map(ip_address, unique), key=lambda address: address.version)


def is_forbidden(address: IPAddress) -> bool:
    """Whether `address`, or an IPv4 address written inside it, is one that workers must not call."""
    return any(is_forbidden_itself(form) for form in (address, *carried(address)))


def is_forbidden_itself(address: IPAddress) -> bool:
    """Link-local, unspecified, multicast, broadcast, or a metadata service."""
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in METADATA_ADDRESSES
        or address in THIS_NETWORK
        or address == BROADCAST
    )


def carried(address: IPAddress) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if any(address in network for network in CARRIERS) and not address.is_loopback:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)


def refusal(url: str, what: str) -> ForbiddenAddress:
    """The error for `url`, with the way out for an operator who means it."""
    return ForbiddenAddress(
        f"the endpoint {url!r} leads to {what}, which workers must not call;"
        " an operator may list the host in ORCHESTRATOR_ENDPOINT_ALLOW",
        address=what,
    )
