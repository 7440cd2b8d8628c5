"""Ollama's answers as bytes, exactly as a real Ollama writes them: key order, escapes, times.

Shapes and key order are those of the recorded exchanges 022-099 of Ollama 0.33. All functions are
pure; times are passed in as seconds since 1970.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import msgspec

from ollama_herd.api.gojson import escape_html
from ollama_herd.core.request import Kind

NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json; charset=utf-8"

MAX_COUNT: Final = 2**63 - 1
"""Go clients read durations and counts into int64 and fail on anything larger."""

_LONGEST_S: Final = 9.2e9
"""Almost the seconds whose nanoseconds fill an int64."""


class Metrics(msgspec.Struct, frozen=True):
    """The counts and durations (ns) at the end of an answer."""

    total_ns: int
    load_ns: int
    prompt_eval_count: int
    prompt_eval_ns: int
    eval_count: int
    eval_ns: int


class ToolCall(msgspec.Struct, frozen=True):
    """One finished tool call. `arguments` is the text of a JSON object."""

    call_id: str
    index: int
    name: str
    arguments: bytes


class Logprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token with its log probability, keys in Ollama's order."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: "list[Logprob] | None" = None


class Part(msgspec.Struct):
    """What one line or a whole answer says."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: list[Logprob] | None = None


def go_json(text: str) -> bytes:
    """`text` as a JSON string in the bytes that Go's encoder writes.

    ollama-python splits lines at a raw U+2028, so the escapes are not for looks only.
    """
    return escape_html(msgspec.json.encode(text))


def error_body(message: str) -> bytes:
    """`{"error":"…"}` without a line end."""
    return b'{"error":' + go_json(message) + b"}"


@lru_cache(maxsize=4)
def _second(whole_s: int) -> bytes:
    return datetime.fromtimestamp(whole_s, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def timestamp(now_s: float) -> bytes:
    """RFC 3339 in UTC with up to nine fraction digits, trailing zeros dropped, as Go writes it."""
    whole_s = int(now_s)
    fraction = b"%09d" % int((now_s - whole_s) * 1e9)
    digits = fraction.rstrip(b"0")
    return b"%b.%bZ" % (_second(whole_s), digits) if digits else _second(whole_s) + b"Z"


class LineWriter:
    """Writes the answers of one request. `model` is the name that the client asked with."""

    def __init__(self, kind: Kind, model: str) -> None:
        self._is_chat = kind is Kind.CHAT
        self._before_time = b'{"model":' + go_json(model) + b',"created_at":"'
        self._before_text = (
            b'","message":{"role":"assistant","content":' if self._is_chat else b'","response":'
        )
        self._more = b'},"done":false}\n' if self._is_chat else b',"done":false}\n'

    def text_line(self, content: str, now_s: float) -> bytes:
        """The common case: a line with a piece of the answer's text."""
        return b"".join(
            (self._before_time, timestamp(now_s), self._before_text, go_json(content), self._more)
        )

    def part_line(self, part: Part, now_s: float) -> bytes:
        """A line of a stream with whatever `part` holds."""
        return self._head(part, now_s) + b',"done":false' + self._extras(part) + b"}\n"

    def done_line(self, done_reason: str, metrics: Metrics, now_s: float) -> bytes:
        """The last line of a stream."""
        return self.whole(Part(), done_reason, metrics, now_s) + b"\n"

    def load(self, done_reason: str, now_s: float) -> bytes:
        """The answer to an empty request: `load` or `unload`; no line end."""
        return self.whole(Part(), done_reason, None, now_s)

    def whole(self, part: Part, done_reason: str, metrics: Metrics | None, now_s: float) -> bytes:
        """The one object of an answer that is not streamed; no line end."""
        done = b',"done":true,"done_reason":' + go_json(done_reason)
        numbers = _metrics(metrics) if metrics else b""
        # Go's struct order: chat has logprobs before the metrics, generate after them.
        order = (self._extras(part), numbers) if self._is_chat else (numbers, self._extras(part))
        return b"".join((self._head(part, now_s), done, *order, b"}"))

    def _head(self, part: Part, now_s: float) -> bytes:
        text = [self._before_time, timestamp(now_s), self._before_text, go_json(part.content)]
        if part.thinking:
            text += (b',"thinking":', go_json(part.thinking))
        if self._is_chat:
            if part.tool_calls:
                text += (b',"tool_calls":', _tool_calls(part.tool_calls))
            text.append(b"}")
        return b"".join(text)

    def _extras(self, part: Part) -> bytes:
        text = b""
        if part.tool_calls and not self._is_chat:
            text = b',"tool_calls":' + _tool_calls(part.tool_calls)
        if part.logprobs:
            text += b',"logprobs":' + escape_html(msgspec.json.encode(part.logprobs))
        return text


def embed_body(
    model: str, embeddings: list[list[float]], *, total_ns: int, prompt_eval_count: int
) -> bytes:
    """The answer of `/api/embed` for at least one input. Engines tell no load time: it is 0."""
    return (
        b'{"model":%b,"embeddings":%b,"total_duration":%d,"load_duration":0,"prompt_eval_count":%d}'
        % (
            go_json(model),
            msgspec.json.encode(embeddings),
            total_ns,
            prompt_eval_count,
        )
    )


def embedding_body(embedding: list[float]) -> bytes:
    """The answer of the older `/api/embeddings`."""
    return b'{"embedding":' + msgspec.json.encode(embedding) + b"}"


def nanoseconds(amount_s: float) -> int:
    """A duration as Ollama counts it; never negative (wall clocks step back) and within int64."""
    return round(max(0.0, min(_LONGEST_S, amount_s)) * 1e9)


def _metrics(metrics: Metrics) -> bytes:
    return (
        b',"total_duration":%d,"load_duration":%d,"prompt_eval_count":%d'
        b',"prompt_eval_duration":%d,"eval_count":%d,"eval_duration":%d'
    ) % (
        metrics.total_ns,
        metrics.load_ns,
        metrics.prompt_eval_count,
        metrics.prompt_eval_ns,
        metrics.eval_count,
        metrics.eval_ns,
    )


def _tool_calls(calls: tuple[ToolCall, ...]) -> bytes:
    return b"[" + b",".join(map(_tool_call, calls)) + b"]"


def _tool_call(call: ToolCall) -> bytes:
    call_id = b'"id":' + go_json(call.call_id) + b"," if call.call_id else b""
    arguments = escape_html(msgspec.json.format(call.arguments, indent=-1))
    return b'{%b"function":{"index":%d,"name":%b,"arguments":%b}}' % (
        call_id,
        call.index,
        go_json(call.name),
        arguments,
    )
