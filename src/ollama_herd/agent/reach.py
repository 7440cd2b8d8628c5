"""How the router gets to an engine of this machine: directly, or through the relay."""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

import psutil

from ollama_herd.core.node import Reach
from ollama_herd.engines.address import EngineAddress
from ollama_herd.engines.probe import resolve

CONNECT_TIMEOUT_S = 0.5
"""To an address of this machine; a firewall that drops packets is the only reason to wait."""


async def find_reach(address: EngineAddress, seen_as: str) -> Reach:
    """`seen_as` is the address of this machine that the router sees, "" when not known yet.

    The router connects to that address and to no other. So an engine that answers there is
    reached directly; every other one through the relay.
    """
    if not await is_this_machine(address.host):
        return Reach.REMOTE
    is_local_router = not seen_as or is_loopback(seen_as)
    if await connects(seen_as or "127.0.0.1", address.port):
        return Reach.LOOPBACK if is_local_router else Reach.LAN
    return Reach.REMOTE if is_local_router else Reach.LOOPBACK


async def is_this_machine(host: str) -> bool:
    """Whether a host name or address is this machine; False when it cannot be resolved."""
    addresses = await resolve(host)
    own = own_addresses()
    return any(is_loopback(address) or address in own for address in addresses)


async def connects(host: str, port: int) -> bool:
    """Whether a TCP connection is taken there."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


async def address_towards(router_url: str) -> str:
    """The address of this machine from which it talks to the router; "" without a route."""
    parts = urlsplit(router_url)
    for address in await resolve(parts.hostname or ""):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((address, parts.port or 80))  # UDP: chooses a route, sends nothing
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return ""


def own_addresses() -> frozenset[str]:
    """The IP addresses of this machine."""
    return frozenset(
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
