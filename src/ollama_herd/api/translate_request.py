"""Bodies of Ollama's `/api/chat`, `/api/generate`, `/api/embed` and `/api/embeddings`, and of
Anthropic's `/v1/messages`, rewritten for an engine that speaks only OpenAI's dialect.

`keep_alive`, `truncate` and `shift` have no counterpart and are left out: an engine loads its model
when it starts, and refuses a prompt that is too long for it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.ollama_lines import JSON, LineWriter, embedding_body, go_json
from ollama_herd.api.parse import ParsedBody
from ollama_herd.api.translate_anthropic import chat_of_messages
from ollama_herd.api.translate_messages import chat_message, openai_messages
from ollama_herd.api.translate_options import (
    engine_options,
    response_format,
    schema_of_format,
    thinking_fields,
    top_logprobs,
)
from ollama_herd.api.translate_values import (
    ENGINE_LACKS_FEATURE,
    Fields,
    RequestRefusedError,
    read_fields,
    unsupported,
)
from ollama_herd.core.names import DEFAULT_HOST, DEFAULT_NAMESPACE, canonical_name
from ollama_herd.core.request import Dialect, Kind

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"
EMBEDDINGS_PATH: Final = "/v1/embeddings"
LEGACY_EMBEDDINGS: Final = "/api/embeddings"

_GO_STRUCTS: Mapping[str, str] = MappingProxyType(
    {
        "/api/chat": "ChatRequest",
        "/api/generate": "GenerateRequest",
        "/api/embed": "EmbedRequest",
        LEGACY_EMBEDDINGS: "EmbeddingRequest",
        "/v1/messages": "MessagesRequest",
    }
)
"""What Ollama's own errors call the request."""


class EngineCall(msgspec.Struct, frozen=True):
    """What to send to the engine, and what of the request its answer's translation needs."""

    endpoint: Endpoint  # that the client called
    path: str  # at the engine
    body: bytes
    model: str  # as the client said it
    streams: bool = False
    top_logprobs: int = 0
    dimensions: int = 0
    inputs: int = 0  # number of texts to embed
    prompt_tokens: int = 0  # as estimated

    @property
    def is_legacy_embedding(self) -> bool:
        """Whether the client called `/api/embeddings`, which answers in a form of its own."""
        return self.endpoint.path == LEGACY_EMBEDDINGS


class LocalAnswer(msgspec.Struct, frozen=True):
    """A complete answer that needs no engine: loading, unloading, embedding of nothing."""

    body: bytes
    status: int = 200
    content_type: str = JSON


def openai_call(
    endpoint: Endpoint, parsed: ParsedBody, engine_model: str, now_s: float
) -> EngineCall | LocalAnswer:
    """The call that answers a request to `endpoint`, or its answer where none is needed.

    `engine_model` is what the engine calls the model. Raises `RequestRefusedError` with the
    status and text of a real Ollama where that one refuses the same request.
    """
    request = read_fields(parsed.body, _GO_STRUCTS.get(endpoint.path, "Request"))
    if endpoint.dialect is Dialect.ANTHROPIC:
        body = msgspec.json.encode(chat_of_messages(request, engine_model))
        return EngineCall(
            endpoint,
            CHAT_PATH,
            body,
            parsed.model,
            streams=parsed.stream,
            prompt_tokens=parsed.prompt_tokens,
        )
    if endpoint.kind is Kind.EMBED:
        return _embed(endpoint, parsed, request, engine_model)
    if endpoint.kind is Kind.CHAT:
        call = _chat(request, engine_model)
    else:
        call = _generate(parsed, request, engine_model)
    if call is None:
        writer = LineWriter(endpoint.kind, parsed.model)
        return LocalAnswer(writer.load("unload" if parsed.is_unload else "load", now_s))
    return _generation(endpoint, parsed, request, call)


def _chat(request: Fields, engine_model: str) -> dict[str, Any] | None:
    """The engine's fields for a chat, None when there is nothing to say."""
    messages = openai_messages(request)
    if not messages:
        return None
    call: dict[str, Any] = {"model": engine_model, "messages": messages}
    tools = request.listed("tools", "api.Tools")
    if tools:
        call["tools"] = [
            {"type": "function", **tool} if isinstance(tool, dict) else tool for tool in tools
        ]
    return call


