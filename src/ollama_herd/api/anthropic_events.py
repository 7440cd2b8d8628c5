"""Answers of `/v1/messages` as bytes, as a real Ollama writes them: key order, escapes, events.

Shapes are those of the recorded exchanges 174 and 175 of Ollama 0.33. The writer has the methods
of `ollama_lines.LineWriter`, so one reader of engines' answers serves both dialects.
"""

import hashlib
from typing import Any, Final

import msgspec

from ollama_herd.api.gojson import escape_html
from ollama_herd.api.ollama_lines import Metrics, Part, ToolCall, go_json

EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"

_TEXT: Final = "text"
_THINKING: Final = "thinking"
_MESSAGE_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def message_id(seed: bytes, started_s: float) -> str:
    """`msg_` and 24 hexadecimal digits, as Ollama's; the same for the same request and time."""
    return f"msg_{hashlib.sha256(b'%r ' % started_s + seed).hexdigest()[:24]}"


class MessageWriter:
    """Writes the answer of one request. `model` is the name that the client asked with,
    `prompt_tokens` the estimate that a stream begins with.

    Thought, text and each tool call are blocks; the one that is open ends when another begins.
    """

    def __init__(self, answer_id: str, model: str, prompt_tokens: int) -> None:
        self._id = answer_id
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._index = 0
        self._open = ""
        self._has_begun = False
        self._has_called = False

    def text_line(self, content: str, now_s: float) -> bytes:  # noqa: ARG002 - events tell no time
        """The events of a piece of the answer's text."""
        return self._said(_TEXT, content)

    def part_line(self, part: Part, now_s: float) -> bytes:  # noqa: ARG002 - events tell no time
        """The events of whatever `part` holds."""
        output = b""
        if part.thinking:
            output += self._said(_THINKING, part.thinking)
        if part.content:
            output += self._said(_TEXT, part.content)
        for call in part.tool_calls:
            output += self._called(call)
        return output

    def done_line(self, done_reason: str, metrics: Metrics, now_s: float) -> bytes:  # noqa: ARG002 - events tell no time
        """The last events of a stream."""
        delta = {"stop_reason": self._stop_reason(done_reason)}
        last = _event({"type": "message_delta", "delta": delta, "usage": _usage(metrics)})
        return self._begun() + self._closed() + last + _MESSAGE_STOP

    def whole(self, part: Part, done_reason: str, metrics: Metrics | None, now_s: float) -> bytes:  # noqa: ARG002 - a message tells no time
        """The one object of an answer that is not streamed, with a line end."""
        content: list[dict[str, Any]] = []
        if part.thinking:
            content.append({"type": _THINKING, _THINKING: part.thinking})
        if part.content:
            content.append({"type": _TEXT, _TEXT: part.content})
        for call in part.tool_calls:
            arguments = msgspec.Raw(call.arguments)
            content.append({**self._tool_use(call), "input": arguments})
        more = {"stop_reason": self._stop_reason(done_reason), "usage": _usage(metrics)}
        return _encoded({**self._message(content), **more}) + b"\n"

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
        }

    def _begun(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
        return _event({"type": "message_start", "message": {**self._message([]), "usage": usage}})

    def _said(self, kind: str, text: str) -> bytes:
        opening = b"" if self._open == kind else self._opened(kind, {"type": kind, kind: ""})
        return opening + (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
            b'{"type":"%b_delta","%b":%b}}\n\n'
        ) % (self._index, kind.encode(), kind.encode(), go_json(text))

    def _called(self, call: ToolCall) -> bytes:
        opened = self._opened("tool_use", {**self._tool_use(call), "input": {}})
        delta = {"type": "input_json_delta", "partial_json": call.arguments.decode()}
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return opened + _event(event) + self._closed()

    def _tool_use(self, call: ToolCall) -> dict[str, Any]:
        """A result names the call's id, so one that the engine left out is made up."""
        self._has_called = True
        call_id = call.call_id or f"call_{self._id[4:]}_{call.index}"
        return {"type": "tool_use", "id": call_id, "name": call.name}

    def _opened(self, kind: str, block: dict[str, Any]) -> bytes:
        before = self._begun() + self._closed()
        self._open = kind
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return before + _event(start)

    def _closed(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        self._index += 1
        return _event({"type": "content_block_stop", "index": self._index - 1})

    def _stop_reason(self, done_reason: str) -> str:
        if self._has_called:
            return "tool_use"
        return "max_tokens" if done_reason == "length" else "end_turn"


def _usage(metrics: Metrics | None) -> dict[str, int]:
    if metrics is None:
        return {"input_tokens": 0, "output_tokens": 0}
    return {"input_tokens": metrics.prompt_eval_count, "output_tokens": metrics.eval_count}


def _event(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(value["type"]).encode(), _encoded(value))


def _encoded(value: object) -> bytes:
    return escape_html(msgspec.json.encode(value))
