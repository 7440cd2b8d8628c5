"""Reads the body of an inference request for the few fields that routing needs.

One decode into a lean Struct; what that refuses goes to `lenient`. The bytes go to the engine as
they came, except that `fallback_models` (ours) is taken out and zstd (legal on `/v1`) unpacked.
Only what a real Ollama refuses before it looks at the model is refused here, in its words.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ollama_herd.api.bodies import (
    EMPTY_LONGEST,
    AnthropicBody,
    OllamaBody,
    OpenAiBody,
    Options,
    first_byte,
    is_empty,
    keep_alive_s,
    think_error,
)
from ollama_herd.api.dialects import DIALECTS
from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import ApiError, bad_body, missing_model
from ollama_herd.api.lenient import read_leniently, without_member
from ollama_herd.api.media import text_bytes
from ollama_herd.api.wishes import body_tags
from ollama_herd.api.zstd import unpack_zstd
from ollama_herd.core.prefix import BLOCK_BYTES, MAX_BLOCKS, block_chain
from ollama_herd.core.request import Dialect, Kind

BYTES_PER_TOKEN: Final = 4
"""Ollama's own estimate (anthropic.EstimateInputTokens). The JSON around a message stands in for
the tokens that a chat template puts around it (recorded exchange 040: 39 bytes, 11 tokens)."""

MAX_FALLBACKS: Final = 16
"""More fallback models than anyone needs; each can cost a round of attempts."""

LoadOptions = tuple[tuple[str, int | bool], ...]


class ParsedBody(msgspec.Struct, frozen=True, gc=False):
    """What routing needs of a request, and `body` as it goes to the engine.

    `keep_alive_s` is None when the request does not say, `bodies.KEEP_FOREVER` when negative.
    `max_tokens` is the client's bound on the answer, None without one. `load_options` are sorted.
    `think` is as asked: None, a boolean or a level. `unpacked` says that `body` is plain though
    the client sent it with a Content-Encoding: that header must not go on. `prefix` are hashes of
    the prompt's blocks (`core.prefix.block_chain`); they are good in this process only. `tags` are
    what the body says it belongs to (`api.wishes`).
    `work` and `media` are of requests for pictures and speech: how much there is to do, as in
    `core.request.InferenceRequest`, and what makes the call for a replica (`router/media.py`).
    """

    model: str
    body: bytes
    stream: bool = False
    prompt_tokens: int = 0
    max_tokens: int | None = None
    load_options: LoadOptions = ()
    keep_alive_s: float | None = None
    is_load_only: bool = False
    is_unload: bool = False
    has_tools: bool = False
    has_images: bool = False
    has_format: bool = False
    think: bool | str | None = None
    logprobs: bool = False
    fallback_models: tuple[str, ...] = ()
    unpacked: bool = False
    prefix: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    work: int = 0
    media: Callable[..., Any] | None = None


def read_request(
    endpoint: Endpoint, body: bytes, content_encoding: str = ""
) -> ParsedBody | ApiError:
    """What `body` asks for, or the refusal a real Ollama would give. Never raises.

    `content_encoding` is the header's value; all but zstd on `/v1` is ignored, as Ollama does.
    """
    if content_encoding == "zstd" and endpoint.dialect is not Dialect.OLLAMA:
        plain = unpack_zstd(body)
        parsed = plain if isinstance(plain, ApiError) else read_request(endpoint, plain)
        if isinstance(parsed, ApiError):
            return parsed
        return msgspec.structs.replace(parsed, unpacked=True)
    decode, read = _READERS[endpoint.path]
    try:
        fields = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        lenient = read_leniently(endpoint, body)
        if isinstance(lenient, ApiError):
            return lenient
        fields, body = lenient.fields, lenient.body
    parsed = read(endpoint, fields, body)
    if len(fields.fallback_models) and isinstance(parsed, ParsedBody):
        return _with_fallbacks(endpoint, parsed, fields.fallback_models)
    return parsed


def _with_fallbacks(
    endpoint: Endpoint, parsed: ParsedBody, raw: msgspec.Raw
) -> ParsedBody | ApiError:
    """Takes `fallback_models` out of the body: no engine knows it."""
    try:
        names = tuple(dict.fromkeys(msgspec.json.decode(raw, type=list[str] | None) or ()))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bad_body("fallback_models must be a list of model names")
    if len(names) > MAX_FALLBACKS or not all(name.strip() for name in names):
        return bad_body(f"fallback_models must be a list of at most {MAX_FALLBACKS} model names")
    body = without_member(endpoint, parsed.body, "fallback_models")
    if isinstance(body, ApiError):
        return body
    return msgspec.structs.replace(parsed, fallback_models=names, body=body)


_STRING_OR_NOTHING = frozenset({0, ord('"'), ord("n")})
_LIST_OR_NOTHING = frozenset({0, ord("["), ord("n")})


def _read_ollama(endpoint: Endpoint, fields: OllamaBody, sent: bytes) -> ParsedBody | ApiError:
    """/api/chat and /api/generate."""
    is_chat = endpoint.kind is Kind.CHAT
    text = fields.messages if is_chat else fields.prompt
    first = first_byte(text)
    keep_alive = None if fields.keep_alive is None else keep_alive_s(fields.keep_alive)
    if (
        first not in (_LIST_OR_NOTHING if is_chat else _STRING_OR_NOTHING)
        or isinstance(keep_alive, str)
        or (isinstance(fields.think, str) and think_error(fields.think))
    ):
        return _refusal(endpoint, sent)
    model = fields.model
    if not model or model.isspace():
        return missing_model(endpoint, model or "")
    prompt_bytes, has_images = (
        len(text) + len(fields.system),
        len(fields.images) > 2 and not is_empty(fields.images),
    )
    if is_chat and b'"images"' in sent:
        prompt_bytes, has_images = text_bytes(text)
    options = fields.options
    has_no_text = len(text) <= EMPTY_LONGEST and is_empty(text)
    tools, layout = fields.tools, fields.format
    return ParsedBody(  # values by position: by name they would take three times as long
        model,
        sent,
        fields.stream is not False,
        (prompt_bytes + len(tools)) // BYTES_PER_TOKEN,
        None if options is None else _bound(options.num_predict),
        () if options is None else _load_options(options),
        keep_alive,
        has_no_text,
        has_no_text and keep_alive == 0,
        len(tools) > 2 and not is_empty(tools),
        has_images,
        len(layout) > 2 and not is_empty(layout),
        fields.think,
        fields.logprobs is True,
        (),
        False,  # noqa: FBT003 - `unpacked`
        () if has_images else _prefix(tools, fields.system, text),
    )


def _read_embed(endpoint: Endpoint, fields: OllamaBody, sent: bytes) -> ParsedBody | ApiError:
    """/api/embed and the legacy /api/embeddings. An empty text loads the model."""
    is_legacy = endpoint.path == "/api/embeddings"
    text = fields.prompt if is_legacy else fields.input
    first = first_byte(text)
    keep_alive = None if fields.keep_alive is None else keep_alive_s(fields.keep_alive)
    if (is_legacy and first not in _STRING_OR_NOTHING) or isinstance(keep_alive, str):
        return _refusal(endpoint, sent)
    model = fields.model
    if not model or model.isspace():
        return missing_model(endpoint, model or "")
    if first not in _STRING_OR_NOTHING | _LIST_OR_NOTHING:
        return ApiError(400, "invalid input type", "bad_body")
    options = fields.options
    return ParsedBody(
        model=model,
        body=sent,
        prompt_tokens=len(text) // BYTES_PER_TOKEN,
        load_options=() if options is None else _load_options(options),
        keep_alive_s=keep_alive,
        is_load_only=is_empty(text),
    )


def _read_openai_chat(endpoint: Endpoint, fields: OpenAiBody, sent: bytes) -> ParsedBody | ApiError:
    if first_byte(fields.messages) not in _LIST_OR_NOTHING:
        return _refusal(endpoint, sent)
    if is_empty(fields.messages):
        return bad_body("[] is too short - 'messages'")
    return _openai(endpoint, fields, sent, fields.messages)


def _read_openai_input(
    endpoint: Endpoint, fields: OpenAiBody, sent: bytes
) -> ParsedBody | ApiError:
    """/v1/embeddings and /v1/responses."""
    text = fields.input
    if endpoint.kind is Kind.EMBED and is_empty(text) and first_byte(text) != ord('"'):
        return bad_body("invalid input")
    return _openai(endpoint, fields, sent, text)


def _read_completion(endpoint: Endpoint, fields: OpenAiBody, sent: bytes) -> ParsedBody | ApiError:
    return _openai(endpoint, fields, sent, fields.prompt)


def _openai(
    endpoint: Endpoint, fields: OpenAiBody, sent: bytes, text: msgspec.Raw
) -> ParsedBody | ApiError:
    model = fields.model
    if not model or model.isspace():
        return missing_model(endpoint, model or "")
    prompt_bytes, has_images = len(text), False
    if b'"type"' in sent and (b'"image_url"' in sent or b'"input_' in sent or b'"file"' in sent):
        prompt_bytes, has_images = text_bytes(text)
    bound = fields.max_tokens
    if bound is None:
        bound = fields.max_completion_tokens
    if bound is None:
        bound = fields.max_output_tokens
    layout = fields.response_format or (fields.text.format if fields.text is not None else None)
    return ParsedBody(
        model=model,
        body=sent,
        stream=fields.stream is True and endpoint.kind is not Kind.EMBED,
        prompt_tokens=(prompt_bytes + len(fields.tools) + len(fields.instructions))
        // BYTES_PER_TOKEN,
        max_tokens=_bound(bound),
        has_tools=len(fields.tools) > 2 and not is_empty(fields.tools),
        has_images=has_images,
        has_format=layout is not None and layout.type != "text",
        think=fields.reasoning_effort or (fields.reasoning.effort if fields.reasoning else None),
        logprobs=fields.logprobs is not None and fields.logprobs is not False,
        prefix=()
        if has_images or endpoint.kind is Kind.EMBED
        else _prefix(fields.tools, fields.instructions, text),
        tags=body_tags(fields.user, fields.metadata)
        if len(fields.user) or len(fields.metadata)
        else (),
    )


def _read_anthropic(
    endpoint: Endpoint, fields: AnthropicBody, sent: bytes
) -> ParsedBody | ApiError:
    if first_byte(fields.messages) not in _LIST_OR_NOTHING:
        return _refusal(endpoint, sent)
    model = fields.model
    if not model:
        return missing_model(endpoint)
    if fields.max_tokens is None or fields.max_tokens <= 0:
        return bad_body("max_tokens is required and must be positive")
    if is_empty(fields.messages):
        return bad_body("messages is required")
    prompt_bytes, has_images = len(fields.messages), False
    if b'"image"' in sent or b'"document"' in sent:
        prompt_bytes, has_images = text_bytes(fields.messages)
    return ParsedBody(
        model=model,
        body=sent,
        stream=fields.stream is True,
        prompt_tokens=(prompt_bytes + len(fields.tools) + len(fields.system)) // BYTES_PER_TOKEN,
        max_tokens=fields.max_tokens,
        has_tools=len(fields.tools) > 2 and not is_empty(fields.tools),
        has_images=has_images,
        think=(fields.thinking is not None and fields.thinking.type == "enabled") or None,
        prefix=() if has_images else _prefix(fields.tools, fields.system, fields.messages),
        tags=body_tags(None, fields.metadata) if len(fields.metadata) else (),
    )


def _prefix(*parts: msgspec.Raw) -> tuple[int, ...]:
    """The chain over a prompt's parts in the order in which templates write them.

    An image's bytes are no tokens, so prompts with images have none.
    """
    if sum(map(len, parts)) < BLOCK_BYTES:
        return ()
    left, taken = MAX_BLOCKS * BLOCK_BYTES, []
    for part in parts:
        taken.append(memoryview(part)[:left])
        left -= len(taken[-1])
    return block_chain(b"".join(taken))


def _refusal(endpoint: Endpoint, sent: bytes) -> ApiError:
    """Of several wrong values the lenient reader finds the one that Ollama would name."""
    refusal = read_leniently(endpoint, sent)
    return refusal if isinstance(refusal, ApiError) else bad_body("invalid request")


def _bound(tokens: int | None) -> int | None:
    """-1 and -2 mean no bound (num_predict of Ollama, n_predict of llama.cpp)."""
    return tokens if tokens is not None and tokens >= 0 else None


_LOAD_OPTIONS: Final = (
    "draft_num_predict",
    "main_gpu",
    "num_batch",
    "num_ctx",
    "num_gpu",
    "num_thread",
    "use_mmap",
)
"""The options whose change reloads a model (api.Runner of Ollama), sorted."""


def _load_options(options: Options) -> LoadOptions:
    values = (
        options.draft_num_predict,
        options.main_gpu,
        options.num_batch,
        options.num_ctx,
        options.num_gpu,
        options.num_thread,
        options.use_mmap,
    )
    return () if values == _NO_LOAD_OPTIONS else _named_load_options(values)


_NO_LOAD_OPTIONS: Final = (None,) * len(_LOAD_OPTIONS)


@lru_cache(maxsize=256)
def _named_load_options(values: tuple[int | bool | None, ...]) -> LoadOptions:
    pairs = zip(_LOAD_OPTIONS, values, strict=True)
    return tuple((name, value) for name, value in pairs if value is not None)


_Decode = Callable[[bytes], Any]
_Read = Callable[[Endpoint, Any, bytes], ParsedBody | ApiError]

_READ: Final[Mapping[tuple[Dialect, str], _Read]] = MappingProxyType(
    {
        (Dialect.OLLAMA, "messages"): _read_ollama,
        (Dialect.OLLAMA, "prompt"): _read_ollama,
        (Dialect.OPENAI, "messages"): _read_openai_chat,
        (Dialect.OPENAI, "prompt"): _read_completion,
        (Dialect.OPENAI, "input"): _read_openai_input,
        (Dialect.ANTHROPIC, "messages"): _read_anthropic,
    }
)
"""By dialect and the key that holds the prompt."""


def _reader(row: Endpoint) -> _Read:
    if row.dialect is Dialect.OLLAMA and row.kind is Kind.EMBED:
        return _read_embed
    return _READ[row.dialect, row.prompt]


_READERS: Final[Mapping[str, tuple[_Decode, _Read]]] = MappingProxyType(
    {
        row.path: (msgspec.json.Decoder(DIALECTS[row.dialect].body).decode, _reader(row))
        for row in INFERENCE.values()
    }
)
