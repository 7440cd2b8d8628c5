"""One connection to an engine: a request goes out, a response comes back, again and again.

The response is parsed only for its framing and its head (`headers` are those that go on to the
client); body bytes go to the reply as they come, and their end is kept for the end marker and the
token counts, or all of them where the answer might have to be continued elsewhere.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import httptools

from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.head import KnownHead
from ollama_herd.router.reply import HOP_BY_HOP

TAIL_BYTES = 8192
"""How much of an answer's end is looked at: a final object with its counts is under 1 KB, a
tool call's last line may be longer."""

MAX_HEAD_BYTES = 65536
"""Bound on an engine's response head, so that garbage cannot fill the memory."""


PIECE_BYTES = 64
"""What Python needs for a piece of bytes beside the bytes."""

NOT_FOR_CLIENTS = HOP_BY_HOP | {b"vary"}
"""Response headers that stop here."""

NOT_OF_ENGINES = (b"access-control-", b"x-herd-")
"""How headers begin that are the router's to say: an engine may be a herd itself."""


EVENTS = b"text/event-stream"
LLAMACPP = (b"Server", b"llama.cpp")
"""llama.cpp's server closes a connection behind each stream, though it said it would keep it
(measured: always, in mid-2026). A request that comes first would be lost."""


class UpstreamFailed(Exception):  # noqa: N818 - a failed attempt is an outcome, not a defect
    """No usable response head came. `outcome` says how, `detail` what was seen."""

    def __init__(self, outcome: OutcomeKind, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class Beside(Protocol):
    """What is kept of a response outside of its connection. `size` in bytes."""

    size: int

    def let_go(self) -> None: ...


Patience = Callable[["EngineConnection"], float]
"""Seconds of silence that are nothing to worry about, in the state the connection is in."""


class EngineConnection(asyncio.Protocol):
    """One TCP connection to an engine, reused for request after request."""

    __slots__ = (
        "_done",
        "_end_bytes",
        "_head",
        "_head_bytes",
        "_heard",
        "_keep",
        "_known",
        "_known_headers",
        "_loop",
        "_on_body",
        "_parser",
        "_paused",
        "_pending",
        "_tail",
        "_tail_bytes",
        "_tunnel_head",
        "_until_close",
        "answered",
        "beside",
        "complete",
        "content_type",
        "headers",
        "idle_since_s",
        "kept_bytes",
        "length",
        "lost",
        "patience",
        "reused",
        "silent_s",
        "stalled",
        "status",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport = _UNCONNECTED
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._known = KnownHead()
        self._known_headers: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
        self._head: asyncio.Future[None] | None = None
        self._done: asyncio.Future[None] | None = None
        self._on_body: Callable[[bytes], None] | None = None
        self._pending: list[bytes] = []
        self._tunnel_head: bytearray | None = None
        self._reset()
        self.lost: str | None = None
        self.reused = False
        self.idle_since_s = 0.0
        self._paused = False

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
        self._end_bytes = 2 * TAIL_BYTES  # unknown: the first look at it cuts
        self.kept_bytes = 2 * TAIL_BYTES
        self.beside: Beside | None = None
        self.patience: Patience | None = None
        self.silent_s = 0.0
        self.stalled = False
        self._heard = -1

    # --- driving -------------------------------------------------------------------------

    async def open_tunnel(self, engine_id: str, key: str) -> None:
        """Ask the node's relay for a byte pipe to one of its engines."""
        self._head = self._loop.create_future()
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
        self._head = self._loop.create_future()
        if len(body) <= 16384:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        return self._head

    async def head_came(self) -> None:
        """Wait on for the response head of a request whose silence was noticed; may fail."""
        if self.answered:
            return
        if self.lost is not None:
            raise UpstreamFailed(OutcomeKind.CLOSED_EARLY, self.lost)
        self._head = self._loop.create_future()
        await self._head

    def pass_time(self, passed_s: float) -> None:
        """Called now and then: notices a silence by what came since, so that no read pays for it.

        Before the response head, the sender is woken, and finds the connection not `answered`.
        After it, the response is given up as `stalled`.
        """
        heard = self._tail_bytes + self.answered
        if heard != self._heard or self._paused:  # paused: it is the client who is slow
            self._heard = heard
            self.silent_s = 0.0
            return
        self.silent_s += passed_s
        if self.complete or self.patience is None or self.silent_s < self.patience(self):
            return
        if self.answered:
            self.stalled = True
            self._fail(OutcomeKind.SILENT, f"no byte for {self.silent_s:.0f} s")
        elif self._head is not None and not self._head.done():
            self.patience = None
            self._head.set_result(None)

    def relay(self, on_body: Callable[[bytes], None]) -> None:
        """From now on give every piece of the body to `on_body`, those already here first."""
        self._on_body = on_body
        if self._pending:
            self._deliver(on_body)

    def first_piece(self) -> bytes:
        """What has come of the body and was not given to anybody."""
        pending = self._pending
        return pending[0] if pending else b""

    async def ended(self) -> bool:
        """Wait for the end of the response; False when it was cut short."""
        if not self.complete and self.lost is None:
            self._done = self._loop.create_future()
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
        tail = self._tail[0] if len(self._tail) == 1 else b"".join(self._tail)
        return tail if len(tail) <= TAIL_BYTES else tail[-TAIL_BYTES:]

    def kept(self) -> bytes | None:
        """The body as far as it came; None when it outgrew `kept_bytes`."""
        return None if self._tail_bytes > self.kept_bytes else b"".join(self._tail)

    @property
    def kept_size(self) -> int:
        """Bytes kept of the response for another node to go on: about what they take in memory."""
        beside = self.beside.size if self.beside is not None else 0
        if self.kept_bytes <= 2 * TAIL_BYTES or self._tail_bytes > self.kept_bytes:
            return beside
        return beside + self._tail_bytes + PIECE_BYTES * len(self._tail)

    def keep_no_more(self) -> None:
        """Only the end from now on: others need the memory."""
        if self.beside is not None:
            self.beside.let_go()
        if self._tail_bytes > 2 * TAIL_BYTES:
            self.kept_bytes = 2 * TAIL_BYTES
            self._tail = [self.tail()]
            self._end_bytes = TAIL_BYTES

    @property
    def pieces(self) -> int:
        """How many reads brought body, as far as they are kept; about one a token."""
        return len(self._tail)

    @property
    def frames(self) -> int:
        """How many lines or events of a stream have come, as far as its tail shows."""
        return self.tail().count(b"\n\n" if self.content_type == EVENTS else b"\n")

    def is_reusable(self) -> bool:
        if self.content_type == EVENTS and LLAMACPP in self.headers:
            return False
        return self.complete and self._keep and self.lost is None

    def let_go(self) -> None:
        """Nobody listens any more; bytes that come now belong to no request."""
        self._on_body = None
        self.patience = None
        self.beside = None
        self._tail = []
        if self._pending:  # nobody wanted it, and the next one must not get it
            self._pending.clear()

    def close(self) -> None:
        """End at once: an engine stops generating when its client is gone."""
        self._on_body = None
        self._pending.clear()
        self.transport.abort()

    def pause(self) -> None:
        self._paused = True
        if self.lost is None:
            self.transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self.lost is None:
            self.transport.resume_reading()

    # --- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # TCP gives no other kind

    def data_received(self, data: bytes) -> None:
        is_body = self.answered and not self.complete  # as most reads are
        if not is_body and self._has_taken(data):
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
        if not self.answered:
            self._head_bytes += len(data)
        if self.complete:
            self._finish()
            if not is_body and not self._head_bytes and self._keep:  # all of it in one read
                self._remember(data)

    def _has_taken(self, data: bytes) -> bool:
        """Whether a read before the answer's body is known to be no matter of the parser's."""
        if self._tunnel_head is not None:
            self._tunnel_answered(data)
            return True
        if self.complete or self._head is None or self._head_bytes > MAX_HEAD_BYTES:
            self._fail(OutcomeKind.GARBAGE, "the engine sent bytes that belong to no request")
            return True
        return not self._head_bytes and self._answered_as_before(data)

    def _answered_as_before(self, data: bytes) -> bool:
        """Take a whole answer whose head is the one remembered; the parser need not see it."""
        known = self._known
        end = known.end_in(data)
        if not end or not known.length or len(data) - end != known.length:
            return False
        self.status = 200
        self.headers, self.content_type = self._known_headers
        self.length = known.length
        self.answered = self.complete = self._keep = True
        self._pending.append(data[end:])
        if self._on_body is not None:
            self._deliver(self._on_body)
        if self._head is not None and not self._head.done():
            self._head.set_result(None)
        return True

    def _remember(self, data: bytes) -> None:
        """Short answers of an engine have the same head again and again, within a second."""
        if self.status == 200 and self.length is not None and data.startswith(b"HTTP/1.1 200 "):
            self._known.learn(data[: data.find(b"\r\n\r\n") + 4])
            self._known_headers = self.headers, self.content_type

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
            self.headers = []
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
            elif name not in NOT_FOR_CLIENTS and not name.startswith(NOT_OF_ENGINES):
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
        if self._tail_bytes > self.kept_bytes:
            self._forget(payload)
        else:
            self._tail.append(payload)
        on_body(payload)

    def _forget(self, payload: bytes) -> None:
        """Keep only the end from now on; `_tail_bytes` goes on counting."""
        self._tail.append(payload)
        self._end_bytes += len(payload)
        if self._end_bytes > 2 * TAIL_BYTES:
            self._tail = [self.tail()]
            self._end_bytes = TAIL_BYTES

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
            if len(head) > MAX_HEAD_BYTES:
                self._fail(OutcomeKind.UNREACHABLE, "the node's relay answered without end")
            return
        self._tunnel_head = None
        status_line = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 200 " in f"{status_line} ":
            self._head.set_result(None)
        else:
            self._fail(OutcomeKind.UNREACHABLE, f"the node's relay answered {status_line}")


class _Unconnected(asyncio.Transport):
    """Before `connection_made`: closing nothing is not an error."""

    def abort(self) -> None:
        pass


_UNCONNECTED: Any = _Unconnected()
