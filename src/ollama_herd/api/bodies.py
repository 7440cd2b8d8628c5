"""The fields of request bodies, as the fast parser wants them, and what is wrong with one.

Each Struct lists every documented key of its dialect, because an unknown one (it may be a known
one in another case, which Ollama takes as well) sends a body to the lenient reader. What routing
does not read stays raw and is neither decoded nor checked: that is the engine's business.
"""

import math
from functools import lru_cache
from typing import Final

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.gojson import encode_string, parse_duration

ABSENT: Final = msgspec.Raw()


class Options(msgspec.Struct, gc=False):
    """The members of `options` that routing reads: those that reload a model, and the bound."""

    num_predict: int | None = None
    draft_num_predict: int | None = None
    main_gpu: int | None = None
    num_batch: int | None = None
    num_ctx: int | None = None
    num_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None


class OllamaBody(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """/api/chat, generate, embed and embeddings."""

    model: str | None = None
    messages: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    stream: bool | None = None
    options: Options | None = None
    keep_alive: str | float | None = None
    tools: msgspec.Raw = ABSENT
    format: msgspec.Raw = ABSENT
    think: bool | str | None = None
    images: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    system: msgspec.Raw = ABSENT
    logprobs: bool | None = None
    fallback_models: msgspec.Raw = ABSENT
    suffix: msgspec.Raw = ABSENT
    template: msgspec.Raw = ABSENT
    context: msgspec.Raw = ABSENT
    raw: msgspec.Raw = ABSENT
    truncate: msgspec.Raw = ABSENT
    shift: msgspec.Raw = ABSENT
    top_logprobs: msgspec.Raw = ABSENT
    dimensions: msgspec.Raw = ABSENT
    debug_render_only: msgspec.Raw = msgspec.field(default=ABSENT, name="_debug_render_only")


class ResponseFormat(msgspec.Struct, gc=False):
    """`response_format`, and `text.format` of /v1/responses."""

    type: str = "text"


class TextSettings(msgspec.Struct, gc=False):
    """`text` of /v1/responses."""

    format: ResponseFormat | None = None


class Reasoning(msgspec.Struct, gc=False):
    """`reasoning` of /v1/responses."""

    effort: str | None = None


class OpenAiBody(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """/v1/chat/completions, completions, embeddings and responses."""

    model: str | None = None
    messages: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    stream: bool | None = None
    stream_options: msgspec.Raw = ABSENT
    temperature: msgspec.Raw = ABSENT
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    tools: msgspec.Raw = ABSENT
    tool_choice: msgspec.Raw = ABSENT
    response_format: ResponseFormat | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: str | None = None
    instructions: msgspec.Raw = ABSENT
    logprobs: bool | int | None = None
    fallback_models: msgspec.Raw = ABSENT
    top_p: msgspec.Raw = ABSENT
    seed: msgspec.Raw = ABSENT
    stop: msgspec.Raw = ABSENT
    n: msgspec.Raw = ABSENT
    user: msgspec.Raw = ABSENT
    frequency_penalty: msgspec.Raw = ABSENT
    presence_penalty: msgspec.Raw = ABSENT
    parallel_tool_calls: msgspec.Raw = ABSENT
    store: msgspec.Raw = ABSENT
    metadata: msgspec.Raw = ABSENT
    encoding_format: msgspec.Raw = ABSENT
    dimensions: msgspec.Raw = ABSENT
    suffix: msgspec.Raw = ABSENT
    echo: msgspec.Raw = ABSENT
    top_logprobs: msgspec.Raw = ABSENT
    include: msgspec.Raw = ABSENT
    truncation: msgspec.Raw = ABSENT
    background: msgspec.Raw = ABSENT
    conversation: msgspec.Raw = ABSENT
    previous_response_id: msgspec.Raw = ABSENT
    prompt_cache_key: msgspec.Raw = ABSENT
    debug_render_only: msgspec.Raw = msgspec.field(default=ABSENT, name="_debug_render_only")


class Thinking(msgspec.Struct, gc=False):
    """`thinking` of /v1/messages."""

    type: str = ""


class AnthropicBody(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """/v1/messages."""

    model: str | None = None
    max_tokens: int | None = None
    messages: msgspec.Raw = ABSENT
    system: msgspec.Raw = ABSENT
    stream: bool | None = None
    tools: msgspec.Raw = ABSENT
    thinking: Thinking | None = None
    fallback_models: msgspec.Raw = ABSENT
    tool_choice: msgspec.Raw = ABSENT
    temperature: msgspec.Raw = ABSENT
    top_p: msgspec.Raw = ABSENT
    top_k: msgspec.Raw = ABSENT
    stop_sequences: msgspec.Raw = ABSENT
    metadata: msgspec.Raw = ABSENT
    output_config: msgspec.Raw = ABSENT
    service_tier: msgspec.Raw = ABSENT
    context_management: msgspec.Raw = ABSENT


Body = OllamaBody | OpenAiBody | AnthropicBody

_VALUE_NAMES = {ord('"'): "string", ord("{"): "object", ord("["): "array"} | dict.fromkeys(
    b"tf", "bool"
)


def first_byte(raw: msgspec.Raw) -> int:
    """The byte that tells the type of a raw value; 0 when there is none."""
    return memoryview(raw)[0] if len(raw) else 0


EMPTY_LONGEST = 16
"""Bytes of a raw value that may still be an empty list with spaces in it."""


def is_empty(raw: msgspec.Raw) -> bool:
    """No such key, null, an empty string, list or object."""
    length = len(raw)
    if not length or length > EMPTY_LONGEST:
        return not length
    plain = bytes(raw)
    return plain in _EMPTY or (plain[0] in b"[{" and not plain[1:-1].strip())


_EMPTY = frozenset({b"null", b'""', b"[]", b"{}"})


def wrong_type(endpoint: Endpoint, field: str, raw: msgspec.Raw) -> str:
    """Go's words when `raw` has not the type of `field`; "" when it has or is not looked at."""
    wanted = endpoint.go.field(field)
    first = first_byte(raw)
    if wanted is None or first in wanted.first or first == ord("n"):
        return ""
    found = _VALUE_NAMES.get(first, "number")
    return (
        f"json: cannot unmarshal {found} into Go struct field "
        f"{endpoint.go.name.partition('.')[2]}.{field} of type {wanted.name}"
    )


def wrong_top_level(endpoint: Endpoint, first: int) -> str:
    """Go's words for a body that is not an object; "" for null, which it takes for `{}`."""
    if first == ord("n"):
        return ""
    found = _VALUE_NAMES.get(first, "number")
    return f"json: cannot unmarshal {found} into Go value of type {endpoint.go.name}"


KEEP_FOREVER = math.inf

_LONGEST_NS = 2**63
"""From here on Go's durations, 64 bits of nanoseconds, have no room: some 292 years."""


KEPT_CHARS = 64
"""Longer texts of durations are read anew each time: clients make them up, and they would stay."""


def keep_alive_s(value: str | float) -> float | str:
    """Seconds that `keep_alive` asks for, or the text of its error.

    `KEEP_FOREVER` when negative, or for longer than a duration can say.

    api.Duration of Ollama: a number is seconds, a string is a Go duration.
    """
    if isinstance(value, str):
        return _kept_for_s(value) if len(value) <= KEPT_CHARS else _kept_for_s.__wrapped__(value)
    number_ns = value * 1e9
    return int(number_ns) / 1e9 if 0 <= number_ns < _LONGEST_NS else KEEP_FOREVER


@lru_cache(maxsize=64)
def _kept_for_s(text: str) -> float | str:
    ns = parse_duration(text)
    if isinstance(ns, str):
        return ns
    return KEEP_FOREVER if ns < 0 else ns / 1e9


_THINK_LEVELS = ("high", "medium", "low", "max")
_THINK_WANTED = '"high", "medium", "low", "max", true, or false'


def think_error(value: object) -> str:
    """What api.ThinkValue of Ollama says to `think`; "" when it takes it."""
    if value is None or isinstance(value, bool) or value in _THINK_LEVELS:
        return ""
    if isinstance(value, str):
        return f"invalid think value: {encode_string(value)} (must be {_THINK_WANTED})"
    return f"think must be a boolean or string ({_THINK_WANTED})"
