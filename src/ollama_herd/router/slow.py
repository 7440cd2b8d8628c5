"""Inference over aiohttp: every form of HTTP the data plane leaves alone, and its off-switch.

HTTP/1.0, chunked uploads, `Expect: 100-continue`, requests after a handed-over one. The same
`serve` runs here; only the reply is another one.
"""

import asyncio
import math
from collections import deque
from collections.abc import Coroutine
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError, body_timeout, body_too_large, body_too_slow
from ollama_herd.api.wishes import FOR_THE_HERD
from ollama_herd.clock import monotonic_s
from ollama_herd.router.head import RequestHead
from ollama_herd.router.reply import Headers, Source
from ollama_herd.router.serve import Parts, serve
from ollama_herd.router.wire import Limits

HIGH_BYTES = 262144
"""Bytes waiting for a slow client after which its engine is paused."""


class BufferedReply:
    """A Reply whose bytes are pumped into an aiohttp response by the handler's own coroutine."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._source: Source | None = None
        self._ended = False
        self.started = False
        self.aborted = False

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self.started = True
        out: CIMultiDict[str] = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in headers
        )
        self._response = web.StreamResponse(status=status, headers=out)
        if "Content-Type" not in out:
            self._response.headers.popall("Content-Type", None)
        if length is not None:
            self._response.content_length = length
        self._wake.set()

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > HIGH_BYTES and self._source is not None:
            self._source.pause()
        self._wake.set()

    def flush(self) -> None:
        self._wake.set()

    def finish(self) -> None:
        self._ended = True
        self._wake.set()

    def abort(self) -> None:
        self.aborted = True
        if self._request.transport is not None:
            self._request.transport.abort()
        self.finish()

    def draw_from(self, source: Source | None) -> None:
        self._source = source

    async def pump(self) -> web.StreamResponse:
        """Write what comes until the reply is finished."""
        while self._response is None:
            self._wake.clear()
            await self._wake.wait()
        response = self._response
        await response.prepare(self._request)
        while True:
            self._wake.clear()
            while self._parts:
                data = self._parts.popleft()
                self._size -= len(data)
                await response.write(data)
            if self._source is not None:
                self._source.resume()
            if self._ended and not self._parts:
                break
            await self._wake.wait()
        if not self.aborted:
            await response.write_eof()
        return response


class BodyRefused(Exception):  # noqa: N818 - an answer to a client, not a defect
    """The body is too long or comes too slowly; `error` says which."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


async def read_body(
    request: web.Request,
    limit_bytes: int,
    idle_s: float,
    whole_s: float = math.inf,
    *,
    setting: str = "max_body_bytes",
) -> bytes:
    """The whole body, however it is framed. Raises BodyRefused.

    `idle_s` bounds the time in which no byte comes, `whole_s` the time of the whole. `setting` is
    what sets `limit_bytes`, "" where nothing does.
    """
    until_s = monotonic_s() + whole_s
    parts: list[bytes] = []
    size = 0
    if (request.content_length or 0) > limit_bytes:
        raise BodyRefused(body_too_large(limit_bytes, setting))
    while not request.content.at_eof():
        try:
            async with asyncio.timeout(min(idle_s, until_s - monotonic_s())):
                data = await request.content.readany()
        except TimeoutError:
            if monotonic_s() >= until_s:
                raise BodyRefused(body_too_slow(whole_s)) from None
            raise BodyRefused(body_timeout(idle_s)) from None
        size += len(data)
        if size > limit_bytes:
            raise BodyRefused(body_too_large(limit_bytes, setting))
        parts.append(data)
    return b"".join(parts)


def slow_inference(parts: Parts, endpoint: Endpoint, limits: Limits) -> Handler:
    """An aiohttp handler for one row of the endpoint table."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await read_body(
            request, limits.max_body_bytes, limits.body_timeout_s, limits.upload_timeout_s
        )
        head = request_head(request)
        reply = BufferedReply(request)
        return await pumped(reply, serve(parts, endpoint, head, body, reply))

    return handle


async def pumped(reply: BufferedReply, serving: Coroutine[Any, Any, None]) -> web.StreamResponse:
    """Serve a request and write its reply as it comes."""
    pump = asyncio.ensure_future(reply.pump())
    try:
        await serving
        return await pump
    finally:
        pump.cancel()


def request_head(request: web.Request) -> RequestHead:
    """The request as the data plane would have read it."""
    head = RequestHead(request.remote or "")
    target = request.raw_path
    if not target.startswith("/"):  # the whole URL, as for a proxy: engines get its path alone
        target = request.rel_url.raw_path_qs
    head.path = target.encode()
    head.encoding = request.headers.get("Content-Encoding", "").strip().lower()
    head.headers = [(name.lower(), value) for name, value in request.raw_headers]
    head.has_wishes = any(name in FOR_THE_HERD for name, _ in head.headers)
    return head
