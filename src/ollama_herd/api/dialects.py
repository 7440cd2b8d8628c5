"""What is particular to each dialect, one entry each: its bodies, errors, and frames of streams.

How a stream ends and how another node goes on with it is told in `tail`, `continuation` and `seam`.
"""

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from ollama_herd.api.bodies import AnthropicBody, Body, OllamaBody, OpenAiBody
from ollama_herd.core.request import Dialect


class Manner(msgspec.Struct, frozen=True):
    """How one dialect is written.

    `paths` are what the paths whose errors are written in it begin with, () for all others.
    `whole_error` makes the body of an error from its status, its message as JSON, and a text from
    which an id can be made; `streamed_error` the last event of a stream from the message as JSON
    and the path. `event` stands before the data of an error's event. `says_charset`: errors are
    JSON in UTF-8 by their type, and end without a newline. `no_body` is said of an empty request.
    `frame_ends` end an event, the usual one first; `error_mark` is in every event that is an error
    (inside a JSON string its quotes are escaped), `nameless` in the last one of an engine that
    reports nothing else, b"" where there is none.
    """

    body: type[Body]
    paths: tuple[str, ...]
    whole_error: Callable[[int, str, str], str]
    streamed_error: Callable[[str, str], str]
    frame_ends: tuple[bytes, ...] = (b"\n\n", b"\r\n\r\n")
    error_mark: bytes = b'{"error"'
    nameless: bytes = b""
    event: str = ""
    says_charset: bool = False
    no_body: str = "EOF"


def _ollama_error(_status: int, message: str, _seed: str) -> str:
    return f'{{"error":{message}}}'


def _ollama_line(message: str, _path: str) -> str:
    return f'{{"error":{message}}}\n'


_OPENAI_TYPES: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "invalid_request_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
)
_OPENAI_CODES: Mapping[int, str] = MappingProxyType(
    {401: '"invalid_api_key"', 429: '"rate_limit_exceeded"'}
)
_ANTHROPIC_TYPES: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        529: "overloaded_error",
    }
)
"""As Ollama types statuses (openai.NewError, anthropic.NewError); 401, 403, 413 and 429 as OpenAI
and Anthropic themselves do."""


def _openai_error(status: int, message: str, _seed: str = "") -> str:
    kind = _OPENAI_TYPES.get(status, "api_error")
    code = _OPENAI_CODES.get(status, "null")
    return f'{{"error":{{"message":{message},"type":"{kind}","param":null,"code":{code}}}}}'


def _openai_event(message: str, path: str) -> str:
    body = _openai_error(500, message)
    if path != "/v1/responses":
        return f"data: {body}\n\n"
    # SDKs that follow the Responses API look at `type`, all others at `error`.
    typed = f'"type":"error","code":"server_error","message":{message},"param":null,'
    return f"event: error\ndata: {{{typed}{body[1:]}\n\n"


def _anthropic_error(status: int, message: str, seed: str) -> str:
    kind = _ANTHROPIC_TYPES.get(status, "api_error")
    digest = hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()[:24]
    return (
        f'{{"type":"error","error":{{"type":"{kind}","message":{message}}},'
        f'"request_id":"req_{digest}"}}'
    )


def _anthropic_event(message: str, _path: str) -> str:
    body = f'{{"type":"error","error":{{"type":"api_error","message":{message}}}}}'
    return f"event: error\ndata: {body}\n\n"


DIALECTS: Mapping[Dialect, Manner] = MappingProxyType(
    {
        Dialect.ANTHROPIC: Manner(
            body=AnthropicBody,
            paths=("/v1/messages",),
            whole_error=_anthropic_error,
            streamed_error=_anthropic_event,
            error_mark=b'"type":"error"',
            event="event: error\n",
        ),
        Dialect.OPENAI: Manner(
            body=OpenAiBody,
            paths=("/v1/",),
            whole_error=_openai_error,
            streamed_error=_openai_event,
            nameless=b'"model":""',  # an Ollama whose runner died while it answered on `/v1`
        ),
        Dialect.OLLAMA: Manner(
            body=OllamaBody,
            paths=(),
            whole_error=_ollama_error,
            streamed_error=_ollama_line,
            frame_ends=(b"\n",),
            says_charset=True,
            no_body="missing request body",
        ),
    }
)
"""Of two whose paths begin alike, the longer one comes first."""


def dialect_of(path: str) -> Dialect:
    """The dialect in which any path of the router answers errors."""
    for dialect, manner in DIALECTS.items():
        if path.startswith(manner.paths):
            return dialect
    return Dialect.OLLAMA
