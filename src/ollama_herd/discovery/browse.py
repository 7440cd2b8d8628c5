"""The agent's side of discovery: it finds routers and follows the one it has chosen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

import structlog
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from ollama_herd import tasks
from ollama_herd.discovery.advertise import SERVICE
from ollama_herd.discovery.networks import Interface, Presence, best_address

_RESOLVE_MS = 3000
"""The time zeroconf itself takes by default to ask for a service's address."""

_FLUSH_S = 2.0
"""Old addresses stay valid for a second after new ones came (RFC 6762, 10.2)."""

_log = structlog.get_logger(__name__)


class _Found(NamedTuple):
    """A router that was heard of; `failures` counts how often it was given up."""

    url: str
    router_id: str
    failures: int = 0


class RouterBrowser:
    """Finds routers from enter to exit; entering never fails and never waits.

    It keeps to the router it has chosen while that is there; else the one with the smallest id,
    so that all nodes of a network choose the same.
    """

    def __init__(
        self, *, interfaces: Sequence[str] | None = None, is_tls_only: bool = False
    ) -> None:
        self._is_tls_only = is_tls_only
        self._found: dict[str, _Found] = {}
        self._url = ""
        self._fresh = asyncio.Event()
        self._only = interfaces
        self._resolving: set[asyncio.Task[None]] = set()
        without = "Start herd-node with --router http://ROUTER:11435 instead"
        self._presence = Presence(self._listening, interfaces, without)

    @property
    def url(self) -> str:
        """Where the chosen router is, "" while there is none."""
        return self._url

    @property
    def urls(self) -> tuple[str, ...]:
        """All routers heard of, best first."""
        return tuple(item.url for item in sorted(self._found.values(), key=_preference))

    async def next(self) -> str:
        """Wait for a choice not returned yet, and return its URL.

        There is one when the first router is found, when the chosen one has another address, when
        it has gone and another is there, and after `give_up`.
        """
        while not (self._fresh.is_set() and self._url):
            self._fresh.clear()
            await self._fresh.wait()
        self._fresh.clear()
        return self._url

    def give_up(self, url: str) -> None:
        """The router at `url` does not answer: choose the next, or the same again if alone."""
        for name, item in self._found.items():
            if item.url == url:
                self._found[name] = item._replace(failures=item.failures + 1)
        if url == self._url:
            self._choose(None)

    async def __aenter__(self) -> Self:
        self._presence.enter()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._presence.leave()

    @asynccontextmanager
    async def _listening(
        self, zeroconf: AsyncZeroconf, own: Sequence[Interface]
    ) -> AsyncIterator[None]:
        def heard(
            zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
        ) -> None:
            if state_change is ServiceStateChange.Removed:
                self._forget(name)
                return
            work = self._resolve(zeroconf, service_type, name, own)
            task = tasks.spawn(work, name=f"resolve {name}")
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)

        browser = AsyncServiceBrowser(zeroconf.zeroconf, [SERVICE], handlers=[heard])
        try:
            yield
        finally:
            await browser.async_cancel()
            await tasks.cancel_and_wait(*self._resolving)

    async def _resolve(
        self, zeroconf: Zeroconf, service_type: str, name: str, own: Sequence[Interface]
    ) -> None:
        """Ask for the address now, and again when outdated ones have left the cache."""
        for delay_s in (0.0, _FLUSH_S):
            await asyncio.sleep(delay_s)
            info = AsyncServiceInfo(service_type, name)
            if not await info.async_request(zeroconf, _RESOLVE_MS):
                continue
            address = best_address(info.parsed_addresses(IPVersion.V4Only), own)
            if address:
                router_id = (info.decoded_properties.get("id") or "")[:64]
                scheme = "https" if info.decoded_properties.get("tls") == "1" else "http"
                if self._is_tls_only and scheme == "http":
                    _log.warning("a router without TLS is not used", address=address)
                    continue
                self._learn(name, _Found(f"{scheme}://{address}:{info.port}", router_id))

    def _learn(self, name: str, item: _Found) -> None:
        before = self._found.get(name)
        if before is not None and before.url == item.url:
            return
        self._found[name] = item
        if before is not None and before.url == self._url:
            self._choose(item)
        elif not self._url:
            self._choose(None)

    def _forget(self, name: str) -> None:
        gone = self._found.pop(name, None)
        if gone is not None and gone.url == self._url:
            self._choose(None)

    def _choose(self, item: _Found | None) -> None:
        item = item or min(self._found.values(), key=_preference, default=None)
        self._url = item.url if item else ""
        if not item:
            _log.warning("the router has left the network")
            return
        if len(self._found) > 1:
            _log.info("several routers found; --router chooses", routers=" ".join(self.urls))
        self._fresh.set()


def _preference(item: _Found) -> tuple[int, str, str]:
    return (item.failures, item.router_id, item.url)
