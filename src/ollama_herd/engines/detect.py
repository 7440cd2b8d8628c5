"""Finds out which kind of engine answers at an address."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ollama_herd.core.node import EngineKind
from ollama_herd.engines.ollama import OllamaProbe
from ollama_herd.engines.openai import OpenAiProbe, refuse_if_locked
from ollama_herd.engines.probe import EngineFailure, EngineHttp, EngineProbe, expect


class HerdRouterFound(EngineFailure):
    """What answers there is a router of a herd: using it as an engine would be a loop."""


class _OllamaVersion(msgspec.Struct):
    version: str


_PROBES: Mapping[EngineKind, type[OllamaProbe] | type[OpenAiProbe]] = MappingProxyType(
    {EngineKind.OLLAMA: OllamaProbe, EngineKind.OPENAI: OpenAiProbe}
)


async def probe_of(http: EngineHttp, before: EngineProbe | None = None) -> EngineProbe:
    """A probe for what answers there: `before` where that is still of its kind, else a new one,
    `before` being closed. Raises EngineFailure.
    """
    kind = await detect(http)
    if before is not None and before.kind is kind:
        return before
    if before is not None:
        await before.close()
    return _PROBES[kind](http)


async def detect(http: EngineHttp) -> EngineKind:
    """Which kind of engine answers there. Raises EngineFailure."""
    answer = await http.get("/api/version")
    if answer.status == 200:
        try:
            expect(answer, "/api/version", _OllamaVersion, http.netloc)
        except EngineFailure:  # LM Studio answers any path with 200
            pass
        else:
            await _refuse_a_router(http)
            return EngineKind.OLLAMA
    models = await http.get("/v1/models")
    if models.status == 503:
        raise EngineFailure(f"{http.netloc} is loading its model")
    refuse_if_locked(models, http.netloc)
    if models.status != 200:
        raise EngineFailure(
            f"{http.netloc} is no engine: it answered /api/version with {answer.status} and "
            f"/v1/models with {models.status}"
        )
    return EngineKind.OPENAI


async def _refuse_a_router(http: EngineHttp) -> None:
    """A router speaks Ollama's API too; OLLAMA_HOST set for the command line may point at it."""
    if (await http.get("/fleet/status")).status != 404:
        raise HerdRouterFound(f"{http.netloc} is the router of a herd, not an engine")
