"""Compares two answers by what a client can rely on: keys and their order, events, error texts."""

import json
import re
from typing import Any

_REQUEST_ID = re.compile(rb'"request_id":"req_[0-9a-f]+"')


def shape(value: object) -> Any:
    """Keys in order and kinds of values; a list is the shape of its first element."""
    match value:
        case dict():
            return [(key, shape(inner)) for key, inner in value.items()]
        case list():
            return ["list", shape(value[0])] if value else ["list"]
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case _:
            return "null"


def body_shape(content_type: str, body: bytes) -> Any:
    """What an answer looks like, without what differs between two generations."""
    if content_type.startswith("application/x-ndjson"):
        lines = [json.loads(line) for line in body.split(b"\n") if line]
        return _runs([shape(line) for line in lines])
    if content_type.startswith("text/event-stream"):
        return _runs([_event_shape(event) for event in body.split(b"\n\n") if event])
    if content_type.startswith("application/json"):
        return shape(json.loads(body)) if body else None
    return body


def error_text(body: bytes) -> bytes:
    """An error body with the random id taken out."""
    return _REQUEST_ID.sub(b'"request_id":"req_"', body)


def _event_shape(event: bytes) -> Any:
    name, _, data = event.rpartition(b"data: ")
    return [name.decode(), shape(json.loads(data)) if data != b"[DONE]" else "[DONE]"]


def _runs(shapes: list[Any]) -> list[Any]:
    return [one for i, one in enumerate(shapes) if i == 0 or one != shapes[i - 1]]
