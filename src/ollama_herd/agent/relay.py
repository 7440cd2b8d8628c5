"""The relay: lets the router reach engines that listen on this machine's loopback only.

One TCP connection is one tunnel. The router shows the relay's key and names an engine; from then
on bytes are passed unread both ways. Every token of a generation goes through here, so a piece
that arrives is written to the other side by the transport itself, with no Python code between.
"""

import asyncio
import hmac
import socket
from collections.abc import Callable
from typing import cast

import structlog

from ollama_herd.agent.errors import AgentError
from ollama_herd.agent.relay_head import parse_head
from ollama_herd.agent.tunnel import EngineEnd, Tunnel
from ollama_herd.clock import monotonic_s
from ollama_herd.engines.address import EngineAddress
from ollama_herd.tasks import cancel_and_wait, spawn

_log = structlog.get_logger(__name__)

MAX_HEAD_BYTES = 8192
"""The router's head has three lines; anything near this is not the router."""

HEAD_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0

MAX_TUNNELS = 4096
"""Far more requests than the engines of one machine run; bounds descriptors and memory."""

MAX_STRANGERS = 256
"""Connections that have not shown a key yet. Above it the oldest goes: the router shows its key
in the first packet, so the oldest is never the router."""

MAX_EARLY_BYTES = 65536
"""What a client may send behind its head while the engine is being connected."""

REFUSED_LINGER_S = 1.0
"""How long a refused client may take to read why: closing with its data unread would make the
system drop the answer."""

WRONG_KEY_LOG_S = 60.0
"""At most one log line about wrong keys in this time, whatever a scanner does."""

