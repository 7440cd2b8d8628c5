"""The networks of this machine, and being present on them by multicast DNS as they change.

IPv4 only: every network where machines find each other by multicast today has it.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager

import psutil
import structlog
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, IPVersion
from zeroconf.asyncio import AsyncZeroconf

from ollama_herd import tasks

_CHECK_S = 5.0
"""How often the machine's addresses are looked at; a laptop that wakes up is back this soon."""

_LEAVE_S = 2.0
"""Time for the goodbye; zeroconf sends it three times within 0.25 s."""

_log = structlog.get_logger(__name__)

Interface = ipaddress.IPv4Interface
Visit = Callable[[AsyncZeroconf, Sequence[Interface]], AbstractAsyncContextManager[None]]
"""What to do on these networks, from enter to exit."""


def own_interfaces(only: Sequence[str] | None = None) -> tuple[Interface, ...]:
    """IPv4 addresses of the interfaces that are up, with their masks, or those of `only`."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = (
        Interface(f"{entry.address}/{entry.netmask or 32}")
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries
        if entry.family == socket.AF_INET
    )
    return tuple(sorted({item for item in found if only is None or str(item.ip) in only}))


def shown_addresses(interfaces: Iterable[Interface]) -> tuple[str, ...]:
    """Addresses to tell others. Loopback only when there is nothing else: it means the hearer."""
    others = [item.ip for item in interfaces if not item.ip.is_loopback]
    others.sort(key=lambda address: (address.is_link_local, address))
    loopback = [item.ip for item in interfaces if item.ip.is_loopback]
    return tuple(str(address) for address in others or loopback)


def best_address(announced: Sequence[str], own: Sequence[Interface]) -> str:
    """The address of a router that is most likely to be reached from a machine with `own`.

    An address that is also ours is the wrong machine (each Docker host has 172.17.0.1), unless all
    of them are: then the router runs here. Next, one on a network of ours. "" for no address.
    """
    ours = {str(item.ip) for item in own}
    candidates = [address for address in announced if address not in ours] or list(announced)

    def rank(address: str) -> tuple[bool, bool]:
        ip = ipaddress.IPv4Address(address)
        return (not any(ip in item.network for item in own), ip.is_link_local)

    return min(candidates, key=rank, default="")


class Presence:
    """Keeps `visit` open on the networks of this machine until left."""

    def __init__(self, visit: Visit, interfaces: Sequence[str] | None, without: str) -> None:
        self._visit = visit
        self._only = interfaces
        self._without = without  # what to do while there is no mDNS
        self._left = asyncio.Event()
        self._told = ""
        self._task: asyncio.Task[None] | None = None

    def enter(self) -> None:
        self._task = tasks.spawn(self._stay(), name="mdns")

    async def leave(self) -> None:
        """Say goodbye on the network, but not for longer than _LEAVE_S."""
        self._left.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_LEAVE_S)
            await tasks.cancel_and_wait(self._task)

    async def _stay(self) -> None:
        while not self._left.is_set():
            own = own_interfaces(self._only)
            try:
                if not own:
                    raise OSError("no network")
                zeroconf = _open(own)
            except OSError as error:
                self._tell(error.strerror or str(error))
                await self._wait()
                continue
            try:
                async with self._visit(zeroconf, own):
                    self._tell("")
                    await self._while_same(own)
            except (OSError, ZeroconfError, TimeoutError) as error:
                self._tell(str(error) or type(error).__name__)
                await self._wait()
            finally:
                await zeroconf.async_close()

    async def _while_same(self, own: Sequence[Interface]) -> None:
        while not self._left.is_set() and own_interfaces(self._only) == own:
            await self._wait()

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._left.wait(), _CHECK_S)
        except TimeoutError:
            return

    def _tell(self, problem: str) -> None:
        """Log on change only; "" is well."""
        if problem and problem != self._told:
            _log.warning(f"mDNS does not work: {problem}; trying again. {self._without}")
        elif self._told and not problem:
            _log.info("mDNS works again")
        self._told = problem


def _open(own: Sequence[Interface]) -> AsyncZeroconf:
    try:
        return AsyncZeroconf([str(item.ip) for item in own], ip_version=IPVersion.V4Only)
    except OSError:
        # One interface (a VPN, the 21st bridge) that takes no multicast must not spoil the others.
        if len(own) == 1:
            raise
        return AsyncZeroconf(InterfaceChoice.Default, ip_version=IPVersion.V4Only)
