"""Reads a stream of `/v1/messages` as strictly as any client could."""

import json
from typing import Any

_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
_GROWS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def read_events(stream: bytes) -> list[dict[str, Any]]:
    """The events, each named as its type says."""
    assert stream.endswith(b"\n\n")
    found = []
    for frame in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


def read_message(stream: bytes) -> dict[str, Any]:
    """The message that the events build up, with `input` of a tool decoded.

    Fails on everything that breaks the order of events. A stream that ends with an error has
    `error` and no `stop_reason`.
    """
    first, *events = read_events(stream)
    assert first["type"] == "message_start"
    message: dict[str, Any] = {**first["message"], "content": []}
    assert first["message"]["content"] == []
    open_block: dict[str, Any] | None = None
    is_over = False
    for event in events:
        assert not is_over
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                assert event["index"] == len(message["content"])
                open_block = dict(event["content_block"])
                if open_block["type"] == "tool_use":
                    assert open_block["input"] == {}
                    open_block["partial_json"] = ""
                message["content"].append(open_block)
            case "content_block_delta":
                delta = event["delta"]
                assert open_block is not None
                assert event["index"] == len(message["content"]) - 1
                assert delta["type"] == _DELTAS[open_block["type"]]
                open_block[_GROWS[delta["type"]]] += delta[_GROWS[delta["type"]]]
            case "content_block_stop":
                assert open_block is not None
                assert event["index"] == len(message["content"]) - 1
                if open_block["type"] == "tool_use":
                    open_block["input"] = json.loads(open_block.pop("partial_json"))
                open_block = None
            case "message_delta":
                assert open_block is None
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case "message_stop":
                assert message["stop_reason"]
                is_over = True
            case "error":
                message["error"] = event["error"]
                is_over = True
            case other:
                raise AssertionError(f"an unknown event {other}")
    assert is_over
    return message
