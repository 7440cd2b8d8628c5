"""How a fake Ollama writes one generation in each of its dialects, byte for byte as recorded.

A voice gives the chunks of a stream (`token`, `ending`) or one body (`whole`). Key order is that
of Go's structs; the bodies of `/v1` end with a newline, those of `/api` do not.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from tests.fakes.gojson import dumps, rfc3339_nano
from tests.fakes.turn import Token, Turn

EVENT_HEADERS: Mapping[str, str] = MappingProxyType(
    {"Cache-Control": "no-cache", "Connection": "keep-alive"}
)
"""Sent by the event streams of `/v1/messages` and `/v1/responses`."""

RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"


class Voice(Protocol):
    """One dialect telling one turn."""

    stream_type: str
    whole_type: str
    stream_headers: Mapping[str, str]

    def token(self, turn: Turn, token: Token) -> Sequence[bytes]: ...
    def ending(self, turn: Turn) -> Sequence[bytes]: ...
    def whole(self, turn: Turn) -> bytes: ...
    def died(self, turn: Turn) -> Sequence[bytes]: ...


class OllamaVoice:
    """`/api/chat` and `/api/generate`: one JSON object a line."""

    stream_type = "application/x-ndjson"
    whole_type = "application/json; charset=utf-8"
    stream_headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *, is_chat: bool) -> None:
        self._is_chat = is_chat

    def token(self, turn: Turn, token: Token) -> Sequence[bytes]:
        thought = token.text if token.is_thinking else ""
        said = "" if token.is_thinking else token.text
        line = {**self._opening(turn), **self._content(said, thought, ()), "done": False}
        return [dumps(line) + b"\n"]

    def ending(self, turn: Turn) -> Sequence[bytes]:
        lines = []
        if turn.tool_calls:
            content = self._content("", "", turn.tool_calls)
            lines.append(dumps({**self._opening(turn), **content, "done": False}) + b"\n")
        last = {**self._opening(turn), **self._content("", "", ()), **self._final(turn)}
        return [*lines, dumps(last) + b"\n"]

    def whole(self, turn: Turn) -> bytes:
        content = self._content(turn.text(), turn.thought(), turn.tool_calls)
        return dumps({**self._opening(turn), **content, **self._final(turn)})

    def died(self, turn: Turn) -> Sequence[bytes]:
        return [dumps({"error": RUNNER_DIED}) + b"\n"]

    def state(self, turn: Turn, done_reason: str) -> bytes:
        """The answer to a request that only loads or unloads."""
        content = self._content("", "", ())
        return dumps({**self._opening(turn), **content, "done": True, "done_reason": done_reason})

    def _opening(self, turn: Turn) -> dict[str, Any]:
        return {"model": turn.name, "created_at": rfc3339_nano(turn.now_s())}

    def _content(
        self, said: str, thought: str, tool_calls: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        thinking = {"thinking": thought} if thought else {}
        if not self._is_chat:
            return {"response": said, **thinking}
        message: dict[str, Any] = {"role": "assistant", "content": said, **thinking}
        if tool_calls:
            message["tool_calls"] = [
                {"id": f"call_{i:08d}", "function": {"index": i, **call}}
                for i, call in enumerate(tool_calls)
            ]
        return {"message": message}

    def _final(self, turn: Turn) -> dict[str, Any]:
        final: dict[str, Any] = {"done": True, "done_reason": turn.done_reason}
        if not self._is_chat and not turn.asked.get("raw"):
            final["context"] = list(range(105, 105 + turn.prompt_tokens + len(turn.said)))
        return {**final, **turn.durations()}


class _EventVoice:
    stream_type = "text/event-stream"
    whole_type = "application/json"
    stream_headers: Mapping[str, str] = MappingProxyType({})


class OpenAIChatVoice(_EventVoice):
    """`/v1/chat/completions`."""

    def token(self, turn: Turn, token: Token) -> Sequence[bytes]:
        delta: dict[str, Any] = {} if len(turn.said) > 1 else {"role": "assistant"}
        delta["content"] = "" if token.is_thinking else token.text
        if token.is_thinking:
            delta["reasoning"] = token.text
        return [_data(self._chunk(turn, delta, None))]

    def ending(self, turn: Turn) -> Sequence[bytes]:
        chunks = []
        if turn.tool_calls:
            role = {} if turn.said else {"role": "assistant"}
            calls = {**role, "content": "", "tool_calls": self._calls(turn)}
            chunks.append(_data(self._chunk(turn, calls, None)))
        last = _data(self._chunk(turn, {}, _finish(turn)))
        if _wants_usage(turn):
            last += _data({**self._envelope(turn, ".chunk"), "choices": [], "usage": _usage(turn)})
        return [*chunks, last + b"data: [DONE]\n\n"]

    def whole(self, turn: Turn) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": turn.text()}
        if turn.thought():
            message["reasoning"] = turn.thought()
        if turn.tool_calls:
            message["tool_calls"] = self._calls(turn)
        choice = {"index": 0, "message": message, "finish_reason": _finish(turn)}
        return (
            dumps({**self._envelope(turn, ""), "choices": [choice], "usage": _usage(turn)}) + b"\n"
        )

    def died(self, turn: Turn) -> Sequence[bytes]:
        return [_data({**self._chunk(turn, {"content": ""}, None), "model": ""})]

    def _envelope(self, turn: Turn, suffix: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{turn.number(999)}",
            "object": f"chat.completion{suffix}",
            "created": int(turn.now_s()),
            "model": turn.name,
            "system_fingerprint": "fp_ollama",
        }

    def _chunk(self, turn: Turn, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**self._envelope(turn, ".chunk"), "choices": [choice]}

    def _calls(self, turn: Turn) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{i:08d}",
                "index": i,
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": dumps(call["arguments"]).decode(),
                },
            }
            for i, call in enumerate(turn.tool_calls)
        ]


class OpenAICompletionVoice(_EventVoice):
    """`/v1/completions`; with `include_usage` each chunk carries a zero usage."""

    def token(self, turn: Turn, token: Token) -> Sequence[bytes]:
        return [_data(self._chunk(turn, token.text, None))]

    def ending(self, turn: Turn) -> Sequence[bytes]:
        last = _data(self._chunk(turn, "", turn.done_reason))
        if _wants_usage(turn):
            usage = {**self._chunk(turn, "", None), "choices": [], "usage": _usage(turn)}
            last += _data(usage)
        return [last + b"data: [DONE]\n\n"]

    def whole(self, turn: Turn) -> bytes:
        choice = {"text": turn.text(), "index": 0, "finish_reason": turn.done_reason}
        body = {
            "id": f"cmpl-{turn.number(999)}",
            "object": "text_completion",
            "created": int(turn.now_s()),
            "model": turn.name,
            "system_fingerprint": "fp_ollama",
            "choices": [choice],
            "usage": _usage(turn),
        }
        return dumps(body) + b"\n"

    def died(self, turn: Turn) -> Sequence[bytes]:
        return [_data({**self._chunk(turn, "", None), "model": ""})]

    def _chunk(self, turn: Turn, text: str, finish: str | None) -> dict[str, Any]:
        none = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return {
            "id": f"cmpl-{turn.number(999)}",
            "object": "text_completion",
            "created": int(turn.now_s()),
            "choices": [{"text": text, "index": 0, "finish_reason": finish}],
            "model": turn.name,
            "system_fingerprint": "fp_ollama",
            **({"usage": none} if _wants_usage(turn) else {}),
        }


class AnthropicVoice(_EventVoice):
    """`/v1/messages`: named events, no [DONE]. Thought, text and each tool call are blocks."""

    stream_headers = EVENT_HEADERS

    def token(self, turn: Turn, token: Token) -> Sequence[bytes]:
        kind = _block_kind(token)
        before = _block_kind(turn.said[-2]) if len(turn.said) > 1 else ""
        opening = [] if before else [self._start(turn)]
        if before != kind:
            opening += [_block_stop(0)] if before else []
            opening.append(_block_start(self._index(turn), {"type": kind, kind: ""}))
        delta = {"type": f"{kind}_delta", kind: token.text}
        return [*opening, _block_delta(self._index(turn), delta)]

    def ending(self, turn: Turn) -> Sequence[bytes]:
        said = [_block_stop(self._index(turn))] if turn.said else [self._start(turn)]
        first = self._index(turn) + 1 if turn.said else 0
        for index, block in enumerate(_tool_blocks(turn), first):
            json_delta = {
                "type": "input_json_delta",
                "partial_json": dumps(block["input"]).decode(),
            }
            said.append(_block_start(index, {**block, "input": {}}))
            said += [_block_delta(index, json_delta), _block_stop(index)]
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": _stop_reason(turn)},
            "usage": self._usage(turn),
        }
        return [*said, _event(delta), _event({"type": "message_stop"})]

    def whole(self, turn: Turn) -> bytes:
        thought = [{"type": "thinking", "thinking": turn.thought()}] if turn.thought() else []
        calls = _tool_blocks(turn)
        text = [{"type": "text", "text": turn.text()}] if turn.text() or not calls else []
        body = {
            "id": _message_id(turn),
            "type": "message",
            "role": "assistant",
            "model": turn.name,
            "content": [*thought, *text, *calls],
            "stop_reason": _stop_reason(turn),
            "usage": self._usage(turn),
        }
        return dumps(body) + b"\n"

    def died(self, turn: Turn) -> Sequence[bytes]:
        return []

    def _start(self, turn: Turn) -> bytes:
        message = {
            "id": _message_id(turn),
            "type": "message",
            "role": "assistant",
            "model": turn.name,
            "content": [],
            "usage": {"input_tokens": 2, "output_tokens": 0},
        }
        return _event({"type": "message_start", "message": message})

    def _index(self, turn: Turn) -> int:
        return len({_block_kind(token) for token in turn.said}) - 1

    def _usage(self, turn: Turn) -> dict[str, int]:
        return {"input_tokens": turn.prompt_tokens, "output_tokens": len(turn.said)}


def _block_kind(token: Token) -> str:
    return "thinking" if token.is_thinking else "text"


def _block_start(index: int, block: dict[str, Any]) -> bytes:
    return _event({"type": "content_block_start", "index": index, "content_block": block})


def _block_delta(index: int, delta: dict[str, Any]) -> bytes:
    return _event({"type": "content_block_delta", "index": index, "delta": delta})


def _block_stop(index: int) -> bytes:
    return _event({"type": "content_block_stop", "index": index})


def _tool_blocks(turn: Turn) -> list[dict[str, Any]]:
    return [
        {
            "type": "tool_use",
            "id": f"call_{i:08d}",
            "name": call["name"],
            "input": call["arguments"],
        }
        for i, call in enumerate(turn.tool_calls)
    ]


def _data(value: object) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _data(value)


def _finish(turn: Turn) -> str:
    return "tool_calls" if turn.tool_calls else turn.done_reason


def _stop_reason(turn: Turn) -> str:
    if turn.tool_calls:
        return "tool_use"
    return "max_tokens" if turn.done_reason == "length" else "end_turn"


def _message_id(turn: Turn) -> str:
    return f"msg_{turn.number(1 << 60):024x}"


def _wants_usage(turn: Turn) -> bool:
    options = turn.asked.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _usage(turn: Turn) -> dict[str, int]:
    prompt, said = turn.prompt_tokens, max(1, len(turn.said))
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
