"""`/api/ps`: what is loaded now. The engines are asked, as clients look right after a load or an
unload, and reports are up to one heartbeat old; an engine that does not answer at once is shown
as it was last reported.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
from aiohttp import web

from ollama_herd.api import merge
from ollama_herd.api.listing import read_ps
from ollama_herd.clock import monotonic_s
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import LoadedModel
from ollama_herd.router.asking import ask
from ollama_herd.router.front import may_list
from ollama_herd.router.models.answers import ModelParts
from ollama_herd.router.models.targets import Target, all_targets
from ollama_herd.router.upstream import UpstreamFailed

PS_TIMEOUT_S = 0.5
"""Ollama answers in a millisecond; nobody waits longer for one that hangs."""

Loaded = Mapping[tuple[str, str], tuple[LoadedModel, ...]]
"""By node and engine."""


class Running:
    """The handler; one look at the engines at a time, shared by all who wait for it."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._loaded: Loaded = {}
        self._looked_s = float("-inf")
        self._looking = asyncio.Lock()

    async def ps(self, request: web.Request) -> web.Response:
        """GET /api/ps."""
        came_s = monotonic_s()
        async with self._looking:
            if self._looked_s < came_s:  # else another caller's look began after this one came
                began_s = monotonic_s()
                self._loaded = await self._look(all_targets(self._parts.registry.fleet))
                self._looked_s = began_s
        body = merge.ps(_with_loaded(self._parts.registry.fleet, self._loaded), may_list(request))
        headers = {"Content-Type": "application/json; charset=utf-8"}
        return web.Response(body=body, headers=headers)

    async def _look(self, targets: Iterable[Target]) -> Loaded:
        asked = list(targets)
        answers = await asyncio.gather(*(self._look_at(target) for target in asked))
        return {
            (target.node_id, target.engine_id): loaded
            for target, loaded in zip(asked, answers, strict=True)
            if loaded is not None
        }

    async def _look_at(self, target: Target) -> tuple[LoadedModel, ...] | None:
        try:
            answer = await ask(
                self._parts.upstream, target.address, b"GET", b"/api/ps", timeout_s=PS_TIMEOUT_S
            )
        except UpstreamFailed:
            return None
        return read_ps(answer.body) if answer.status == 200 else None


def _with_loaded(fleet: Fleet, loaded: Loaded) -> Fleet:
    """The fleet for one listing: with what its engines have just said."""
    nodes = {}
    for node_id, node in fleet.nodes.items():
        engines = tuple(
            msgspec.structs.replace(
                engine, loaded=loaded.get((node_id, engine.engine_id), engine.loaded)
            )
            for engine in node.engines
        )
        nodes[node_id] = msgspec.structs.replace(node, engines=engines)
    return msgspec.structs.replace(fleet, nodes=nodes)
