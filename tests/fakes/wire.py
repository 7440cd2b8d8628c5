"""A small HTTP/1.1 server that frames as Go's net/http and sees at once when a client leaves.

Owns sockets only. An engine double gives it `answer(request, reply)`; when the client leaves, that
coroutine is cancelled, as Go cancels a request's context.
"""

import asyncio
import contextlib
import email.utils
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ollama_herd import clock, tasks

CHUNKED_OVER_BYTES = 2048
"""Go's response buffer: a longer body of unknown length is sent chunked."""

REASONS = {
    100: "Continue",
    200: "OK",
    201: "Created",
    204: "No Content",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
JSON_UTF8 = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Request:
    """One request as it came. `is_cut` means: the client closed before the body was whole."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_cut: bool = False

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """The first value of a header, "" when it is not there."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), "")


class MalformedError(Exception):
    """The bytes are not an HTTP request; `status_text` is what Go answers."""


Answer = Callable[["Request", "Reply"], Awaitable[None]]


class Reply:
    """Writes one response; head and first body bytes leave in one write."""

    def __init__(self, connection: "Connection", request: Request) -> None:
        self._connection = connection
        self._request = request
        self._chunked = False
        self.has_begun = False
        self.extra_headers: Mapping[str, str] = {}

    async def send(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = JSON_UTF8,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A whole response: with its length when small, chunked when it is over 2 KiB."""
        all_headers = dict(headers or {})
        if content_type:
            all_headers["Content-Type"] = content_type
        is_head = self._request.method == "HEAD"
        if len(body) > CHUNKED_OVER_BYTES and not is_head and self._is_11():
            self._head(status, all_headers, "Transfer-Encoding: chunked")
            await self._connection.write(_chunk(body) + b"0\r\n\r\n")
            return
        self._head(status, all_headers, "" if status == 204 else f"Content-Length: {len(body)}")
        await self._connection.write(b"" if is_head else body)

    def begin(
        self, status: int, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Start a stream; HTTP/1.0 clients get it without chunks, ended by closing."""
        self._chunked = self._is_11()
        all_headers = {**(headers or {}), "Content-Type": content_type}
        self._head(status, all_headers, "Transfer-Encoding: chunked" if self._chunked else "")
        if not self._chunked:
            self._connection.keep_alive = False

    async def chunk(self, data: bytes) -> None:
        """One write of the handler is one chunk of the body."""
        await self._connection.write(_chunk(data) if self._chunked else data)

    async def end(self) -> None:
        """The clean end of a stream."""
        await self._connection.write(b"0\r\n\r\n" if self._chunked else b"")

    async def raw(self, data: bytes) -> None:
        """Bytes that need not be HTTP; the connection is closed behind them."""
        await self._connection.write(data)
        self._connection.keep_alive = False

    async def piece(self, data: bytes) -> None:
        """Bytes as they are, in a write of their own; the connection stays as it is."""
        self.has_begun = True
        await self._connection.write(data)
        await asyncio.sleep(0)

    def close(self, *, reset: bool = False) -> None:
        """Close the connection here and now, with a FIN or a reset."""
        self._connection.cut(reset=reset)

    def _is_11(self) -> bool:
        return self._request.version != "HTTP/1.0"

    def _head(self, status: int, headers: dict[str, str], framing: str) -> None:
        self.has_begun = True
        lines = [f"{self._request.version} {status} {REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self._connection.server.headers.items()]
        lines += [
            f"{name}: {value}" for name, value in sorted({**headers, **self.extra_headers}.items())
        ]
        if self._connection.server.sends_date:
            lines.append(f"Date: {email.utils.formatdate(clock.now_s(), usegmt=True)}")
        if framing:
            lines.append(framing)
        if not self._connection.keep_alive and self._is_11():
            lines.append("Connection: close")
        self._connection.buffer_head("\r\n".join(lines).encode() + b"\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One client. Requests are answered one after another; bytes that come early wait."""

    def __init__(self, server: "HttpServer") -> None:
        self.server = server
        self.keep_alive = True
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head = b""
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self._current: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.server.connections.add(self)
        self.server.accepted += 1
        tasks.spawn(self._serve(), name="fake connection")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._news.set()

    def eof_received(self) -> bool:
        self._gone()
        return True  # the answer to a cut body still goes out

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._writable.set()
        self._gone()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _gone(self) -> None:
        self._ended = True
        self._news.set()
        if self._current is not None:
            self._current.cancel()

    def buffer_head(self, head: bytes) -> None:
        self._head = head

    async def write(self, data: bytes) -> None:
        """Head and first body bytes leave in one write, later ones as they come."""
        data, self._head = self._head + data, b""
        if data and self._transport is not None:
            self._transport.write(data)
        await self._writable.wait()
        if self._transport is None:
            raise asyncio.CancelledError

    def cut(self, *, reset: bool) -> None:
        self.keep_alive = False
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if reset and sock is not None:
            linger_zero = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
            self._transport.abort()
        else:
            self._transport.close()

    async def _serve(self) -> None:
        try:
            while self.keep_alive and self._transport is not None:
                request = await self._next_request()
                if request is None:
                    break
                await self._answer(request)
        except MalformedError as bad:
            text = str(bad).encode()
            await self.write(
                b"HTTP/1.1 " + text + b"\r\nContent-Type: text/plain; charset=utf-8\r\n"
                b"Connection: close\r\n\r\n" + text
            )
        finally:
            self.server.connections.discard(self)
            if self._transport is not None:
                self._transport.close()

    async def _answer(self, request: Request) -> None:
        wants_close = request.header("connection").lower() == "close"
        if wants_close or request.version == "HTTP/1.0":
            self.keep_alive = False
        work = tasks.spawn(self._run(request), name=f"fake {request.target}")
        if not request.is_cut:
            self._current = work
            if self._ended:
                work.cancel()
        try:
            await asyncio.wait([work])
        finally:
            self._current = None
        if work.cancelled():
            self.cut(reset=False)

    async def _run(self, request: Request) -> None:
        await self.server.answer(request, Reply(self, request))

    async def _next_request(self) -> Request | None:
        head = await self._take_head()
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise MalformedError("400 Bad Request")
        headers = tuple(_header(line) for line in lines[1:])
        names = {name.lower(): value for name, value in headers}
        if words[2] == "HTTP/1.1" and "host" not in names:
            raise MalformedError("400 Bad Request: missing required Host header")
        if names.get("expect", "").lower() == "100-continue":
            await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, is_cut = await self._take_body(names)
        return Request(words[0], words[1], words[2], headers, body, is_cut)

    async def _take_head(self) -> bytes | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if self._ended or len(self._buffer) > 1 << 20:
                return None
            await self._more()
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return head

    async def _take_body(self, headers: dict[str, str]) -> tuple[bytes, bool]:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return await self._take_chunks()
        return await self._take(int(headers.get("content-length", "0")))

    async def _take(self, size: int) -> tuple[bytes, bool]:
        while len(self._buffer) < size and not self._ended:
            await self._more()
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        return body, len(body) < size

    async def _take_chunks(self) -> tuple[bytes, bool]:
        body = bytearray()
        while True:
            while (end := self._buffer.find(b"\r\n")) < 0:
                if self._ended:
                    return bytes(body), True
                await self._more()
            size = int(bytes(self._buffer[:end]).partition(b";")[0], 16)
            del self._buffer[: end + 2]
            data, is_cut = await self._take(size + 2)
            body += data[:size]
            if is_cut or size == 0:
                return bytes(body), is_cut

    async def _more(self) -> None:
        self._news.clear()
        await self._news.wait()


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise MalformedError("400 Bad Request")
    return name, value.strip()


@dataclass
class HttpServer:
    """Listens, and can stop listening and start again on the same port."""

    answer: Answer
    headers: dict[str, str] = field(default_factory=dict)
    sends_date: bool = True
    host: str = "127.0.0.1"
    port: int = 0
    accepted: int = 0
    connections: set[Connection] = field(default_factory=set)
    _listener: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self), self.host, self.port, backlog=1024, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the listening socket: new connections are refused, open ones are reset."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self.connections):
            connection.cut(reset=True)

    async def stop(self) -> None:
        await self.refuse()
        deadline = clock.monotonic_s() + 2
        while self.connections and clock.monotonic_s() < deadline:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.005)
