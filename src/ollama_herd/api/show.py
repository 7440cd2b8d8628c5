"""`/api/show` for a model whose engine is no Ollama: made of what the engine's node has told."""

import re

import msgspec

from ollama_herd.api.gojson import escape_html
from ollama_herd.api.merge import UNKNOWN_TIME
from ollama_herd.core.node import Replica
from ollama_herd.core.times import NO_TIME, parse_time

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT]?)", re.IGNORECASE)
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}

DEFAULT_ARCHITECTURE = "unknown"
"""`general.architecture` must be there: clients build the other keys' names from it."""


class _ShowDetails(msgspec.Struct, frozen=True):
    parent_model: str
    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str


class _Shown(msgspec.Struct, frozen=True):
    modelfile: str
    parameters: str
    template: str
    details: _ShowDetails
    model_info: dict[str, str | int]
    capabilities: tuple[str, ...]
    modified_at: str


def show(replica: Replica) -> bytes:
    """A complete answer; what nobody knows is empty, and no object is null."""
    model = replica.model
    details = model.details
    architecture = details.family or DEFAULT_ARCHITECTURE
    info: dict[str, str | int] = {"general.architecture": architecture}
    parameters = _parameter_count(details.parameter_size)
    if parameters:
        info["general.parameter_count"] = parameters
    loaded_context = replica.loaded.context_length if replica.loaded is not None else 0
    context_length = details.context_length or loaded_context
    if context_length:
        info[f"{architecture}.context_length"] = context_length
    if details.embedding_length:
        info[f"{architecture}.embedding_length"] = details.embedding_length
    known_time = parse_time(model.modified_at) != NO_TIME
    shown = _Shown(
        modelfile=f"# This model is served by an OpenAI-compatible engine.\nFROM {model.name}\n",
        parameters="",
        template="",
        details=_ShowDetails(
            parent_model=details.parent_model,
            format=details.format,
            family=details.family,
            families=details.families or ((details.family,) if details.family else ()),
            parameter_size=details.parameter_size,
            quantization_level=details.quantization_level,
        ),
        model_info=info,
        capabilities=model.capabilities or ("completion",),
        modified_at=model.modified_at if known_time else UNKNOWN_TIME,
    )
    return escape_html(msgspec.json.encode(shown))


def _parameter_count(text: str) -> int:
    """`268.10M` -> 268100000; 0 when it tells nothing."""
    found = _COUNT.fullmatch(text.strip())
    return round(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
