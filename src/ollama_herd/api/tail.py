"""Reads the end of an answer: whether it is whole, what it counted, what it says went wrong.

The router keeps the last few KB of each answer's body (unchunked, as the client gets it) and asks
once, when the engine has ended it. The first line of a tail may be cut at its front; the last one
when the engine died. Answer text cannot fool it: whole lines and events are decoded, and in a cut
one only keys are looked for, whose quotes a JSON string would hold escaped.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.known_end import read_end
from ollama_herd.core.request import Dialect, Kind, Usage

TAIL_BYTES = 8192
"""What a caller should keep: the stats of every dialect fit in many times. A last line that is
longer (`context` of /api/generate, the whole answer in `response.completed`) is read from its end.
"""

MAX_ERROR_CHARS = 300
"""Kept of an engine's message: enough to tell what is wrong, too little to hold an answer."""


MAX_REASON_CHARS = 40
"""`stop`, `length`, `tool_calls` and the like."""


class Tail(msgspec.Struct, frozen=True, gc=False):
    """`complete` is False for a stream that stopped without its end marker.

    `error` is the engine's own message, "" without one; in a stream the client has it already.
    """

    complete: bool
    usage: Usage | None = None
    error: str = ""


def read_tail(tail: bytes, endpoint: Endpoint, status: int, is_stream: bool) -> Tail:  # noqa: FBT001 - the contract's shape
    """What the last bytes of an answer say. Never raises.

    `is_stream` is about the answer (its content type), not about what was asked for.
    A single JSON answer is always complete here: its length is the transport's business
    (`is_cut_json` where the transport does not tell it).
    """
    if status < 400 and (not is_stream or endpoint.dialect is Dialect.OLLAMA):
        last = tail.rstrip(b"\r\n").rsplit(b"\n", 1)[-1] if is_stream else tail
        end = read_end(last, MAX_REASON_CHARS)
        if end is not None and (end.done or not is_stream):
            return Tail(complete=True, usage=end.usage)
    return read_any_tail(tail, endpoint, status, is_stream=is_stream)


def is_cut_json(end: bytes, *, is_all: bool) -> bool:
    """Whether an answer of one JSON value stops in its middle, though its transport ended well.

    `end` is all of it or only its last bytes. JSON that is wrong otherwise is the engine's own
    matter (some write NaN).
    """
    if not end.rstrip().endswith(_VALUE_ENDS):
        return True
    if is_all:
        try:
            _skip(end)
        except msgspec.DecodeError as error:
            return str(error) == _TRUNCATED
    return False


def is_no_answer(body: bytes) -> bool:
    """Whether a whole answer is surely not a model's: nothing, or a page of some proxy's."""
    return not body.startswith(_VALUE_STARTS) and not body.lstrip().startswith(_VALUE_STARTS)


_VALUE_STARTS = (b"{", b"[")
_VALUE_ENDS = (b"}", b"]")
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_TRUNCATED = "Input data was truncated"


def read_any_tail(tail: bytes, endpoint: Endpoint, status: int, *, is_stream: bool) -> Tail:
    """The same, of an answer in whatever form."""
    if status >= 400:
        return Tail(complete=True, error=_error_text(_decoded(tail.strip()), tail))
    if not is_stream:
        return Tail(complete=True, usage=_usage_of(tail.strip()))
    if endpoint.dialect is Dialect.OLLAMA:
        return _read_lines(tail)
    return _reader(endpoint)(_events(tail))


def _reader(endpoint: Endpoint) -> "Callable[[Iterator[_Event]], Tail]":
    if endpoint.path == "/v1/responses":
        return _read_responses
    if endpoint.kind is Kind.SPEECH:
        return _read_transcript
    if endpoint.kind is Kind.IMAGE:
        return _read_pictures
    return _read_messages if endpoint.dialect is Dialect.ANTHROPIC else _read_chunks


# --- Ollama: lines -----------------------------------------------------------------------------

_DONE = re.compile(rb'"done":\s*true')
_NOT_DONE = re.compile(rb'"done":\s*false')


def _read_lines(tail: bytes) -> Tail:
    lines = tail.rstrip(b"\r\n").rsplit(b"\n", 1)
    last = lines[-1]
    line = _decoded(last)
    if line is None:
        is_front_cut = len(lines) == 1 and not last.startswith(_LINE_START)
        if is_front_cut and _is_last_line(last):
            return Tail(complete=True, usage=_usage_of(last))
        return Tail(complete=False)
    error = _error_text(line)
    if error:
        return Tail(complete=False, error=error)
    if line.get("done") is not True:
        return Tail(complete=False)
    return Tail(complete=True, usage=_usage(line))


def _is_last_line(rest: bytes) -> bool:
    """Whether the line that `rest` ends was the last: it says so, or ends with the stats."""
    if _PICTURE_END.fullmatch(rest) is not None:
        return True
    done, not_done = _last(_DONE, rest), _last(_NOT_DONE, rest)
    if not rest.endswith(b"}") or done < not_done:
        return False
    return done >= 0 or _OLLAMA_STATS_END.search(rest) is not None


