"""Ollama's and Anthropic's dialect for engines that speak only OpenAI's: vLLM, LM Studio, MLX-LM,
llama.cpp's server (which speaks Anthropic's too).

`translate` makes one `Translation` for one attempt on one engine. The caller sends `body` to
`path`, gives `head` the engine's status and content type, every read to `feed`, and calls `end`
once, after the last byte or when the connection broke. What `feed` and `end` return goes to the
client. For requests in OpenAI's dialect nothing is translated; `replace_model` gives them the
name by which the engine knows its model.
"""

import re
from typing import Final, Protocol

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody
from ollama_herd.api.translate_embed import EmbedReply
from ollama_herd.api.translate_reply import GenerationReply
from ollama_herd.api.translate_request import EngineCall, LocalAnswer, openai_call
from ollama_herd.api.translate_values import ENGINE_LACKS_FEATURE, RequestRefusedError
from ollama_herd.core.request import Dialect, Kind, OutcomeKind, Usage

__all__ = ["ENGINE_LACKS_FEATURE", "LocalAnswer", "Translation", "replace_model", "translate"]


class Translation(Protocol):
    """One attempt's request for the engine, and its answer on the way back.

    Times are wall clock seconds since 1970. Nothing that an engine sends raises.
    """

    dialect: Dialect
    """The client's."""
    path: str
    """Path to call on the engine, method POST."""
    body: bytes
    """Body to send, `application/json`."""
    status: int
    """Status for the client. It may change until `feed` or `end` first return bytes: a stream
    can begin with an error, and an answer that is held whole may turn out to be none. So the head
    for the client is sent with the first of those bytes."""
    content_type: str
    """Content type for the client, as final as `status`."""
    failed: OutcomeKind | None
    """How the engine failed, None while it has not. Once set, nothing more comes out; the last
    bytes are an error in the client's dialect. As long as no bytes went to the client, the request
    may be tried elsewhere instead."""
    usage: Usage | None
    """Counts and durations, once the answer is complete."""

    def head(self, status: int, content_type: str) -> tuple[int, str]:
        """Takes the engine's head; gives status and content type for the client so far."""

    def feed(self, data: bytes, now_s: float) -> bytes:
        """Takes bytes of the engine's body, split anywhere; gives bytes for the client."""

    def end(self, now_s: float) -> bytes:
        """Takes the end of the engine's body, or of its connection; gives the last bytes.

        An answer that stopped short gives an error line here, never a final one.
        """


def translate(
    endpoint: Endpoint, parsed: ParsedBody, engine_model: str, now_s: float
) -> Translation | LocalAnswer | ApiError:
    """How an engine that calls the model `engine_model` answers the request `parsed`.

    A `LocalAnswer` needs no engine: an empty prompt loads or unloads. An `ApiError` with the code
    `ENGINE_LACKS_FEATURE` could be answered by a node with a real Ollama.
    """
    try:
        call = openai_call(endpoint, parsed, engine_model, now_s)
    except RequestRefusedError as refused:
        return ApiError(refused.status, refused.message, refused.code)
    if isinstance(call, EngineCall):
        if endpoint.kind is Kind.EMBED:
            return EmbedReply(call, now_s)
        return GenerationReply(call, now_s)
    return call


_MARK: Final = re.compile(rb'["{}\[\]]')
_SPACE_COLON: Final = re.compile(rb"\s*:\s*")
_HIDDEN_KEY: Final = b"\\u00"
"""`"\\u006dodel"` is the same key: an escape is looked at where a plain search finds nothing."""


def replace_model(body: bytes, name: str) -> bytes:
    """`body` with the top-level `model` set to `name`, every other byte as it was.

    All of several `model` keys are set: which one counts differs between servers. A body that is
    no JSON object, has no `model`, or has one that is not a string comes back unchanged.
    """
    value = msgspec.json.encode(name)
    pieces: list[bytes] = []
    copied = 0
    for start, end in _model_values(body):
        pieces += (body[copied:start], value)
        copied = end
    return b"".join((*pieces, body[copied:])) if pieces else body


def _model_values(body: bytes) -> list[tuple[int, int]]:
    """Where the string values of top-level `model` keys begin and end."""
    found: list[tuple[int, int]] = []
    depth = place = 0
    while mark := _MARK.search(body, place):
        place = mark.end()
        if mark[0] in b"{[":
            depth += 1
        elif mark[0] in b"}]":
            depth -= 1
            if depth <= 0:
                break
        else:
            end = _string_end(body, place)
            colon = _SPACE_COLON.match(body, end) if depth == 1 else None
            is_model = colon and _is_model(body[place - 1 : end])
            place = end
            if colon and is_model and body[colon.end() : colon.end() + 1] == b'"':
                place = _string_end(body, colon.end() + 1)
                found.append((colon.end(), place))
                if body.find(b'"model"', place) < 0 and body.find(_HIDDEN_KEY, place) < 0:
                    break
    return found


def _is_model(key: bytes) -> bool:
    if key == b'"model"':
        return True
    if b"\\" not in key:
        return False
    try:
        return bool(msgspec.json.decode(key) == "model")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _string_end(body: bytes, place: int) -> int:
    """Behind the closing quote of the string whose first character is at `place`."""
    while True:
        quote = body.find(b'"', place)
        if quote < 0:
            return len(body)
        before = quote
        while before > place and body[before - 1] == ord("\\"):
            before -= 1
        if (quote - before) % 2 == 0:
            return quote + 1
        place = quote + 1
