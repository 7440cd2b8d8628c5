"""Pooled connections to engines: the only module of the router that opens them.

One connection carries one request at a time. The response is parsed only for its framing and its
head (`headers` are those that go on to the client); body bytes go to the reply as they come, and
their end is kept for the end marker and the token counts.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools

from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Endpoint
from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.reply import HOP_BY_HOP

IDLE_EXPIRY_S = 4.0
"""llama.cpp's server closes idle connections after 5 s; Ollama never does."""

IDLE_PER_ENDPOINT = 64
"""Idle connections kept to one engine; more than any engine's slots, small for its sockets."""

TAIL_BYTES = 8192
"""How much of an answer's end is looked at: a final object with its counts is under 1 KB, a
tool call's last line may be longer."""

MAX_HEAD_BYTES = 65536
"""Bound on an engine's response head, so that garbage cannot fill the memory."""


NOT_FOR_CLIENTS = HOP_BY_HOP | {b"vary"}
"""Response headers that stop here, with those of the engine's own CORS answer."""


class UpstreamFailed(Exception):  # noqa: N818 - a failed attempt is an outcome, not a defect
    """No usable response head came. `outcome` says how, `detail` what was seen."""

    def __init__(self, outcome: OutcomeKind, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class EngineConnection(asyncio.Protocol):
    """One TCP connection to an engine, reused for request after request."""

    __slots__ = (
        "_done",
        "_head",
        "_head_bytes",
        "_keep",
        "_on_body",
        "_parser",
        "_pending",
        "_tail",
        "_tail_bytes",
        "_tunnel_head",
        "_until_close",
        "answered",
        "complete",
        "content_type",
        "headers",
        "idle_since_s",
        "length",
        "lost",
        "reused",
        "status",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport = _UNCONNECTED
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[None] | None = None
        self._done: asyncio.Future[None] | None = None
        self._on_body: Callable[[bytes], None] | None = None
        self._pending: list[bytes] = []
        self._tunnel_head: bytearray | None = None
        self._reset()
        self.lost: str | None = None
        self.reused = False
        self.idle_since_s = 0.0

    def _reset(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.content_type = b""
        self.length: int | None = None
        self.complete = False
        self.answered = False
        self._head_bytes = 0
        self._keep = False
        self._until_close = False
        self._tail: list[bytes] = []
        self._tail_bytes = 0

    # --- driving -------------------------------------------------------------------------

    async def open_tunnel(self, engine_id: str, key: str) -> None:
        """Ask the node's relay for a byte pipe to one of its engines."""
        self._head = asyncio.get_running_loop().create_future()
        self._tunnel_head = bytearray()
        self.transport.write(
            f"CONNECT {engine_id} HTTP/1.1\r\nHost: {engine_id}\r\n"
            f"Authorization: Bearer {key}\r\n\r\n".encode()
        )
        await self._head
        self._head = None

    def send(self, head: bytes, body: bytes) -> asyncio.Future[None]:
        """Send a request; the future is done when the response head is there.

        It fails with UpstreamFailed when the connection ends first.
        """
        self._reset()
        self._head = asyncio.get_running_loop().create_future()
        if len(body) <= 16384:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        return self._head

    def relay(self, on_body: Callable[[bytes], None]) -> None:
        """From now on give every piece of the body to `on_body`, those already here first."""
        self._on_body = on_body
        if self._pending:
            self._deliver(on_body)

    async def ended(self) -> bool:
        """Wait for the end of the response; False when it was cut short."""
        if not self.complete and self.lost is None:
            self._done = asyncio.get_running_loop().create_future()
            await self._done
            self._done = None
        return self.complete

    async def read_all(self, limit_bytes: int) -> bytes | None:
        """The whole body, or None when it is cut short or longer than the limit."""
        parts: list[bytes] = []
        size = 0

        def collect(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size <= limit_bytes:
                parts.append(data)

        self.relay(collect)
        whole = await self.ended()
        return b"".join(parts) if whole and size <= limit_bytes else None

    def tail(self) -> bytes:
        """The last TAIL_BYTES of the body."""
        return b"".join(self._tail)[-TAIL_BYTES:]

    def is_reusable(self) -> bool:
        return self.complete and self._keep and self.lost is None

    def let_go(self) -> None:
        """Nobody listens any more; bytes that come now belong to no request."""
        self._on_body = None

    def close(self) -> None:
        """End at once: an engine stops generating when its client is gone."""
        self._on_body = None
        self._pending.clear()
        self.transport.abort()

    def pause(self) -> None:
        if self.lost is None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.lost is None:
            self.transport.resume_reading()

    # --- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._tunnel_head is not None:
            self._tunnel_answered(data)
            return
        if not self.answered:
            self._head_bytes += len(data)
        is_over = self.complete
        if is_over or self._head is None or self._head_bytes > MAX_HEAD_BYTES:
            self._fail(OutcomeKind.GARBAGE, "the engine sent bytes that belong to no request")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(OutcomeKind.GARBAGE, "the engine answered with an upgrade")
            return
        except httptools.HttpParserError as error:
            self._fail(OutcomeKind.GARBAGE, f"the engine's answer is not HTTP ({error})")
            return
        if self._pending and self._on_body is not None:
            self._deliver(self._on_body)
        if self.complete:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = str(exc) if exc else "the engine closed the connection"
        if self.answered and self._until_close and exc is None:
            self.complete = True
        if self._head is not None and not self._head.done():
            outcome = OutcomeKind.CLOSED_EARLY
            self._head.set_exception(UpstreamFailed(outcome, self.lost))
        self._finish()

    # --- httptools callbacks ---------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:  # a second answer to one request: this connection is of no more use
            self._keep = False
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:  # 100 Continue and the like: the real head comes later
            self.headers.clear()
            return
        chunked = self._sort_headers()
        if chunked:
            self.length = None
        elif self.length is None:
            self._until_close = self.status not in (204, 304)
        self.answered = True
        if self._head is not None and not self._head.done():
            self._head.set_result(None)

    def _sort_headers(self) -> bool:
        """Keep what goes on to the client, note what frames the body; True when it is chunked."""
        chunked = False
        passed = []
        for header in self.headers:
            name = header[0].lower()
            if name == b"content-length":
                self.length = int(header[1])
            elif name == b"transfer-encoding":
                chunked = True
            elif name not in NOT_FOR_CLIENTS and not name.startswith(b"access-control-"):
                passed.append(header)
                if name == b"content-type":
                    self.content_type = header[1]
        self.headers = passed
        return chunked

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._pending.append(data)

    def on_message_complete(self) -> None:
        if self.status >= 200 and not self.complete:
            self.complete = True
            self._keep = self._parser.should_keep_alive()

    # --- inner -----------------------------------------------------------------------------

    def _deliver(self, on_body: Callable[[bytes], None]) -> None:
        pending = self._pending
        payload = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        self._tail_bytes += len(payload)
        if self._tail_bytes > 2 * TAIL_BYTES:
            self._tail = [self.tail(), payload] if len(payload) < TAIL_BYTES else [payload]
            self._tail_bytes = sum(map(len, self._tail))
        else:
            self._tail.append(payload)
        on_body(payload)

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, outcome: OutcomeKind, detail: str) -> None:
        if self._head is not None and not self._head.done():
            self._head.set_exception(UpstreamFailed(outcome, detail))
        self.lost = self.lost or detail
        self._finish()
        self.transport.abort()

    def _tunnel_answered(self, data: bytes) -> None:
        """The relay's answer to CONNECT, read by hand: a pipe follows it, not a body."""
        buffer = self._tunnel_head
        if buffer is None or self._head is None:
            return
        buffer += data
        head, found, _ = bytes(buffer).partition(b"\r\n\r\n")
        if not found:
            return
        self._tunnel_head = None
        status_line = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 200 " in f"{status_line} ":
            self._head.set_result(None)
        else:
            self._fail(OutcomeKind.UNREACHABLE, f"the node's relay answered {status_line}")


class Upstream:
    """The pools. `connect_timeout_s` bounds the opening of a connection and its tunnel."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Endpoint, deque[EngineConnection]] = {}

    def idle_connection(self, endpoint: Endpoint) -> EngineConnection | None:
        """A connection that is open and free, the latest used first."""
        idle = self._idle.get(endpoint)
        while idle:
            connection = idle.pop()
            if connection.lost is None:
                connection.reused = True
                return connection
        return None

    async def connect(self, endpoint: Endpoint) -> EngineConnection:
        """A new connection; UpstreamFailed(UNREACHABLE) when there is none in time."""
        connection = EngineConnection()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, endpoint.host, endpoint.port
                )
                if endpoint.tunnel:
                    await connection.open_tunnel(endpoint.tunnel, endpoint.key)
        except TimeoutError:
            connection.close()
            detail = f"no connection within {self._connect_timeout_s:g} s"
            raise UpstreamFailed(OutcomeKind.UNREACHABLE, detail) from None
        except OSError as error:
            raise UpstreamFailed(OutcomeKind.UNREACHABLE, str(error)) from None
        except BaseException:
            connection.close()
            raise
        return connection

    async def send(self, endpoint: Endpoint, head: bytes, body: bytes) -> EngineConnection:
        """Send a request and wait for the response head; the connection carries the rest.

        A reused connection that turns out to be closed is replaced by a new one: the engine had
        let it go before it read the request. Raises UpstreamFailed.
        """
        while True:
            connection = self.idle_connection(endpoint) or await self.connect(endpoint)
            try:
                await connection.send(head, body)
            except UpstreamFailed as failure:
                if connection.reused and failure.outcome is OutcomeKind.CLOSED_EARLY:
                    continue
                raise
            except asyncio.CancelledError:
                connection.close()
                raise
            return connection

    def release(self, endpoint: Endpoint, connection: EngineConnection) -> None:
        """Back into the pool if another request can follow on it, closed otherwise."""
        if not connection.is_reusable():
            connection.close()
            return
        connection.let_go()
        connection.idle_since_s = monotonic_s()
        idle = self._idle.setdefault(endpoint, deque())
        idle.append(connection)
        if len(idle) > IDLE_PER_ENDPOINT:
            idle.popleft().close()

    def expire(self, now_s: float) -> None:
        """Close what has been idle too long; forget engines that are gone."""
        for endpoint, idle in list(self._idle.items()):
            while idle and (
                idle[0].lost is not None or now_s - idle[0].idle_since_s > IDLE_EXPIRY_S
            ):
                idle.popleft().close()
            if not idle:
                del self._idle[endpoint]

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class _Unconnected(asyncio.Transport):
    """Before `connection_made`: closing nothing is not an error."""

    def abort(self) -> None:
        pass


_UNCONNECTED: Any = _Unconnected()
