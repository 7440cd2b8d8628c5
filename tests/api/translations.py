"""Short ways to translate a request and an engine's answer in tests."""

import json
from typing import Any

from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.api.translate import LocalAnswer, Translation, translate

NOW_S = 1_795_343_320.5
"""2026-11-22T10:28:40.5Z; a binary fraction, so that differences are exact."""

SSE = "text/event-stream"
JSON = "application/json; charset=utf-8"
HELLO = {"model": "asked", "messages": [{"role": "user", "content": "hi"}]}


def outcome(path: str, request: dict[str, Any]) -> Translation | LocalAnswer | ApiError:
    endpoint = INFERENCE[path.encode()]
    parsed = read_request(endpoint, json.dumps(request).encode())
    assert isinstance(parsed, ParsedBody), parsed
    return translate(endpoint, parsed, "engine-name", NOW_S)


def translation(path: str, request: dict[str, Any]) -> Translation:
    made = outcome(path, request)
    assert not isinstance(made, LocalAnswer | ApiError), made
    return made


def engine_body(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """What the engine gets."""
    body = json.loads(translation(path, request).body)
    assert isinstance(body, dict)
    return body


def refusal(path: str, request: dict[str, Any]) -> ApiError:
    made = outcome(path, request)
    assert isinstance(made, ApiError), made
    return made


def chat(*, stream: bool = True, **fields: Any) -> Translation:
    return translation("/api/chat", {**HELLO, "stream": stream, **fields})


def answered(made: Translation, body: bytes, content_type: str = SSE, status: int = 200) -> bytes:
    """The client's bytes when the engine's body comes at once, half a second after the request,
    and its end a second after the request."""
    made.head(status, content_type)
    return made.feed(body, NOW_S + 0.5) + made.end(NOW_S + 1.0)


def events(*chunks: Any, done: bool = True) -> bytes:
    """An event stream of these JSON values."""
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return stream + (b"data: [DONE]\n\n" if done else b"")


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, "delta": fields}]}


def lines(output: bytes) -> list[dict[str, Any]]:
    assert output.endswith(b"\n")
    return [json.loads(line) for line in output.splitlines()]


def text_of(output: bytes) -> str:
    """The text of a streamed chat, put together."""
    return "".join(line["message"]["content"] for line in lines(output) if "message" in line)
