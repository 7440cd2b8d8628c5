"""Engines with the OpenAI dialect that tell more of their models than `/v1/models` does.

A further one is an entry in LISTINGS, a function that reads what it answers, and a test.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ollama_herd.core.node import Amount, LoadedModel, Model, ModelDetails, Name
from ollama_herd.engines.probe import Answer, Findings, decode_each, expect


class Listing(NamedTuple):
    """A list of an engine's own. `parse` raises EngineFailure on any other engine's answer."""

    path: str
    parse: Callable[[Answer, str], Findings]


class _LmStudioEntry(msgspec.Struct):
    """An entry of LM Studio's own `/api/v0/models`."""

    id: Name
    type: str = ""  # llm, vlm, embeddings
    arch: str = ""
    compatibility_type: str = ""  # gguf, mlx
    quantization: str = ""
    state: str = ""  # loaded, not-loaded
    max_context_length: int = 0
    loaded_context_length: Amount = 0


class _LmStudioModels(msgspec.Struct):
    data: list[msgspec.Raw]


def parse_lm_studio(answer: Answer, netloc: str) -> Findings:
    """LM Studio's `/api/v0/models`, which tells what is loaded. Raises EngineFailure."""
    listed = expect(answer, "/api/v0/models", _LmStudioModels, netloc)
    entries = decode_each(listed.data, _LmStudioEntry)
    capabilities = {"embeddings": ("embedding",), "vlm": ("completion", "vision")}
    return Findings(
        version="LM Studio",
        models=tuple(
            Model(
                name=entry.id,
                details=_details(entry),
                capabilities=capabilities.get(entry.type, ("completion",)),
            )
            for entry in entries
        ),
        loaded=tuple(
            LoadedModel(
                name=entry.id,
                context_length=entry.loaded_context_length,
                details=_details(entry),
            )
            for entry in entries
            if entry.state == "loaded"
        ),
    )


def _details(entry: _LmStudioEntry) -> ModelDetails:
    return ModelDetails(
        format=entry.compatibility_type,
        family=entry.arch,
        quantization_level=entry.quantization,
        context_length=entry.max_context_length,
    )


LISTINGS = (Listing("/api/v0/models", parse_lm_studio),)
"""Asked for in this order, of engines that are not llama.cpp's server."""
