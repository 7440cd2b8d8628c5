"""Pictures and speech: reads their requests and makes the calls for the one request path.

What is here is how bodies differ: JSON for pictures, forms with a file for speech. Everything after
that, from the queue to the trace, is `serve`.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import aiohttp
from aiohttp import web

from ollama_herd.api.endpoints import MEDIA, Endpoint
from ollama_herd.api.errors import ApiError, body_timeout
from ollama_herd.api.forms import (
    MAX_FIELD_BYTES,
    MAX_PARTS,
    FormPart,
    SentForm,
    Span,
    engine_form,
    pieces_length,
    read_form,
)
from ollama_herd.api.parse import ParsedBody
from ollama_herd.api.picture_reply import PictureReply
from ollama_herd.api.pictures import PictureAsk, openai_body, read_pictures
from ollama_herd.api.translate import ENGINE_LACKS_FEATURE
from ollama_herd.core.node import EngineKind, Replica
from ollama_herd.router.attempt import Call, engine_head
from ollama_herd.router.exchange import Parts
from ollama_herd.router.head import RequestHead
from ollama_herd.router.picture_store import PATH as PICTURE_PATH
from ollama_herd.router.picture_store import PictureStore
from ollama_herd.router.reply import Headers
from ollama_herd.router.serve import serve
from ollama_herd.router.slow import BodyRefused, BufferedReply, pumped, read_body, request_head
from ollama_herd.router.spool import Spool, SpooledBody
from ollama_herd.router.wire import Limits

CHUNK_BYTES = 256 * 1024

_T = TypeVar("_T")


class MediaSettings(Limits, Protocol):
    """The settings this module needs. Long uploads wait in a folder of `home`."""

    @property
    def home(self) -> Path: ...
    @property
    def max_upload_bytes(self) -> int: ...


class MediaRoutes:
    """The handlers."""

    def __init__(self, parts: Parts, settings: MediaSettings) -> None:
        self._parts = parts
        self._limits = settings
        self._folder = settings.home / "uploads"
        self._max_upload_bytes = settings.max_upload_bytes
        self._pictures = PictureStore()

    def add_to(self, app: web.Application) -> None:
        for path, endpoint in MEDIA.items():
            handler = self._handler(endpoint)
            app.router.add_route("POST", path.decode(), handler)
        app.router.add_route("GET", PICTURE_PATH + "{name}", self._picture)

    def _handler(
        self, endpoint: Endpoint
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        takes_json = endpoint.path in _JSON_PATHS
        answer = self._generate if takes_json else self._upload

        async def handle(request: web.Request) -> web.StreamResponse:
            return await answer(endpoint, request)

        return handle

    async def _generate(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        limits = self._limits
        body = await read_body(request, limits.max_body_bytes, limits.body_timeout_s)
        head = request_head(request)
        read = read_pictures(endpoint, body)
        if isinstance(read, ApiError):
            return await self._serve(endpoint, head, read, request)
        parsed = ParsedBody(
            model=read.model,
            body=b"",
            fallback_models=read.fallback_models,
            stream=read.stream,
            work=read.work,
            media=self._picture_calls(endpoint, head, read, request),
        )
        return await self._serve(endpoint, head, parsed, request)

    def _picture_calls(
        self, endpoint: Endpoint, head: RequestHead, ask: PictureAsk, request: web.Request
    ) -> Callable[[Replica], Call | ApiError]:
        def keep(data: bytes, content_type: str) -> str:
            return f"{request.scheme}://{request.host}{self._pictures.keep(data, content_type)}"

        def call(replica: Replica) -> Call | ApiError:
            if replica.kind is EngineKind.OLLAMA and ask.n > 1:
                return _lacks("Ollama makes one picture a request; leave n out")
            if ask.stream:
                return self._passed(head, ask, replica)
            reply = PictureReply(ask, replica, endpoint.dialect, keep)
            headers = [*_plain(head.headers), (b"content-type", b"application/json")]
            raw = engine_head(reply.path.encode(), headers, replica.endpoint, len(reply.body))
            return Call(raw, reply.body, MEDIA[_PICTURES], translation=reply)

        return call

    @staticmethod
    def _passed(head: RequestHead, ask: PictureAsk, replica: Replica) -> Call | ApiError:
        """A stream of progress goes to the client as its engine sends it."""
        if replica.kind is EngineKind.OLLAMA:
            return _lacks("Ollama streams pictures on /api/generate only; leave stream out")
        body = openai_body(ask, replica.model.name)
        headers = [*_plain(head.headers), (b"content-type", b"application/json")]
        raw = engine_head(_PICTURES, headers, replica.endpoint, len(body))
        return Call(raw, body, MEDIA[_PICTURES])

    async def _upload(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        head = request_head(request)
        spool = Spool(self._folder)
        try:
            form = await _Uploading(request, spool, self._limits, self._max_upload_bytes).form()
            if isinstance(form, ApiError):
                return await self._serve(endpoint, head, form, request)
            read = read_form(endpoint, form)
            if isinstance(read, ApiError):
                return await self._serve(endpoint, head, read, request)
            parsed = ParsedBody(
                model=read.model,
                body=b"",
                fallback_models=read.fallback_models,
                work=read.work,
                media=_FormCalls(endpoint, head, form, spool),
            )
            return await self._serve(endpoint, head, parsed, request)
        finally:
            spool.close()

    async def _serve(
        self,
        endpoint: Endpoint,
        head: RequestHead,
        body: ParsedBody | ApiError,
        request: web.Request,
    ) -> web.StreamResponse:
        reply = BufferedReply(request)
        return await pumped(reply, serve(self._parts, endpoint, head, body, reply))

    async def _picture(self, request: web.Request) -> web.Response:
        """A kept picture. Its name is the key."""
        kept = self._pictures.find(request.match_info["name"])
        if kept is None:
            reason = "no such picture: they are kept for an hour, the oldest go first"
            return web.json_response({"error": reason}, status=404)
        headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=kept.data, content_type=kept.content_type, headers=headers)


_PICTURES = b"/v1/images/generations"
_JSON_PATHS = frozenset({"/v1/images/generations", "/api/generate-image"})


def _lacks(message: str) -> ApiError:
    return ApiError(400, message, ENGINE_LACKS_FEATURE)


def _plain(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Without what describes the client's body."""
    return [(name, value) for name, value in headers if not name.startswith(b"content-")]


