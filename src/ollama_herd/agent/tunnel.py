"""Two connections spliced into one: what comes in on one side goes out on the other."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

BUFFER_BYTES = 65536
"""Above it the sending side is paused. With one read of the system's size that bounds a tunnel's
memory per direction."""

STALLED_UPLOAD_S = 60.0
"""An engine reads a request at once, long before it has time for it. One that takes no byte for
so long is hung; only then is a client that left not noticed by itself, since a paused connection
does not show its end."""

LAST_BYTES_S = 30.0
"""After the engine is done: time for the client to take what is still buffered."""

_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""Notices within a minute a machine that vanished without a word (cable, sleep)."""


class Tunnel:
    """`client` is the router's connection, `engine` ours to the engine; `ended` is called once."""

    def __init__(
        self,
        client: asyncio.Transport,
        engine: asyncio.Transport,
        ended: Callable[["Tunnel"], None],
    ) -> None:
        self._client = client
        self._engine = engine
        self._ended = ended
        self._timer: asyncio.TimerHandle | None = None

    def start(self, early: bytes) -> None:
        """Tell the client that its engine is there, and splice. `early` is for the engine."""
        for transport in (self._client, self._engine):
            transport.set_write_buffer_limits(high=BUFFER_BYTES)
            tune(transport.get_extra_info("socket"))
        self._client.write(ESTABLISHED)
        if early:
            self._engine.write(early)
        self._engine.set_protocol(
            _End(self._client, self.engine_lost, self._upload_stalls, self._upload_flows)
        )
        self._client.set_protocol(_End(self._engine, self.client_lost))
        self._client.resume_reading()  # paused if much came early

    def buffered_bytes(self) -> int:
        return self._client.get_write_buffer_size() + self._engine.get_write_buffer_size()

    def cut(self) -> None:
        self._client.abort()
        self._engine.abort()

    def client_lost(self) -> None:
        """The router gave up: the engine must notice at once, it stops generating then."""
        self._upload_flows()
        self._engine.abort()
        self._ended(self)

    def engine_lost(self) -> None:
        """What the engine said before it went still belongs to the client."""
        self._upload_flows()
        if not self._client.is_closing():
            self._client.close()
            self._timer = asyncio.get_running_loop().call_later(LAST_BYTES_S, self._client.abort)

    def _upload_stalls(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(STALLED_UPLOAD_S, self.cut)

    def _upload_flows(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _End(asyncio.Protocol):
    """One end of a tunnel. What it receives is written to `other` by `other` itself."""

    def __init__(
        self,
        other: asyncio.Transport,
        lost: Callable[[], None],
        stalls: Callable[[], None] | None = None,
        flows: Callable[[], None] | None = None,
    ) -> None:
        # An attribute in the place of a method: the event loop calls the transport directly.
        self.data_received = other.write  # type: ignore[method-assign]
        self._other = other
        self._lost = lost
        self._stalls = stalls
        self._flows = flows

    def pause_writing(self) -> None:
        """Our side takes no more: let the other side stop reading."""
        if not self._other.is_closing():
            self._other.pause_reading()
        if self._stalls is not None:
            self._stalls()

    def resume_writing(self) -> None:
        if not self._other.is_closing():
            self._other.resume_reading()
        if self._flows is not None:
            self._flows()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self._lost()


class EngineEnd(asyncio.Protocol):
    """A connection to an engine until it is up; then `joined` gives it its tunnel.

    It must happen inside connection_made: a byte of the engine may be the next event.
    """

    def __init__(self, joined: Callable[[asyncio.Transport], None]) -> None:
        self._joined = joined

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # cast: uvloop's transports are no subclass of it, they only behave so
        self._joined(cast("asyncio.Transport", transport))


def tune(connection: socket.socket | None) -> None:
    """Small pieces leave at once (a token each), and a vanished peer is noticed."""
    if connection is None:
        return
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            option = getattr(socket, name, None)
            if option is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:  # the peer went meanwhile; the transport tells
        return
