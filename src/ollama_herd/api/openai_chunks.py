"""What an OpenAI engine sends: whole answers and chunks of a stream, and their error objects.

The fast path is one typed decode. Where an engine uses other types than expected, the same value
is read field by field and what does not fit is left out; only what is no JSON object at all is
refused.
"""

import sys
from typing import Any, TypeGuard

import msgspec

from ollama_herd.api.ollama_lines import Logprob
from ollama_herd.api.translate_values import tolerant_json

MAX_ERROR_CHARACTERS = 2000
"""An engine's error text is cut here; llama.cpp's longest are a few hundred characters."""

_MISSING_LOGPROB = -9999.0
"""OpenAI's number for a token whose probability is too small to tell."""


class FunctionPiece(msgspec.Struct):
    """A tool call's name and arguments, or a piece of them."""

    name: str | None = None
    arguments: Any = None  # text in OpenAI's form; some engines send the object


class ToolPiece(msgspec.Struct):
    """A tool call, or a piece of one in a stream."""

    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class Message(msgspec.Struct):
    """`message` of a whole answer, `delta` of a chunk."""

    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp, vLLM, LM Studio
    reasoning: str | None = None  # Ollama's /v1, MLX-LM, newer vLLM
    tool_calls: list[ToolPiece] | None = None


class Choice(msgspec.Struct):
    """One answer; the herd never asks for more than one."""

    index: int = 0
    delta: Message | None = None
    message: Message | None = None
    text: str | None = None  # /v1/completions
    finish_reason: str | None = None
    logprobs: Any = None


class Counts(msgspec.Struct):
    """`usage` of an answer."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Timings(msgspec.Struct):
    """`timings` of llama.cpp. `prompt_n` leaves out the `cache_n` tokens found in its cache."""

    cache_n: int | None = None
    prompt_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class Chunk(msgspec.Struct):
    """A chunk of a stream or a whole answer."""

    choices: list[Choice] | None = None
    usage: Counts | None = None
    timings: Timings | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


def read_chunk(data: bytes) -> Chunk:
    """Raises `ValueError` when `data` is not a JSON object."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = tolerant_json(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a wrong value, not a wrong call
    return Chunk(
        choices=[_choice(item) for item in _objects(value.get("choices"))],
        usage=_fitting(Counts, value.get("usage")),
        timings=_fitting(Timings, value.get("timings")),
        error=value.get("error"),
    )


def error_text(value: Any) -> str:
    """The message in an error of any known shape, "" when there is none.

    OpenAI and llama.cpp: `{"error":{"message":…}}`; Ollama and LM Studio: `{"error":"…"}`; older
    vLLM: `{"message":…}`; FastAPI: `{"detail":"…"}` or `{"detail":[{"msg":…}]}`.
    """
    for _ in range(3):
        if isinstance(value, list):
            value = value[0] if value else None
        if not isinstance(value, dict):
            break
        value = next(
            (value[key] for key in ("error", "message", "detail", "msg") if value.get(key)), None
        )
    return value.strip()[:MAX_ERROR_CHARACTERS] if isinstance(value, str) else ""


def read_logprobs(value: Any, top: int) -> list[Logprob] | None:
    """Ollama's list from a choice's `logprobs`, with `top` alternatives a token at most.

    `value` is `{"content":[…]}` (chat; llama.cpp for completions too) or OpenAI's older
    `{"tokens":[…],"token_logprobs":[…],"top_logprobs":[{…}]}`.
    """
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("content"), list):
        found = [_logprob(item, top) for item in _objects(value["content"])]
        return found or None
    tokens, chances = value.get("tokens"), value.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(chances, list):
        return None
    tops = value.get("top_logprobs")
    tops = tops if isinstance(tops, list) else []
    return [
        _logprob(
            {
                "token": token,
                "logprob": chance,
                "top_logprobs": _alternatives(tops[place] if place < len(tops) else None),
            },
            top,
        )
        for place, (token, chance) in enumerate(zip(tokens, chances, strict=False))
    ] or None


def _alternatives(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    return [{"token": token, "logprob": chance} for token, chance in value.items()]


def _logprob(item: dict[str, Any], top: int) -> Logprob:
    alternatives = _objects(item.get("top_logprobs"))[:top]
    token = item.get("token")
    token = token if isinstance(token, str) else ""
    chance = item.get("logprob")
    numbers = item.get("bytes")
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        numbers = list(token.encode())
    return Logprob(
        token,
        float(chance) if _is_number(chance) else _MISSING_LOGPROB,
        numbers or None,
        [_logprob(other, 0) for other in alternatives] or None,
    )


def _choice(value: dict[str, Any]) -> Choice:
    index = value.get("index")
    return Choice(
        index=index if isinstance(index, int) else 0,
        delta=_message(value.get("delta")),
        message=_message(value.get("message")),
        text=_text(value.get("text")),
        finish_reason=_text(value.get("finish_reason")),
        logprobs=value.get("logprobs"),
    )


def _message(value: Any) -> Message | None:
    if not isinstance(value, dict):
        return None
    return Message(
        content=_text(value.get("content")),
        reasoning_content=_text(value.get("reasoning_content")),
        reasoning=_text(value.get("reasoning")),
        tool_calls=[_tool_piece(item) for item in _objects(value.get("tool_calls"))],
    )


def _tool_piece(value: dict[str, Any]) -> ToolPiece:
    index = value.get("index")
    function = value.get("function")
    return ToolPiece(
        index=index if isinstance(index, int) else None,
        id=_text(value.get("id")),
        function=FunctionPiece(_text(function.get("name")), function.get("arguments"))
        if isinstance(function, dict)
        else None,
    )


def _text(value: Any) -> str | None:
    """Text, also where it comes as a list of parts."""
    if isinstance(value, list):
        return "".join(
            part["text"] for part in _objects(value) if isinstance(part.get("text"), str)
        )
    return value if isinstance(value, str) else None


def _fitting(kind: type[Any], value: Any) -> Any:
    """The struct with those members that have the right type."""
    if not isinstance(value, dict):
        return None
    fields = {}
    for field in kind.__struct_fields__:
        number = value.get(field)
        if _is_number(number):
            fields[field] = number if field.endswith("_ms") else int(number)
    return kind(**fields)


def _is_number(value: Any) -> TypeGuard[int | float]:
    """A number that a float can hold; neither NaN nor infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
