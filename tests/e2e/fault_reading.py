"""What a client makes of an answer, as an SDK would: text, count, whether it is all there."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

from tests.fakes.raw import Response


class Asked(Protocol):
    """What was asked for: the endpoint, and whether the answer is a stream."""

    @property
    def path(self) -> str: ...
    @property
    def is_stream(self) -> bool: ...


@dataclass(frozen=True)
class Read:
    """`error` is what the client was told, a connection that was cut included. Neither whole nor an
    error: it looked complete and was not.
    """

    text: str
    tokens: int
    is_whole: bool
    error: str = ""


def read(asked: Asked, answer: Response) -> Read:
    """Never raises on an answer of the endpoint, whole or not."""
    if answer.status != 200:
        return Read("", 0, is_whole=False, error=f"{answer.status} {answer.body[:200]!r}")
    if not answer.is_whole:
        return Read("", 0, is_whole=False, error="cut connection")
    if not asked.is_stream:
        return _read_whole(asked, answer.body)
    if asked.path.startswith("/api/"):
        return _read_lines(answer.lines())
    events = _events(answer.body)
    if asked.path == "/v1/messages":
        return _read_messages(events)
    return _read_responses(events) if asked.path == "/v1/responses" else _read_chunks(events)


def _read_whole(asked: Asked, data: bytes) -> Read:
    try:
        body = json.loads(data)
    except ValueError:
        return Read(data.decode(errors="replace"), 0, is_whole=False)
    usage = body.get("usage", {})
    match asked.path:
        case "/api/embed":
            return Read(str(body["embeddings"][0][:3]), body["prompt_eval_count"], is_whole=True)
        case "/v1/messages":
            return Read(body["content"][0]["text"], usage["output_tokens"], is_whole=True)
        case "/v1/responses":
            text = body["output"][0]["content"][0]["text"]
            return Read(text, usage["output_tokens"], is_whole=body["status"] == "completed")
        case "/v1/chat/completions" | "/v1/completions":
            choice = body["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            return Read(text, usage["completion_tokens"], is_whole=True)
    text = body["message"]["content"] if "message" in body else body["response"]
    return Read(text, body["eval_count"], is_whole=body["done"])


def _read_lines(lines: list[dict[str, Any]]) -> Read:
    text, tokens, is_whole, error = "", 0, False, ""
    for line in lines:
        error = line.get("error", "") or error
        text += line["message"]["content"] if "message" in line else line.get("response", "")
        is_whole = line.get("done", False)
        tokens = line.get("eval_count", tokens)
    return Read(text, tokens, is_whole=is_whole and not error, error=error)


def _events(body: bytes) -> list[bytes]:
    """The data of each event; comments have none."""
    blocks = (
        b"".join(line[6:] for line in block.split(b"\n") if line.startswith(b"data: "))
        for block in body.split(b"\n\n")
    )
    return [data for data in blocks if data]


def _read_messages(events: list[bytes]) -> Read:
    text, tokens, is_whole, error, opened = "", 0, False, "", 0
    for data in events:
        event = json.loads(data)
        error = str(event["error"]) if "error" in event else error
        text += event.get("delta", {}).get("text", "")
        tokens = event.get("usage", {}).get("output_tokens", tokens)
        is_whole = is_whole or event["type"] == "message_stop"
        opened += event["type"] in ("message_start", "content_block_start")
    error = error or ("opened twice" if opened > 2 else "")
    return Read(text, tokens, is_whole=is_whole and not error, error=error)


def _read_responses(events: list[bytes]) -> Read:
    text, tokens, is_whole, error, numbers = "", 0, False, "", []
    for data in events:
        event = json.loads(data)
        kind = event["type"]
        if kind == "error":
            error = str(event)
            continue
        numbers.append(event["sequence_number"])
        if kind == "response.output_text.delta":
            text += event["delta"]
        is_whole = kind == "response.completed"
        if is_whole:
            tokens = event["response"]["usage"]["output_tokens"]
    if not error and numbers != list(range(len(numbers))):
        error = "events out of order"
    return Read(text, tokens, is_whole=is_whole and not error, error=error)


def _read_chunks(events: list[bytes]) -> Read:
    text, tokens, is_whole, error, roles = "", 0, False, "", 0
    ids = set()
    for data in events:
        if data == b"[DONE]":
            is_whole = True
            continue
        event = json.loads(data)
        error = str(event["error"]) if "error" in event else error
        ids.add((event.get("id"), event.get("model")))
        for choice in event.get("choices", ()):
            text += choice.get("delta", choice).get("content", choice.get("text", "")) or ""
            roles += "role" in choice.get("delta", {})
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not error and (roles > 1 or len(ids) > 1):
        error = "opened twice"
    return Read(text, tokens, is_whole=is_whole and not error, error=error)
