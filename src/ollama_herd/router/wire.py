"""The data plane's client side: reads request heads, serves inference itself, hands over the rest.

A connection starts here. Plain inference requests (POST on a path of `api.endpoints.INFERENCE`,
HTTP/1.1, a body with a length) stay on this protocol; the first request of any other form moves
the connection to the aiohttp application, which serves every path, in every form HTTP allows.
The parser sees one request at a time: httptools cannot stop at a message's end.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import structlog

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import ApiError, body_timeout, body_too_large, body_too_slow, render
from ollama_herd.clock import monotonic_s
from ollama_herd.core.request import Dialect
from ollama_herd.router.crowd import Crowd
from ollama_herd.router.forms import is_over, unreadable, with_line_ends
from ollama_herd.router.head import HeadReader, RequestHead
from ollama_herd.router.reply import STATUS_LINES, Headers, Source, answer

PIPELINE_BYTES = 65536
"""Bytes of following requests kept while one is served; more are left in the kernel."""

WRITE_HIGH_BYTES = 262144
"""Unsent bytes after which a slow client pauses its engine."""

CHECKED_FIRST_BYTES = 65536
"""Of a longer body nothing is read before it is clear that the request may come in."""

_log = structlog.get_logger(__name__)

_line = b": ".join

Serve = Callable[[Endpoint, RequestHead, bytes, "ClientConnection"], Coroutine[Any, Any, None]]


class Limits(Protocol):
    """The settings this module needs."""

    @property
    def max_header_bytes(self) -> int: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def header_timeout_s(self) -> float: ...
    @property
    def body_timeout_s(self) -> float: ...
    @property
    def idle_timeout_s(self) -> float: ...
    @property
    def upload_timeout_s(self) -> float: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def max_connections_per_client(self) -> int: ...


class Door:
    """All client connections of the data plane, and what they share."""

    def __init__(
        self,
        *,
        serve: Serve,
        hand_over: Callable[[], asyncio.Protocol],
        limits: Limits,
        gate: Callable[[Headers, str], Headers | ApiError] = lambda _headers, _client: (),
        paths: Mapping[bytes, Endpoint] | None = None,
    ) -> None:
        """`paths` are those served here, all inference paths unless given."""
        self._gate = gate
        self.serve = serve
        self.hand_over = hand_over
        self.limits = limits
        self.paths = INFERENCE if paths is None else paths
        self.connections: set[ClientConnection] = set()
        self.crowd = Crowd(limits.max_connections, limits.max_connections_per_client)
        self.draining = False
        self.loop = asyncio.get_running_loop()

    def __call__(self) -> "ClientConnection":
        return ClientConnection(self)

    def sweep(self, now_s: float) -> None:
        """Once a second: end connections that are too slow in sending or too long idle."""
        for connection in list(self.connections):
            connection.check_deadline(now_s)
        self.crowd.sweep()

    def drain(self) -> None:
        """No further request on any connection; idle ones are closed now."""
        self.draining = True
        for connection in list(self.connections):
            if not connection.is_busy:
                connection.transport.close()

    def refusal(self, head: RequestHead) -> ApiError | None:
        """Why the body of a request is not read, None when it is."""
        if head.length > self.limits.max_body_bytes:
            return body_too_large(self.limits.max_body_bytes)
        allowed = self._gate(head.headers, head.client)
        return allowed if isinstance(allowed, ApiError) else None

    @property
    def busy(self) -> int:
        return sum(connection.is_busy for connection in self.connections)

    def abort(self) -> None:
        for connection in list(self.connections):
            connection.transport.abort()


class ClientConnection(asyncio.Protocol):
    """One client's connection; also the Reply of the request it carries."""

    __slots__ = (
        "_began_s",
        "_body",
        "_body_missing",
        "_buffer",
        "_chunked",
        "_deadline_s",
        "_door",
        "_endpoint",
        "_head",
        "_head_out",
        "_heads",
        "_keep",
        "_paused",
        "_source",
        "_task",
        "_wake",
        "_whole",
        "client",
        "finished",
        "is_busy",
        "started",
        "transport",
    )

    def __init__(self, door: Door) -> None:
        self._door = door
        self.transport: asyncio.Transport
        self.client = ""
        self.started = False
        self.finished = False
        self._buffer = b""
        self._heads: HeadReader
        self._head: RequestHead | None = None
        self._endpoint: Endpoint | None = None
        self._body: list[bytes] = []
        self._body_missing = 0
        self._whole = b""  # the body being served
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None  # of the task, between requests
        self.is_busy = False
        self._source: Source | None = None
        self._paused = False
        self._chunked = False
        self._keep = True
        self._head_out = b""
        self._began_s = 0.0
        self._deadline_s = 0.0

    # --- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # TCP gives no other kind
        door = self._door
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if peer else ""
        self._heads = HeadReader(self.client)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        door.connections.add(self)
        self._deadline_s = monotonic_s() + door.limits.header_timeout_s
        full = door.crowd.enter(self.client) or (503 if door.draining else 0)
        if full:
            self.transport.write(
                STATUS_LINES[full] + b"Content-Length: 0\r\nRetry-After: 1\r\n"
                b"Connection: close\r\n\r\n"
            )
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.is_busy:
            self._buffer += data
            if len(self._buffer) > PIPELINE_BYTES:
                self.transport.pause_reading()
        elif self._head is None:
            self._buffer = self._buffer + data if self._buffer else data
            self._read_head()
        else:
            self._read_body(data)

    def eof_received(self) -> bool:
        """A half-closed client counts as gone, as it does for a real Ollama."""
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._door.connections.discard(self)
        self._door.crowd.leave(self.client)
        self._buffer = b""
        self._body.clear()
        if self._source is not None:  # what it has read already must not be written any more
            self._source.pause()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._paused = True
        if self._source is not None:
            self._source.pause()

    def resume_writing(self) -> None:
        self._paused = False
        if self._source is not None:
            self._source.resume()

    # --- reading ---------------------------------------------------------------------------

    def _read_head(self) -> None:
        data, door = self._buffer, self._door
        end = self._heads.known_end(data)
        head = self._heads.again() if end else None
        if head is None:
            end = data.find(b"\r\n\r\n") + 4
            longest = door.limits.max_header_bytes
            is_long = len(data) > longest
            if end < 4 and not is_long and data[:1].isalpha() and not is_over(data):
                return
            is_ours = data.startswith(b"POST /") and data[5 : data.find(b" ", 5, 256)] in door.paths
            if is_ours and 4 <= end <= longest:
                head = self._heads.read(data[:end])
        endpoint = None if head is None else door.paths.get(head.path)
        if head is None or endpoint is None:
            self._read_another_form(data)
            return
        self._keep = self._heads.keeps_alive and not door.draining
        self._head = head
        self._endpoint = endpoint
        if head.length > CHECKED_FIRST_BYTES:
            refusal = door.refusal(head)
            if refusal is not None:
                self._refuse(refusal, endpoint)
                return
        self._buffer = b""
        if len(data) - end == head.length:
            self._start_serving(data[end:])
            return
        self._body_missing = head.length
        self._began_s = monotonic_s()
        self._deadline_s = self._began_s + door.limits.body_timeout_s
        self._read_body(data[end:])

    def _read_another_form(self, data: bytes) -> None:
        wrong = unreadable(data)
        if wrong is not None:
            self._refuse(wrong, None)
            return
        whole = with_line_ends(data)
        if whole is data:
            self._move_to_aiohttp()  # it serves the rest, and says what is wrong
            return
        self._buffer = whole
        self._read_head()

    def _read_body(self, data: bytes) -> None:
        missing = self._body_missing
        if len(data) < missing:
            self._body.append(data)
            self._body_missing = missing - len(data)
            limits = self._door.limits
            self._deadline_s = min(
                monotonic_s() + limits.body_timeout_s, self._began_s + limits.upload_timeout_s
            )
            return
        if len(data) > missing:
            self._buffer = data[missing:]
            data = data[:missing]
        if self._body:
            self._body.append(data)
            data = b"".join(self._body)
            self._body.clear()
        self._start_serving(data)

    def _start_serving(self, body: bytes) -> None:
        self._deadline_s = 0.0
        self.started = False
        self.finished = False
        self.is_busy = True
        self._whole = body
        wake = self._wake
        if self._task is None:
            # One of the loop's `create_task` would be given a number, and a name made of it.
            self._task = asyncio.Task(self._serve(), loop=self._door.loop, name="requests")
        elif wake is not None:
            self._wake = None
            wake.set_result(None)

    async def _serve(self) -> None:
        """All requests of the connection, one after the other: a task for each costs more."""
        door = self._door
        try:
            while True:
                endpoint, head = self._endpoint, self._head
                if endpoint is None or head is None:
                    return
                try:
                    await door.serve(endpoint, head, self._whole, self)
                except BaseException as failure:
                    if isinstance(failure, Exception):  # a client that left is none
                        _log.error("request path failed", exc_info=failure)
                    raise
                finally:
                    self._served()
                if not self.is_busy:  # else another one was sent meanwhile
                    self._wake = door.loop.create_future()
                    await self._wake
        finally:
            self._task = None

    def _served(self) -> None:
        """The request path has ended: on to the next request, if the answer was finished."""
        self._source = None
        self._head = None
        self._endpoint = None
        self._whole = b""
        self.is_busy = False
        if self.transport.is_closing():
            return
        if not self.finished:  # nobody may take half an answer for a whole one
            self.transport.abort()
            return
        if not self._keep or self._door.draining:
            self.transport.close()
            return
        self._deadline_s = monotonic_s() + self._door.limits.idle_timeout_s
        if self._buffer:
            self.transport.resume_reading()
            self._read_head()

    def _move_to_aiohttp(self) -> None:
        door = self._door
        if self._task is not None:
            self._task.cancel()
        door.connections.discard(self)
        door.crowd.move(self.client, self.transport)
        protocol = door.hand_over()
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(self._buffer)
        self._buffer = b""

    def check_deadline(self, now_s: float) -> None:
        if not self._deadline_s or now_s < self._deadline_s:
            return
        if self._head is None and not self._buffer:
            self.transport.close()  # idle between requests
            return
        limits = self._door.limits
        if self._head is None:
            error = body_timeout(limits.header_timeout_s)
        elif now_s - self._began_s >= limits.upload_timeout_s:
            error = body_too_slow(limits.upload_timeout_s)
        else:
            error = body_timeout(limits.body_timeout_s)
        self._refuse(error, self._endpoint)

    def _refuse(self, error: ApiError, endpoint: Endpoint | None) -> None:
        """An error before the request path begins; the connection is of no more use."""
        self._keep = False
        self._deadline_s = 0.0
        dialect, path = (endpoint.dialect, endpoint.path) if endpoint else (Dialect.OLLAMA, "/")
        answer(self, *render(error, dialect, path))
        self.transport.close()

    # --- Reply -----------------------------------------------------------------------------

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self.started = True
        status_line = STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status
        lines = list(map(_line, headers))
        self._chunked = length is None and status not in (204, 304)
        if self._chunked:
            lines.append(b"Transfer-Encoding: chunked")
        elif length is not None:
            lines.append(b"Content-Length: %d" % length)
        lines.append(b"\r\n" if self._keep else b"Connection: close\r\n\r\n")
        self._head_out = status_line + b"\r\n".join(lines)

    def write(self, data: bytes) -> None:
        if self._chunked:
            if not data:
                return
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head_out:
            data = self._head_out + data
            self._head_out = b""
        transport = self.transport
        if not transport.is_closing():  # as in `_send`, for every chunk
            transport.write(data)

    def flush(self) -> None:
        if self._head_out:
            self._send(self._head_out)
            self._head_out = b""

    def finish(self) -> None:
        self.finished = True
        end = b"0\r\n\r\n" if self._chunked else b""
        if self._head_out or end:
            self._send(self._head_out + end)
            self._head_out = b""

    def _send(self, data: bytes) -> None:
        """An engine's bytes may come in the moment between the client's leaving and the request
        path's hearing of it; uvloop's transport takes none after its end.
        """
        if not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()

    def draw_from(self, source: Source | None) -> None:
        self._source = source
        if source is not None and self._paused:
            source.pause()
