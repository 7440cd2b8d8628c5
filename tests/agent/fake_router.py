"""A router that takes reports, and can be away, refuse and ask for everything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from ollama_herd.core.node import NodeReport, ReportReply


class FakeRouter:
    """`reports` are those taken in since the start, `replies` what to answer next."""

    def __init__(self) -> None:
        self.reports: list[NodeReport] = []
        self.keys: list[str] = []
        self.replies: list[ReportReply | tuple[int, str]] = []
        self.usual: ReportReply | tuple[int, str] = ReportReply(interval_s=0.1)
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/fleet/heartbeat", self._heartbeat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _heartbeat(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        self.keys.append(request.headers["Authorization"])
        self.reports.append(msgspec.json.decode(await request.read(), type=NodeReport))
        reply = self.replies.pop(0) if self.replies else self.usual
        if isinstance(reply, tuple):
            return web.json_response({"error": reply[1]}, status=reply[0])
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


@asynccontextmanager
async def router_running() -> AsyncIterator[FakeRouter]:
    router = FakeRouter()
    await router.start()
    try:
        yield router
    finally:
        await router.stop()
