"""Requests of `/v1/messages` for an engine that speaks only OpenAI's dialect."""

from typing import Any

from ollama_herd.api.translate import Translation
from tests.api.translations import (
    engine_body,
    translation,
)

PATH = "/v1/messages"
HELLO = {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
PNG = "iVBORw0KGgo="
WEATHER = {
    "name": "weather",
    "description": "Tells it.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def asked(**fields: Any) -> dict[str, Any]:
    return engine_body(PATH, {**HELLO, **fields})


def messages(*given_: Any) -> list[Any]:
    found = asked(messages=list(given_))["messages"]
    assert isinstance(found, list)
    return found


def made(*, stream: bool = True, **fields: Any) -> Translation:
    return translation(PATH, {**HELLO, "stream": stream, **fields})