_LINE_START = b'{"model":'
"""How every line of Ollama begins: one that does and cannot be read has lost its end."""

_OLLAMA_STATS_END = re.compile(
    rb'"(?:total_duration|load_duration|prompt_eval_count|prompt_eval_duration|eval_count'
    rb'|eval_duration)":\s*\d+\s*}$'
)


_PICTURE_END = re.compile(rb'[A-Za-z0-9+/]{4096,}={0,2}"(?:,"(?:completed|total)":\d+)*}')
"""The rest of a line with a picture, which an Ollama sends last and whole: `image` stands behind
`done` there. No text is one word of this length.
"""


def _last(pattern: re.Pattern[bytes], text: bytes) -> int:
    """Where the last match begins, -1 without one."""
    place = -1
    for found in pattern.finditer(text):
        place = found.start()
    return place


# --- OpenAI and Anthropic: events --------------------------------------------------------------


class _Event(msgspec.Struct, frozen=True):
    """One server-sent event; `value` is None when its data is no JSON object, or was cut."""

    data: bytes
    value: dict[str, Any] | None


_EVENTS_LOOKED_AT = 8
"""From the end: the end marker, a usage event and a finish event, with pings between them."""


def _events(tail: bytes) -> Iterator[_Event]:
    """The last events of a tail, newest first, comments left out."""
    if b"\r" in tail:  # no JSON string holds a bare one
        tail = tail.replace(b"\r\n", b"\n")
    end = len(tail.rstrip(b"\n"))
    for _ in range(_EVENTS_LOOKED_AT):
        start = tail.rfind(b"\n\n", 0, end)
        event = _event(tail[start + 2 if start >= 0 else 0 : end], is_first=start < 0)
        if event is not None:
            yield event
        if start < 0:
            return
        end = start


def _event(block: bytes, *, is_first: bool) -> _Event | None:
    """None for a comment, or an event without data. The first block of a tail may be cut: what
    looks like a comment there can be the rest of anything.
    """
    lines = block.strip(b"\r\n").splitlines()
    data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
    if data:
        return _Event(data, _decoded(data))
    if not is_first and all(line.startswith(_WITHOUT_DATA) for line in lines):
        return None
    return _Event(lines[-1] if lines else b"", None)


_WITHOUT_DATA = (b":", b"event:", b"id:", b"retry:")


def _read_chunks(events: Iterator[_Event]) -> Tail:
    """/v1/chat/completions and /v1/completions: `[DONE]`, or a last chunk that says why it ended
    (nothing of the answer can follow it).
    """
    last = next(events, _NOTHING)
    if last.data == b"[DONE]":
        return Tail(complete=True, usage=_usage_of_events(events))
    if last.value is None:
        return Tail(complete=False)
    error = _error_text(last.value)
    if error:
        return Tail(complete=False, error=error)
    # The counts come in a chunk of their own, without choices, behind the last one with text.
    newest = [last] if last.value.get("choices") else [last, next(events, _NOTHING)]
    complete = any(_stop_reason(event.value) for event in newest)
    return Tail(complete=complete, usage=_usage_of_events(newest) if complete else None)


_NOTHING = _Event(b"", None)


def _read_responses(events: Iterator[_Event]) -> Tail:
    """/v1/responses: one closing event that holds the whole response, long and often cut."""
    last = next(events, _NOTHING)
    if last.value is None:
        closed = last.data.endswith(b"}") and (
            _RESPONSE_END.search(last.data) is not None
            or _RESPONSE_USAGE.search(last.data) is not None
        )
        return Tail(complete=closed, usage=_usage_of(last.data) if closed else None)
    kind = last.value.get("type")
    if kind == "error":
        return Tail(complete=False, error=_error_text(last.value) or "error")
    if kind not in _RESPONSE_ENDS:
        return Tail(complete=False)
    response = last.value.get("response")
    inner = response if isinstance(response, dict) else {}
    error = _error_text(inner) if kind == "response.failed" else ""
    return Tail(complete=True, usage=_usage({**inner, **last.value}), error=error)


_RESPONSE_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_RESPONSE_END = re.compile(rb'"type":\s*"response\.(?:completed|incomplete|failed)"')
_RESPONSE_USAGE = re.compile(rb'"usage":\s*\{[^{}"]*"input_tokens"')


def _read_transcript(events: Iterator[_Event]) -> Tail:
    """/v1/audio/transcriptions as a stream: `transcript.text.done`, or `[DONE]` of engines that end
    their other streams so.
    """
    last = next(events, _NOTHING)
    if last.data == b"[DONE]":
        return Tail(complete=True)
    if last.value is None:
        # Its text may be longer than the tail.
        return Tail(complete=last.data.endswith(b"}") and _TRANSCRIPT_END in last.data)
    error = _error_text(last.value)
    return Tail(complete=last.value.get("type") == "transcript.text.done", error=error)