def _generate(parsed: ParsedBody, request: Fields, engine_model: str) -> dict[str, Any] | None:
    """The engine's fields for a prompt, None when it is empty.

    `raw` goes to the completions endpoint, anything else becomes a chat of one message, for which
    the engine uses the model's own template.
    """
    prompt = request.text("prompt")
    if parsed.is_unload:
        return None
    is_raw = request.truth("raw")
    system = request.text("system")
    template = request.text("template")
    context = request.listed("context", "[]int")
    images = request.listed("images", "[]api.ImageData")
    if is_raw and (template or system or context):
        raise RequestRefusedError(400, "raw mode does not support template, system, or context")
    if request.text("suffix"):
        # Engines take a suffix differently or, worse, ignore it silently (llama.cpp's
        # /v1/completions does); /infill needs a model made for it, which nothing tells.
        name = _full_name(parsed.model)
        raise RequestRefusedError(400, f"{name} does not support insert", ENGINE_LACKS_FEATURE)
    if not prompt:
        return None
    if template:
        raise unsupported("a template", "render it yourself and send it with raw: true")
    if context:
        raise unsupported("the context of an earlier answer", "send the conversation to /api/chat")
    if is_raw:
        if images:
            raise unsupported("images in raw mode", "send them without raw, or to /api/chat")
        return {"model": engine_model, "prompt": prompt}
    messages = [{"role": "system", "content": system}] if system else []
    messages.append(chat_message("user", prompt, images))
    return {"model": engine_model, "messages": messages}


def _generation(
    endpoint: Endpoint, parsed: ParsedBody, request: Fields, call: dict[str, Any]
) -> EngineCall:
    """What chat and generate have in common, added to `call`."""
    is_chat = "messages" in call
    schema = schema_of_format(request.get("format"))
    if schema is not None:
        call["response_format"] = response_format(schema)
        if not is_chat:
            call["json_schema"] = schema  # llama.cpp reads this one there, vLLM the other
    thinking = thinking_fields(request.get("think"))
    if is_chat:
        call |= thinking
    top = top_logprobs(request)
    if request.truth("logprobs"):
        # With 0 llama.cpp gives none at all; what was not asked for is dropped from the answer.
        asked = max(1, top)
        call |= {"logprobs": True, "top_logprobs": asked} if is_chat else {"logprobs": asked}
    call |= engine_options(request)
    call["stream"] = parsed.stream
    if parsed.stream:
        call["stream_options"] = {"include_usage": True}
    return EngineCall(
        endpoint,
        CHAT_PATH if is_chat else COMPLETIONS_PATH,
        msgspec.json.encode(call),
        parsed.model,
        streams=parsed.stream,
        top_logprobs=top,
    )


def _embed(
    endpoint: Endpoint, parsed: ParsedBody, request: Fields, engine_model: str
) -> EngineCall | LocalAnswer:
    is_legacy = endpoint.path == LEGACY_EMBEDDINGS
    inputs = request.text("prompt") if is_legacy else request.get("input")
    if isinstance(inputs, str):
        inputs = [inputs] if inputs else []
    inputs = [] if inputs is None else inputs
    if not isinstance(inputs, list) or not all(isinstance(item, str) for item in inputs):
        raise RequestRefusedError(400, "invalid input type")
    engine_options(request)  # none has a counterpart, a wrong type is refused all the same
    if not inputs:
        empty = b'{"model":' + go_json(parsed.model) + b',"embeddings":[]}'
        return LocalAnswer(embedding_body([]) if is_legacy else empty)
    # `dimensions` is not sent: Ollama itself cuts the vectors and normalises them again, for any
    # model, while engines refuse it for most.
    body = {"model": engine_model, "input": inputs, "encoding_format": "float"}
    return EngineCall(
        endpoint,
        EMBEDDINGS_PATH,
        msgspec.json.encode(body),
        parsed.model,
        dimensions=0 if is_legacy else max(0, request.integer("dimensions")),
        inputs=len(inputs),
    )


def _full_name(model: str) -> str:
    """The name with host, namespace and tag, as Ollama says it in this one error."""
    name = canonical_name(model)
    missing = (f"{DEFAULT_HOST}/{DEFAULT_NAMESPACE}/", f"{DEFAULT_HOST}/", "")
    return missing[min(2, name.count("/"))] + name
