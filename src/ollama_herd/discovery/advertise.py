"""The router's side of discovery: it announces itself."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

import structlog
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from ollama_herd.discovery.networks import Interface, Presence, shown_addresses

SERVICE = "_ollama-herd._tcp.local."

_log = structlog.get_logger(__name__)


class Advertisement:
    """Announces a router from enter to exit; entering never fails and never waits.

    `interfaces` limits it to these local addresses (tests: 127.0.0.1). `router_id` makes the name
    unique; the agents' choice between several routers rests on it.
    """

    def __init__(
        self,
        *,
        name: str,
        port: int,
        version: str,
        router_id: str,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        short = name.partition(".")[0].encode()[:40].decode(errors="ignore")  # 63 bytes in DNS
        self._label = f"{short}-{router_id[:12]}"
        self._port = port
        self._properties = {"id": router_id, "version": version}
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