def _read_pictures(events: Iterator[_Event]) -> Tail:
    """/v1/images/generations as a stream: `image_generation.completed`, longer than any tail."""
    last = next(events, _NOTHING)
    if last.data == b"[DONE]":
        return Tail(complete=True)
    if last.value is None:
        ended = _PICTURE_END.search(last.data) is not None or _PICTURE_TYPE in last.data
        return Tail(complete=ended and last.data.endswith(b"}"))
    error = _error_text(last.value)
    return Tail(complete=last.value.get("type") == "image_generation.completed", error=error)


_PICTURE_TYPE = b"image_generation.completed"
_TRANSCRIPT_END = b"transcript.text.done"


def _read_messages(events: Iterator[_Event]) -> Tail:
    """/v1/messages: `message_stop`; the counts are in the `message_delta` before it."""
    for event in events:
        kind = event.value.get("type") if event.value is not None else None
        if kind == "message_stop":
            return Tail(complete=True, usage=_usage_of_events(events))
        if kind == "error":
            return Tail(complete=False, error=_error_text(event.value) or "error")
        if kind != "ping":
            break
    return Tail(complete=False)


# --- counts and messages -----------------------------------------------------------------------

_NUMBERS = (
    "prompt_eval_count",
    "eval_count",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_n",
    "prompt_n",
    "predicted_n",
    "prompt_ms",
    "predicted_ms",
)
"""Ollama's stats (durations in ns), `usage` of OpenAI and Anthropic, `timings` of llama.cpp."""

_NUMBER_KEYS = frozenset(_NUMBERS)
_NUMBER = re.compile(
    rb'"(' + "|".join(_NUMBERS).encode() + rb')":\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)'
)


def _usage_of(answer: bytes) -> Usage | None:
    """The usage of a whole answer, or of what is left of one."""
    value = _decoded(answer)
    if value is not None:
        return _usage(value)
    return _built({key.decode(): float(number) for key, number in _NUMBER.findall(answer)}, "")


def _usage_of_events(events: Iterable[_Event]) -> Usage | None:
    """The newest counts and the newest reason; the reason stands with the counts or before them."""
    usage, reason = None, ""
    for event in events:
        if event.value is None:
            continue
        if usage is None:
            counted = _usage(event.value)
            usage = counted if counted is not None and _has_counts(counted) else None
        reason = _stop_reason(event.value)
        if reason:
            break
    if usage is None:
        return Usage(done_reason=reason) if reason else None
    return msgspec.structs.replace(usage, done_reason=reason)


def _has_counts(usage: Usage) -> bool:
    return usage.prompt_tokens is not None or usage.output_tokens is not None


def _usage(value: dict[str, Any]) -> Usage | None:
    numbers: dict[str, float] = {}
    for holder in (value, value.get("usage"), value.get("timings")):
        if isinstance(holder, dict):
            for key in holder.keys() & _NUMBER_KEYS:
                if isinstance(holder[key], int | float):
                    numbers[key] = holder[key]
    return _built(numbers, _stop_reason(value))


def _built(numbers: dict[str, float], reason: str) -> Usage | None:
    """Zeros alone are no counts: Ollama sends them with every chunk of /v1/completions."""
    if not any(numbers.values()):
        return Usage(done_reason=reason) if reason else None
    get = numbers.get
    prompt = _first(get("prompt_eval_count"), get("prompt_tokens"), get("input_tokens"))
    if prompt is None:
        prompt = get("prompt_n")
        cached = get("cache_n", 0)
    else:
        cached = get("cache_read_input_tokens", 0)
    output = _first(
        get("eval_count"), get("completion_tokens"), get("output_tokens"), get("predicted_n")
    )
    return Usage(
        prompt_tokens=None if prompt is None else int(prompt + cached),
        output_tokens=None if output is None else int(output),
        load_ms=_ms(get("load_duration")),
        prefill_ms=_first(_ms(get("prompt_eval_duration")), get("prompt_ms")),
        decode_ms=_first(_ms(get("eval_duration")), get("predicted_ms")),
        done_reason=reason,
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _ms(duration_ns: float | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e6


def _stop_reason(value: dict[str, Any] | None) -> str:
    """Why the model stopped, in the engine's word; "" while it has not."""
    if value is None:
        return ""
    holders = [value, value.get("delta")]
    choices = value.get("choices")
    if isinstance(choices, list):
        holders.extend(choices[:1])
    for holder in holders:
        if isinstance(holder, dict):
            for key in ("done_reason", "finish_reason", "stop_reason"):
                reason = holder.get(key)
                if isinstance(reason, str) and reason:
                    return reason[:MAX_REASON_CHARS]
    return ""


def _error_text(value: dict[str, Any] | None, plain: bytes = b"") -> str:
    """The message of an error in any dialect's shape; of an answer that is no JSON its text."""
    if value is None:
        return plain[:MAX_ERROR_CHARS].decode("utf-8", "replace").strip()
    error = value.get("error")
    if isinstance(error, dict):
        error = error.get("message") or error.get("type")
    return error[:MAX_ERROR_CHARS] if isinstance(error, str) else ""


def _decoded(text: bytes) -> dict[str, Any] | None:
    """A JSON object, or None."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