_ENGINE_PATHS = {"/api/transcribe": b"/v1/audio/transcriptions"}


class _FormCalls:
    """Makes the call for a replica out of a form that was read."""

    def __init__(self, endpoint: Endpoint, head: RequestHead, form: SentForm, spool: Spool) -> None:
        self._endpoint = endpoint
        self._head = head
        self._form = form
        self._spool = spool

    def __call__(self, replica: Replica) -> Call | ApiError:
        path = _ENGINE_PATHS.get(self._endpoint.path, self._endpoint.path.encode())
        if replica.kind is EngineKind.OLLAMA and path not in _OLLAMA_HAS:
            return _lacks(f"Ollama has no {path.decode()}; another engine of the model is needed")
        boundary = secrets.token_hex(16).encode()
        pieces = engine_form(self._form, self._endpoint, replica.model.name, boundary)
        content_type = b"multipart/form-data; boundary=" + boundary
        headers = [*_plain(self._head.headers), (b"content-type", content_type)]
        length = pieces_length(pieces)
        raw = engine_head(path, headers, replica.endpoint, length)
        if not self._spool.is_short:
            return Call(raw, b"", MEDIA[path], long_body=SpooledBody(pieces, self._spool))
        held = (p if isinstance(p, bytes) else self._spool.in_memory(p) for p in pieces)
        return Call(raw, b"".join(held), MEDIA[path])


_OLLAMA_HAS = frozenset({b"/v1/audio/transcriptions"})


class _Uploading:
    """Reads a form as it comes: its fields here, its files into the spool."""

    def __init__(self, request: web.Request, spool: Spool, limits: Limits, max_bytes: int) -> None:
        self._request = request
        self._spool = spool
        self._idle_s = limits.body_timeout_s
        self._max_bytes = max_bytes
        self._field_bytes = 0

    async def form(self) -> SentForm | ApiError:
        """The whole form, or what is wrong with it. Raises BodyRefused."""
        request = self._request
        if (request.content_length or 0) > self._max_bytes:
            raise BodyRefused(_too_large(self._max_bytes))
        if request.content_type != "multipart/form-data":
            return _no_form("send the file as multipart/form-data")
        parts: list[FormPart] = []
        try:
            form = await request.multipart()
            while (part := await self._in_time(form.next())) is not None:
                if not isinstance(part, aiohttp.BodyPartReader):
                    return _no_form("a part of the form is a form itself")
                if len(parts) == MAX_PARTS:
                    return _no_form(f"the form has more than {MAX_PARTS} parts")
                parts.append(await self._part(part))
            await self._spool.end()
        except (ValueError, AssertionError, aiohttp.ClientPayloadError):
            return _no_form("the body is no multipart form, or is cut short")
        except OSError as error:
            reason = error.strerror or "the disk cannot be written"
            return ApiError(507, f"the router cannot keep the upload: {reason}", "no_room")
        return SentForm(tuple(parts))

    async def _part(self, part: aiohttp.BodyPartReader) -> FormPart:
        headers = tuple((n.encode(), v.encode("utf-8", "replace")) for n, v in part.headers.items())
        name = part.name or ""
        if part.filename is None and name not in _FILES:
            data = bytearray()
            async for piece in self._pieces(part):
                self._field_bytes += len(piece)
                if self._field_bytes > MAX_FIELD_BYTES:
                    raise BodyRefused(_FIELDS_TOO_LARGE)
                data += piece
            return FormPart(name, headers, bytes(data))
        start = self._spool.size
        async for piece in self._pieces(part):
            if self._spool.size + len(piece) > self._max_bytes:
                raise BodyRefused(_too_large(self._max_bytes))
            await self._spool.append(piece)
        return FormPart(name, headers, Span(start, self._spool.size - start))

    async def _pieces(self, part: aiohttp.BodyPartReader) -> AsyncIterator[bytes]:
        while not part.at_eof():
            yield await self._in_time(part.read_chunk(CHUNK_BYTES))

    async def _in_time(self, reading: Awaitable[_T]) -> _T:
        """Raises BodyRefused for a client that sends nothing for too long."""
        try:
            async with asyncio.timeout(self._idle_s):
                return await reading
        except TimeoutError:
            raise BodyRefused(body_timeout(self._idle_s)) from None


_FILES = frozenset({"file", "audio", "image", "mask"})


def _no_form(message: str) -> ApiError:
    return ApiError(400, message, "bad_body")


_FIELDS_TOO_LARGE = ApiError(
    413,
    f"the form's fields, its files not counted, are larger than {MAX_FIELD_BYTES} bytes",
    "body_too_large",
)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"the upload is larger than {limit_bytes} bytes; send less, or raise max_upload_bytes",
        "body_too_large",
    )
