"""The door, the same on both planes: which clients, host names and origins may come in."""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from ollama_herd.api.errors import (
    FOREIGN_ORIGIN,
    TWO_HOSTS,
    ApiError,
    foreign_client,
    unknown_host,
)
from ollama_herd.api.origin import answer_headers, is_allowed, is_known_host, is_own_page
from ollama_herd.router.reply import Headers

REMEMBERED = 4096
"""Verdicts kept of addresses and of host names: hardly any fleet has more clients."""

PRIVATE_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",  # behind a carrier's NAT, and every Tailscale network
            "::1/128",
            "fe80::/10",
            "fc00::/7",
        ),
    )
)
"""What no public network routes to us (RFC 1918, 3927, 4193, 4291, 6598)."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_T = TypeVar("_T", bytes, str)


class Gate:
    """Called with (lower-case) request headers and the client's address: the headers that the
    answer has to carry, or why there is none. Verdicts are remembered by value.
    """

    __slots__ = ("_clients", "_hosts", "_is_known", "_is_near", "_origins")

    def __init__(
        self,
        *,
        clients: Sequence[str] = ("private",),
        hosts: Iterable[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        """`clients` as in the setting `allowed_clients`; `hosts` and `origins` beside the usual."""
        names = frozenset(hosts)
        networks = networks_of(clients)
        self._origins = tuple(origins)
        self._hosts: dict[bytes, bool] = {}
        self._clients: dict[str, bool] = {}
        self._is_known = lambda host: is_known_host(host.decode("latin-1"), names)
        self._is_near = lambda address: networks is None or is_within(address, networks)

    def __call__(self, headers: Headers, client: str) -> Headers | ApiError:
        host = origin = b""
        for name, value in headers:
            if name == b"host":
                if host:
                    return TWO_HOSTS
                host = value
            elif name == b"origin":
                origin = value
        if not _remembered(self._clients, client, self._is_near):
            return foreign_client(client)
        if not _remembered(self._hosts, host, self._is_known):
            return unknown_host(host.decode("latin-1"))
        if not origin:
            return ()
        asking = origin.decode("latin-1")
        if not is_allowed(asking, host.decode("latin-1"), self._origins):
            return FOREIGN_ORIGIN
        return answer_headers(asking)

    def is_own_page(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may ask for what is the herd's alone."""
        return is_own_page(origin, host, self._origins)


def _remembered(known: dict[_T, bool], value: _T, judge: Callable[[_T], bool]) -> bool:
    verdict = known.get(value)
    if verdict is None:
        if len(known) >= REMEMBERED:
            known.clear()
        verdict = known[value] = judge(value)
    return verdict


def networks_of(words: Sequence[str]) -> tuple[Network, ...] | None:
    """The networks that the setting `allowed_clients` names; None for any."""
    if "any" in words:
        return None
    private = PRIVATE_NETWORKS if "private" in words else ()
    named = (ipaddress.ip_network(word, strict=False) for word in words if word != "private")
    return (*private, *named)


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Whether `address` (with its zone, if any) is of one of the networks."""
    try:
        ip = ipaddress.ip_address(plain_address(address.partition("%")[0]))
    except ValueError:
        return False
    return any(ip in network for network in networks)


def plain_address(address: str) -> str:
    """An IPv4 address as such, though a socket for both kinds writes it as one of IPv6."""
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


def own_host_names(resolv_conf: Path = Path("/etc/resolv.conf")) -> frozenset[str]:
    """What this machine is called, here and in the domains it looks names up in. Asks nobody."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    try:
        lines = resolv_conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    domains = [
        domain.strip(".").lower()
        for line in lines
        if line.startswith(("search", "domain"))
        for domain in line.split()[1:]
    ]
    return frozenset({name, short, *(f"{short}.{domain}" for domain in domains if domain)})


def is_loopback(address: str) -> bool:
    """Whether a peer is a process of this machine."""
    return is_within(address, _LOOPBACK)


_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
