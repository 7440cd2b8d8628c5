"""Pull, push and create: long work on one node or several, told as one progress stream."""

import asyncio

import structlog
from aiohttp import web

from ollama_herd.api.model_bodies import ModelBody
from ollama_herd.router.asking import node_header
from ollama_herd.router.front import CORS
from ollama_herd.router.models.answers import ModelParts, passed_on, read_call, wanted_node
from ollama_herd.router.models.blobs import Blobs
from ollama_herd.router.models.fanout import Call, FanOut
from ollama_herd.router.models.relist import relist
from ollama_herd.router.models.targets import (
    Target,
    any_targets,
    holders,
    is_usable,
    named_targets,
    names_of,
    new_home,
)
from ollama_herd.router.reply import answer
from ollama_herd.router.slow import BufferedReply, request_head

_log = structlog.get_logger(__name__)

NDJSON = (b"Content-Type", b"application/x-ndjson")


class Transfers:
    """The handlers; `blobs` knows where uploaded files are."""

    def __init__(self, parts: ModelParts, blobs: Blobs) -> None:
        self._parts = parts
        self._blobs = blobs

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """POST /api/pull. The call is the confirmation: nothing else ever downloads a model.

        Nodes that have the model already are brought up to date; a new one gets one home.
        """
        parsed = await read_call(self._parts, request)
        fleet = self._parts.registry.fleet
        wanted = wanted_node(request, parsed)
        if wanted:
            targets = named_targets(fleet, wanted)
        else:
            targets = holders(fleet, parsed.model) or new_home(fleet, parsed.model)
        return await self._carry_out(request, parsed, targets)

    async def push(self, request: web.Request) -> web.StreamResponse:
        """POST /api/push. From one node that has the model: its key signs. When there is none,
        any Ollama says so in its own words.
        """
        parsed = await read_call(self._parts, request)
        fleet = self._parts.registry.fleet
        wanted = wanted_node(request, parsed)
        if wanted:
            targets = named_targets(fleet, wanted)
        else:
            targets = holders(fleet, parsed.model, served_only=True) or any_targets(fleet)
        return await self._carry_out(request, parsed, targets[:1])

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /api/create. Of uploaded files where they are; from a model wherever it is."""
        parsed = await read_call(self._parts, request)
        targets = await self._places_to_create(request, parsed)
        return await self._carry_out(request, parsed, targets)

    async def _places_to_create(self, request: web.Request, parsed: ModelBody) -> list[Target]:
        fleet = self._parts.registry.fleet
        wanted = wanted_node(request, parsed)
        if wanted:
            return named_targets(fleet, wanted)
        having = holders(fleet, parsed.source, served_only=True) if parsed.source else []
        if parsed.digests:
            return [await self._blobs.place_with(request, parsed.digests, having)]
        if having:
            return having
        if parsed.source:
            return new_home(fleet, parsed.source)  # Ollama pulls what it builds on
        return any_targets(fleet)[:1]

    async def _carry_out(
        self, request: web.Request, parsed: ModelBody, targets: list[Target]
    ) -> web.StreamResponse:
        head = request_head(request)
        work = FanOut(
            self._parts.upstream,
            targets,
            Call(request.path.encode(), head.headers, parsed.body),
            lambda target: is_usable(self._parts.registry.fleet, target),
        )
        _log.info("model call begins", call=request.path, model=parsed.model, nodes=work.names())
        if parsed.stream:
            return await self._streamed(request, work)
        await work.run(lambda _line: None)
        await self._ended(request, work)
        return passed_on(work.answer(), work.names())

    async def _streamed(self, request: web.Request, work: FanOut) -> web.StreamResponse:
        cors = request.get(CORS, ())
        headers = [NDJSON, node_header(work.names()), *cors]
        reply = BufferedReply(request)

        def take(lines: bytes) -> None:
            if not reply.started:
                reply.start(200, headers, None)
            reply.write(lines)

        pump = asyncio.ensure_future(reply.pump())
        try:
            reply.draw_from(work)
            await work.run(take)
            reply.draw_from(None)
            await self._ended(request, work)
            if reply.started or work.succeeded():
                take(work.last_line())
                reply.finish()
            else:
                whole = work.answer()
                more = [(n, v) for n, v in whole.headers if n.lower() != b"content-type"]
                content_type = whole.content_type or b"application/json"
                names = node_header(work.names())
                answer(reply, whole.status, content_type, whole.body, [*more, names, *cors])
            return await pump
        finally:
            pump.cancel()

    async def _ended(self, request: web.Request, work: FanOut) -> None:
        """The lists are right before the caller hears of success."""
        done = work.succeeded()
        if request.path != "/api/push":
            await relist(self._parts, done)
        _log.info("model call ended", call=request.path, done_on=names_of(done))
