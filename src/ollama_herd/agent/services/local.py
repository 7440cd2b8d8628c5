"""A service of the agent's own as an engine: OpenAI's API on loopback, reported like any engine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from ollama_herd.agent.background import start_in_thread
from ollama_herd.core.node import EngineKind, EngineReport, Model
from ollama_herd.engines.address import EngineAddress
from ollama_herd.tasks import cancel_and_wait, spawn

LOOK_EVERY_S = 30.0
"""Weights and commands come and go by hand."""

LOOPBACK = "127.0.0.1"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Skill(Protocol):
    """What a service can do: models on the disk, paths that use them."""

    engine_id: str
    routes: dict[str, Handler]

    def look(self) -> tuple[Model, ...]:
        """The models that can be used now; called in a thread."""

    @property
    def doing(self) -> str:
        """What it works on now, for people; never a word of a request."""

    @property
    def complaint(self) -> str:
        """What people should do about it, "" when all is well or nothing is installed."""

    async def close(self) -> None:
        """End whatever still runs."""


class LocalService:
    """One skill behind a server. `report` is None where nothing is installed."""

    def __init__(
        self, skill: Skill, say: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self.report: EngineReport | None = None
        self.address = EngineAddress(LOOPBACK, 0)
        self.skill = skill
        self._say = say
        self._changed = changed
        self._runner: web.AppRunner | None = None
        self.looked = asyncio.Event()

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                await self.look()
            except OSError as error:  # no port, no disk: engines are reported all the same
                self._say(f"{self.skill.engine_id} cannot be offered: {error}")
            self.looked.set()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """See what is there; open the server as soon as there is something."""
        models = await start_in_thread(self.skill.look, name=self.skill.engine_id)
        complaint = self.skill.complaint
        if not models and not complaint and self.report is None:
            return
        if models and self._runner is None:
            await self._open()
        report = EngineReport(
            engine_id=self.skill.engine_id,
            kind=EngineKind.OPENAI,
            port=self.address.port,
            version="herd-node",
            models=models,
            slots=1,
            error="" if models else complaint,
        )
        if report == self.report:
            return
        self.report = report
        self._say(_line(report))
        self._changed()

    async def _open(self) -> None:
        app = web.Application(middlewares=[_no_pages], client_max_size=64 * 2**20)
        app.router.add_get("/v1/models", self._models)
        for path, handler in self.skill.routes.items():
            app.router.add_post(path, handler)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, 0).start()
        self.address = EngineAddress(LOOPBACK, self._runner.addresses[0][1])

    async def _models(self, _request: web.Request) -> web.Response:
        models = self.report.models if self.report is not None else ()
        data = [{"id": m.name, "object": "model", "owned_by": "herd-node"} for m in models]
        return web.json_response({"object": "list", "data": data})

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        await self.skill.close()


class Services:
    """All services of this node."""

    def __init__(self, services: list[LocalService]) -> None:
        self._services = services
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [spawn(service.run(), name="local service") for service in self._services]

    async def first(self, within_s: float) -> None:
        """Wait until each has been looked at, but not longer than `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                for service in self._services:
                    await service.looked.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        await cancel_and_wait(*self.tasks)
        for service in self._services:
            await service.close()

    def reports(self) -> tuple[EngineReport, ...]:
        return tuple(s.report for s in self._services if s.report is not None)

    def doing(self) -> tuple[str, ...]:
        """What they work on now, a line each."""
        return tuple(line for s in self._services if (line := s.skill.doing))

    def find(self, wanted: str) -> EngineAddress | None:
        """The address of a service by its id."""
        for service in self._services:
            if service.report is not None and service.report.engine_id == wanted:
                return service.address
        return None


def refusal(status: int, message: str) -> web.Response:
    """An error as OpenAI says it."""
    kind = "invalid_request_error" if status < 500 else "api_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return web.json_response({"error": error}, status=status)


@web.middleware
async def _no_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No web page may use what listens on loopback: the herd sends no Origin."""
    if "Origin" in request.headers:
        return refusal(403, "this service is for the herd only")
    return await handler(request)


def _line(report: EngineReport) -> str:
    if report.error:
        return f"{report.engine_id}: {report.error}"
    return f"{report.engine_id}: {', '.join(model.name for model in report.models) or 'nothing'}"
