"""The router's side of discovery: it announces itself."""

import hashlib
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

import structlog
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from ollama_herd import __version__
from ollama_herd.discovery.networks import Interface, Presence, shown_addresses

SERVICE = "_ollama-herd._tcp.local."

_log = structlog.get_logger(__name__)


class Advertisement:
    """Announces a router from enter to exit; entering never fails and never waits.

    `router_id` makes the name unique, and the agents' choice between several routers rests on it;
    without one it comes from this machine and the port, so that it outlives a restart.
    `interfaces` limits all to these local addresses (tests: 127.0.0.1).
    """

    def __init__(
        self,
        *,
        port: int,
        name: str = "",
        version: str = __version__,
        router_id: str = "",
        interfaces: Sequence[str] | None = None,
        is_tls: bool = False,
    ) -> None:
        name = (name or socket.gethostname()).partition(".")[0]
        router_id = router_id or _id_of_machine(port)
        short = name.encode()[:40].decode(errors="ignore")  # a label in DNS has 63 bytes
        self._label = f"{short}-{router_id[:12]}"
        self._port = port
        self._properties = {"id": router_id, "version": version}
        if is_tls:
            self._properties["tls"] = "1"
        self._server = f"ollama-herd-{router_id[:12]}.local."
        without = f"Nodes need herd-node --router http://THIS-MACHINE:{port}"
        self._presence = Presence(self._announced, interfaces, without)

    async def __aenter__(self) -> Self:
        self._presence.enter()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._presence.leave()

    @asynccontextmanager
    async def _announced(
        self, zeroconf: AsyncZeroconf, own: Sequence[Interface]
    ) -> AsyncIterator[None]:
        addresses = shown_addresses(own)
        info = AsyncServiceInfo(
            SERVICE,
            f"{self._label}.{SERVICE}",
            port=self._port,
            properties=self._properties,
            server=self._server,
            parsed_addresses=list(addresses),
        )
        await (await zeroconf.async_register_service(info, allow_name_change=True))
        _log.info("announced by mDNS", addresses=" ".join(addresses), port=self._port)
        try:
            yield
        finally:
            await zeroconf.async_unregister_all_services()


def _id_of_machine(port: int) -> str:
    """A hash, so that the machine's hardware address is not told to the network."""
    return hashlib.blake2s(f"{uuid.getnode()}:{port}".encode(), digest_size=8).hexdigest()
