"""An engine's answer with pictures, as the client asked for it: base64, a URL, or the bytes."""

import binascii
from base64 import b64decode
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ollama_herd.api.errors import ApiError, render
from ollama_herd.api.pictures import Delivery, PictureAsk, ollama_body, openai_body
from ollama_herd.core.node import EngineKind, Replica
from ollama_herd.core.request import Dialect, OutcomeKind, Usage

MAX_ANSWER_BYTES: Final = 128 * 2**20
"""Ten pictures of 4096 x 4096 pixels as PNG and base64 are less."""

Keep = Callable[[bytes, str], str]
"""Keeps a picture (bytes, content type) for a while and gives the URL where it is had."""

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
)


def picture_type(data: bytes) -> str:
    """The content type of a picture by its first bytes; "" when it is none."""
    for magic, content_type in _MAGIC:
        if data.startswith(magic):
            return content_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


class _Item(msgspec.Struct):
    b64_json: str | None = None


class _Answer(msgspec.Struct):
    """Of `/v1/images/generations` (`data`) and of Ollama's `/api/generate` (`image`)."""

    data: list[_Item] | None = None
    image: str | None = None
    created: int | None = None


class _NoPicture(Exception):  # noqa: N818 - what an engine did, not a defect
    pass


class PictureReply:
    """A `Translation`: the engine's answer is held whole and handed on in the form asked for."""

    def __init__(self, ask: PictureAsk, replica: Replica, dialect: Dialect, keep: Keep) -> None:
        model = replica.model.name
        is_ollama = replica.kind is EngineKind.OLLAMA
        self.path = "/api/generate" if is_ollama else "/v1/images/generations"
        self.body = ollama_body(ask, model) if is_ollama else openai_body(ask, model)
        self.status = 200
        self.content_type = "application/json"
        self.failed: OutcomeKind | None = None
        self.usage: Usage | None = None
        self._ask = ask
        self.dialect = dialect
        self._keep = keep
        self._parts: list[bytes] = []
        self._size = 0

    def head(self, status: int, content_type: str) -> tuple[int, str]:
        """Takes the engine's head; an error's form depends on the client's dialect."""
        self.status = status
        if status >= 400 and self.dialect is Dialect.OPENAI:
            self.content_type = content_type or "application/json"
        return self.status, self.content_type

    def feed(self, data: bytes, _now_s: float) -> bytes:
        """Nothing goes out before the answer is whole."""
        self._size += len(data)
        if self._size <= MAX_ANSWER_BYTES:
            self._parts.append(data)
        else:
            self._parts.clear()
        return b""

    def end(self, now_s: float) -> bytes:
        """The whole answer for the client, or an error when there is no picture in it."""
        body = b"".join(self._parts)
        if self.status >= 400:
            return self._refusal(body)
        if self._size > MAX_ANSWER_BYTES:
            return self._fail("the engine's answer is larger than the herd takes")
        try:
            return self._delivered(body, int(now_s))
        except _NoPicture as missing:
            return self._fail(str(missing))

    def _delivered(self, body: bytes, now_s: int) -> bytes:
        encoded, created = _encoded(body)
        pictures = [_decoded(text) for text in encoded]
        if self._ask.delivery is Delivery.PLAIN:
            self.content_type = picture_type(pictures[0])
            return pictures[0]
        items: list[dict[str, Any]]
        if self._ask.delivery is Delivery.URL:
            items = [{"url": self._keep(data, picture_type(data))} for data in pictures]
        else:
            items = [{"b64_json": text} for text in encoded]
        return msgspec.json.encode({"created": created or now_s, "data": items})

    def _refusal(self, body: bytes) -> bytes:
        """The engine's own words; in Ollama's form for a caller of our own path."""
        if self.dialect is Dialect.OPENAI and body:
            return body
        message = _message(body) or f"the engine answered with status {self.status}"
        return self._say(ApiError(self.status, message, "engine_refused"))

    def _fail(self, message: str) -> bytes:
        self.failed = OutcomeKind.GARBAGE
        return self._say(ApiError(502, message, "no_picture"))

    def _say(self, error: ApiError) -> bytes:
        self.status, content_type, body = render(error, self.dialect, "")
        self.content_type = content_type.decode()
        return body


def _encoded(body: bytes) -> tuple[list[str], int | None]:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _NoPicture("the engine's answer is not in the form of an image server") from None
    if answer.image:
        return [answer.image], answer.created
    found = [item.b64_json for item in answer.data or () if item.b64_json]
    if not found:
        raise _NoPicture("the engine answered without a picture; is its model one for pictures?")
    return found, answer.created


def _decoded(text: str) -> bytes:
    try:
        data = b64decode(text)
    except (binascii.Error, ValueError):
        data = b""
    if not picture_type(data):
        raise _NoPicture("what the engine sent is not a PNG, JPEG or WebP picture")
    return data


def _message(body: bytes) -> str:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body[:300].decode("utf-8", "replace").strip()
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else ""
