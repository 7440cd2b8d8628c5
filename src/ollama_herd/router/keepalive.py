"""Keeps the clients of event streams alive in long waits, where that is configured.

A comment goes out whenever nothing else did for so long. Before the answer has begun it takes the
head of the response with it, and so the status: from then on an error is the stream's only event.
Newline-delimited JSON has no comments, so streams of Ollama's dialect are left alone.
"""

import asyncio

from ollama_herd.api.errors import late_error
from ollama_herd.api.parse import ParsedBody
from ollama_herd.clock import monotonic_s
from ollama_herd.core.request import Dialect, Kind
from ollama_herd.router.exchange import Exchange
from ollama_herd.router.journal import CLIENT_LEFT
from ollama_herd.router.reply import Headers, Reply, Source

COMMENT = b": keep-alive\n\n"
"""A line that begins with a colon is a comment (the HTML standard, server-sent events)."""

HEAD: Headers = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-cache"),
)

EARLY = "early_head"
"""Tag of a trace whose client had the head of its answer before any engine answered."""

_BORDERS = (b"\n\n", b"\r\n\r\n")


def keep_alive(exchange: Exchange, parsed: ParsedBody, every_s: float) -> None:
    """From now on the exchange's reply is kept alive, if it will be a stream of events."""
    endpoint = exchange.endpoint
    is_text = endpoint.kind in {Kind.CHAT, Kind.GENERATE}
    if parsed.stream and is_text and endpoint.dialect is not Dialect.OLLAMA:
        exchange.reply = KeptAlive(exchange, every_s)


class KeptAlive:
    """A Reply before another one. `started` says what the request path knows of: not the head that
    went out early. `close` ends it.
    """

    def __init__(self, exchange: Exchange, every_s: float) -> None:
        self._exchange = exchange
        self._reply: Reply = exchange.reply
        self._every_s = every_s
        self._wrote_s = monotonic_s()
        self._is_early = False
        self._is_at_border = True
        self._late: list[bytes] | None = None  # the body of an answer that is no stream
        self._timer = asyncio.get_running_loop().call_later(every_s, self._look)
        self.started = False

    def close(self) -> None:
        """No more comments; the journal gets the status that the client has got."""
        self._timer.cancel()
        journal = self._exchange.journal
        if self._is_early:
            journal.tags = (*journal.tags, EARLY)
            if journal.status != CLIENT_LEFT:
                journal.status = 200

    def _look(self) -> None:
        now_s = monotonic_s()
        due_s = self._wrote_s + self._every_s
        if now_s >= due_s:
            due_s = now_s + self._every_s
            self._comment()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.01, due_s - now_s), self._look)

    def _comment(self) -> None:
        if not self.started and not self._is_early:
            self._is_early = True
            self._reply.start(200, [*HEAD, *self._exchange.more], None)
        if self._is_at_border and self._late is None:
            self._reply.write(COMMENT)

    # --- Reply -----------------------------------------------------------------------------

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self.started = True
        if not self._is_early:
            if not (status == 200 and _is_event_stream(headers)):
                self._timer.cancel()  # what is no stream of events has no comments
            self._reply.start(status, headers, length)
        elif status != 200 or length is not None or not _is_event_stream(headers):
            self._late = []

    def write(self, data: bytes) -> None:
        if self._late is not None:
            self._late.append(data)
            return
        self._wrote_s = monotonic_s()
        self._is_at_border = data.endswith(_BORDERS)
        self._reply.write(data)

    def flush(self) -> None:
        self._reply.flush()

    def finish(self) -> None:
        self._timer.cancel()
        if self._late is not None:
            endpoint = self._exchange.endpoint
            error = late_error(b"".join(self._late), endpoint.dialect, endpoint.path)
            self._reply.write(error)
        self._reply.finish()

    def abort(self) -> None:
        self._timer.cancel()
        self._reply.abort()

    def draw_from(self, source: Source | None) -> None:
        self._reply.draw_from(source)


def _is_event_stream(headers: Headers) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in headers
    )