_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class Relay:
    """`find` gives the address of an engine by its id, None when there is no such engine."""

    def __init__(self, key: str, find: Callable[[str], EngineAddress | None]) -> None:
        self._bearer = f"Bearer {key}".encode()
        self._find = find
        self._server: asyncio.Server | None = None
        self._doors: set[_Door] = set()  # all that are no tunnels yet, or never will be
        self._strangers: dict[_Door, None] = {}  # in order of arrival
        self._tunnels: set[Tunnel] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._complained_s = -WRONG_KEY_LOG_S

    @property
    def tunnel_count(self) -> int:
        """Tunnels open now, those that wait for their engine included."""
        return len(self._tunnels) + len(self._connecting)

    def buffered_bytes(self) -> int:
        """Bytes read from one side of a tunnel and not yet written to the other."""
        return sum(tunnel.buffered_bytes() for tunnel in self._tunnels)

    @property
    def stranger_count(self) -> int:
        return len(self._strangers)

    async def start(self, port: int, *, host: str | None = None) -> int:
        """Listen; gives the real port. Raises AgentError when the port cannot be had.

        Without `host` it is every address of the machine.
        """
        loop = asyncio.get_running_loop()
        try:
            listening = _listen(port, host)
            self._server = await loop.create_server(lambda: _Door(self), sock=listening)
        except OSError as error:
            raise AgentError(
                f"the relay cannot listen on port {port}: {error.strerror}. If another herd-node "
                "runs on this machine, stop it; else choose another port with --relay-port"
            ) from None
        return int(listening.getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut every tunnel."""
        if self._server is not None:
            self._server.close()
        for door in list(self._doors):
            door.cut()
        await cancel_and_wait(*self._connecting)
        for tunnel in list(self._tunnels):
            tunnel.cut()

    # --- for _Door -----------------------------------------------------------------------

    def arrived(self, door: "_Door") -> None:
        if len(self._strangers) >= MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            self.known(oldest)
            oldest.cut()
        self._doors.add(door)
        self._strangers[door] = None

    def known(self, door: "_Door") -> None:
        self._strangers.pop(door, None)

    def left(self, door: "_Door") -> None:
        self._doors.discard(door)

    def may_enter(self, authorization: bytes, peer: object) -> bool:
        if hmac.compare_digest(authorization, self._bearer):
            return True
        now_s = monotonic_s()
        if now_s - self._complained_s >= WRONG_KEY_LOG_S:
            self._complained_s = now_s
            _log.warning("relay refused a connection with a wrong key", peer=str(peer))
        return False

    def open(self, door: "_Door", engine_id: str) -> "asyncio.Task[None] | tuple[int, str]":
        """Connect to the engine; a status and a text when that cannot be."""
        address = self._find(engine_id)
        if address is None:
            return 404, f"this node has no engine {engine_id!r}"
        if self.tunnel_count >= MAX_TUNNELS:
            return 503, f"this node has {MAX_TUNNELS} tunnels open already"
        task = spawn(self._connect(door, address), name=f"relay to {engine_id}")
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    async def _connect(self, door: "_Door", address: EngineAddress) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(
                    lambda: EngineEnd(lambda engine: self._join(door, engine)),
                    address.host,
                    address.port,
                )
        except TimeoutError:
            door.refuse(502, f"no connection to {address.netloc} in {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            reason = error.strerror or "connection failed"
            door.refuse(502, f"no connection to {address.netloc}: {reason}")

    def _join(self, door: "_Door", engine: asyncio.Transport) -> None:
        if door.transport is None:
            engine.abort()
            return
        tunnel = Tunnel(door.transport, engine, self._tunnels.discard)
        self._tunnels.add(tunnel)
        tunnel.start(door.leave())


class _Door(asyncio.Protocol):
    """A connection that has not shown its key yet, waits for its engine, or has been refused."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._received = bytearray()
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # cast: uvloop's transports are no subclass of it, they only behave so
        self.transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(
            HEAD_TIMEOUT_S, self.refuse, 408, f"no complete head came in {HEAD_TIMEOUT_S:g} s"
        )
        self._relay.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._received += data
        if self._connecting is not None:
            if len(self._received) > MAX_EARLY_BYTES and self.transport is not None:
                self.transport.pause_reading()
            return
        end = self._received.find(b"\r\n\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._received) > MAX_HEAD_BYTES):
            self.refuse(431, f"the head is longer than {MAX_HEAD_BYTES} bytes")
        elif end >= 0:
            head = bytes(self._received[:end])
            del self._received[: end + 4]
            self._enter(head)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self.transport = None
        self._settle()
        self._relay.left(self)
        if self._connecting is not None:
            self._connecting.cancel()

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def leave(self) -> bytes:
        """What came behind the head; from now on the tunnel owns the connection."""
        self._connecting = None
        self.transport = None
        self._relay.left(self)
        early = bytes(self._received)
        self._received.clear()
        return early

    def refuse(self, status: int, reason: str) -> None:
        """Say why and close, once."""
        self._settle()
        self._connecting = None
        if self.transport is None or self._is_refused:
            return
        self._is_refused = True
        self._received.clear()
        body = f"{reason}\n".encode()
        self.transport.write(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.resume_reading()
        self.transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(REFUSED_LINGER_S, self.cut)

    def _settle(self) -> None:
        """No longer a stranger, and no longer timed."""
        self._relay.known(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _enter(self, head: bytes) -> None:
        """1. the request line, 2. the key, 3. the engine: who has no key learns nothing of 3."""
        self._settle()
        parsed = parse_head(head)
        if isinstance(parsed, tuple):
            self.refuse(*parsed)
            return
        peer = self.transport.get_extra_info("peername") if self.transport else None
        if not self._relay.may_enter(parsed.authorization, peer):
            self.refuse(
                401, "wrong key: this is the relay of a herd node, open only to its own router"
            )
            return
        opened = self._relay.open(self, parsed.engine_id)
        if isinstance(opened, tuple):
            self.refuse(*opened)
        else:
            self._connecting = opened


def _listen(port: int, host: str | None) -> socket.socket:
    """A listening socket for IPv6 and IPv4 where the system has both, else for IPv4."""
    if host is None and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError:  # IPv6 switched off; the next line says so if it is the port
            pass
    return socket.create_server((host or "0.0.0.0", port))
