"""What the request path needs of a client's connection, whoever holds it.

`wire` implements it on the raw protocol, `slow` on an aiohttp response. Calls come from one loop
and never block: a reply that cannot keep up pauses its source instead.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 §7.6.1: meant for one connection only, so never passed on."""


class Source(Protocol):
    """Where a reply's bytes come from; paused while the client does not read."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Reply(Protocol):
    """One answer to one client. `start` once, `write` any number of times, then `finish`.

    `length` is the body's length in bytes, None when it is not known (the reply then frames the
    body itself). `abort` closes the connection so that nobody takes the answer for complete.
    """

    started: bool

    def start(self, status: int, headers: Headers, length: int | None) -> None: ...

    def write(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...

    def draw_from(self, source: Source | None) -> None: ...


def answer(reply: Reply, status: int, content_type: bytes, body: bytes, more: Headers = ()) -> None:
    """A whole answer of our own in one write. One without a body has no type."""
    kind = ((b"Content-Type", content_type),) if body else ()
    reply.start(status, [*kind, *more], len(body))
    if body:
        reply.write(body)
    reply.finish()
