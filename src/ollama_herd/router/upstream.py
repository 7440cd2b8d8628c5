"""Pooled connections to engines: the only module of the router that opens them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import structlog

from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Endpoint
from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.connection import EngineConnection, Patience, UpstreamFailed
from ollama_herd.router.keeping import KEPT_TOTAL_BYTES, Keeping
from ollama_herd.tasks import cancel_and_wait, spawn

__all__ = ["EngineConnection", "LongBody", "UploadConnection", "Upstream", "UpstreamFailed"]

IDLE_EXPIRY_S = 4.0
"""llama.cpp's server closes idle connections after 5 s; Ollama never does."""

RESTED_S = 1.0
"""An engine that closes a connection used more recently than this has failed; one that closes it
later may only have thought it idle."""

IDLE_PER_ENDPOINT = 64
"""Idle connections kept to one engine; more than any engine's slots, small for its sockets."""


SEND_STALL_S = 60.0
"""An engine that takes no byte of a long body for so long has stopped reading."""


DIRECT_S = 2.0
"""How long the direct way may take where there is another one: a lost packet is sent anew after
one second. A firewall that drops packets costs this once in DETOUR_S."""

DETOUR_S = 300.0
"""So long the relay is used at once after the direct way was closed."""

_log = structlog.get_logger(__name__)


class LongBody(Protocol):
    """A request body that is sent piece by piece, as often as it has to be."""

    def pieces(self) -> AsyncIterator[bytes]:
        """All of it, from the start."""


class UploadConnection(EngineConnection):
    """A connection whose request body is written piece by piece."""

    __slots__ = ("_writable", "is_whole")

    def __init__(self) -> None:
        super().__init__()
        self.is_whole = True  # False: the rest of the request body was never sent
        self._writable = asyncio.Event()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        super().connection_lost(exc)

    def is_reusable(self) -> bool:
        return self.is_whole and super().is_reusable()

    async def write(self, data: bytes) -> bool:
        """Send and wait until there is room for more; False when nobody takes it any more."""
        if self.lost is not None or self.transport.is_closing():
            return False
        self.transport.write(data)
        await self._writable.wait()
        return self.lost is None


class Upstream:
    """The pools. `connect_timeout_s` bounds the opening of a connection and its tunnel, `keeping`
    what is kept of all answers under way.
    """

    def __init__(self, connect_timeout_s: float, keeping: Keeping | None = None) -> None:
        self._connect_timeout_s = connect_timeout_s
        self.keeping = keeping or Keeping(KEPT_TOTAL_BYTES)
        self._idle: dict[Endpoint, deque[EngineConnection]] = {}
        self._busy: set[EngineConnection] = set()
        self._detours: dict[Endpoint, float] = {}  # until when the direct way is not tried

    def idle_connection(self, endpoint: Endpoint) -> EngineConnection | None:
        """A connection that is open and free, the latest used first."""
        idle = self._idle.get(endpoint)
        while idle:
            connection = idle.pop()
            if connection.lost is None:
                connection.reused = True
                return connection
        return None

    async def connect(
        self, endpoint: Endpoint, connection: EngineConnection | None = None
    ) -> EngineConnection:
        """A new connection (`connection` itself if given); UpstreamFailed(UNREACHABLE) when there
        is none in time.
        """
        connection = connection or EngineConnection()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if endpoint.detour is None or not await self._is_direct(endpoint, connection):
                    await _open(_by_relay(endpoint), connection)
                    if endpoint.detour is not None:
                        self._note_detour(endpoint)
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

    async def _is_direct(self, endpoint: Endpoint, connection: EngineConnection) -> bool:
        """Try the direct way to an engine that has another one; False when that should be taken."""
        if self._detours.get(endpoint, 0.0) > monotonic_s():
            return False
        try:
            async with asyncio.timeout(min(DIRECT_S, self._connect_timeout_s / 2)):
                await _open(endpoint, connection)
        except OSError:  # TimeoutError is one
            return False
        self._detours.pop(endpoint, None)
        return True

    def _note_detour(self, endpoint: Endpoint) -> None:
        now_s = monotonic_s()
        until_s = self._detours.get(endpoint)
        if until_s is None:
            where = f"{endpoint.host}:{endpoint.port}"
            _log.warning("engine reached through its node's relay only", address=where)
        if until_s is None or until_s <= now_s:
            self._detours[endpoint] = now_s + DETOUR_S

    async def send(
        self, endpoint: Endpoint, head: bytes, body: bytes, patience: Patience | None = None
    ) -> EngineConnection:
        """Send a request and wait for the response head; the connection carries the rest.

        Where that takes longer than `patience` the connection comes back not `answered`: its
        request is still under way, and `head_came` waits on. Whatever comes back is released in
        the end. A connection that had rested and turns out to be closed is replaced: the engine
        had let it go before it read the request. Raises UpstreamFailed.
        """
        while True:
            connection = self.idle_connection(endpoint) or await self.connect(endpoint)
            self._busy.add(connection)
            sent_s = monotonic_s()
            answered = connection.send(head, body)
            connection.patience = patience
            try:
                await answered
            except UpstreamFailed as failure:
                self._busy.discard(connection)
                rested = connection.reused and sent_s - connection.idle_since_s >= RESTED_S
                if rested and failure.outcome is OutcomeKind.CLOSED_EARLY:
                    continue
                raise
            except asyncio.CancelledError:
                self._busy.discard(connection)
                connection.close()
                raise
            return connection

    async def send_long(
        self, endpoint: Endpoint, head: bytes, body: LongBody, patience: Patience | None = None
    ) -> EngineConnection:
        """`send` for a body that is not held: the engine's reading sets the pace.

        An engine that answers before it has read everything is heard at once. Its silence counts
        from the body's last byte on.
        """
        connection = UploadConnection()
        await self.connect(endpoint, connection)
        self._busy.add(connection)
        answered = connection.send(head, b"")
        answered.add_done_callback(_retrieve)  # also where nobody waits for it any more
        sending = spawn(_send_all(connection, body), name="long body")
        try:
            await asyncio.wait([sending, answered], return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not answered.done():
                failure = sending.result()
                if failure is not None:
                    raise failure
                connection.patience = patience
            await answered
        except BaseException:
            self._busy.discard(connection)
            connection.close()
            raise
        finally:
            connection.is_whole = sending.done()
            await cancel_and_wait(sending)
        return connection

    def release(self, endpoint: Endpoint, connection: EngineConnection) -> None:
        """Back into the pool if another request can follow on it, closed otherwise."""
        self._busy.discard(connection)
        is_reusable = connection.is_reusable()
        connection.let_go()
        if not is_reusable:
            connection.close()
            return
        connection.idle_since_s = monotonic_s()
        idle = self._idle.get(endpoint)
        if idle is None:
            idle = self._idle[endpoint] = deque()
        idle.append(connection)
        if len(idle) > IDLE_PER_ENDPOINT:
            idle.popleft().close()

    def pass_time(self, passed_s: float) -> None:
        """Let the silence of engines be noticed, and keep what is kept of their answers in bounds;
        call it every `passed_s` seconds.
        """
        for connection in list(self._busy):
            connection.pass_time(passed_s)
        self.keeping.look(self._busy)

    def expire(self, now_s: float) -> None:
        """Close what has been idle too long; forget engines that are gone."""
        for endpoint, idle in list(self._idle.items()):
            while idle and (
                idle[0].lost is not None or now_s - idle[0].idle_since_s > IDLE_EXPIRY_S
            ):
                idle.popleft().close()
            if not idle:
                del self._idle[endpoint]
        for endpoint, until_s in list(self._detours.items()):
            if now_s > until_s + DETOUR_S:
                del self._detours[endpoint]

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


async def _send_all(connection: UploadConnection, body: LongBody) -> UpstreamFailed | None:
    """The failure when the engine stops reading without a word."""
    async for piece in body.pieces():
        try:
            async with asyncio.timeout(SEND_STALL_S):
                taken = await connection.write(piece)
        except TimeoutError:
            detail = f"it read no byte of the request for {SEND_STALL_S:g} s"
            return UpstreamFailed(OutcomeKind.SILENT, detail)
        if not taken:
            break  # the engine has answered, or is gone: its answer tells
    return None


def _retrieve(answered: asyncio.Future[None]) -> None:
    if not answered.cancelled():
        answered.exception()


def _by_relay(endpoint: Endpoint) -> Endpoint:
    """The way to take when there is no direct one; the endpoint itself when it knows no other."""
    way = endpoint.detour
    if way is None:
        return endpoint
    return Endpoint(endpoint.host, way.port, way.tunnel, way.key)


async def _open(endpoint: Endpoint, connection: EngineConnection) -> None:
    await asyncio.get_running_loop().create_connection(
        lambda: connection, endpoint.host, endpoint.port
    )
    if endpoint.tunnel:
        await connection.open_tunnel(endpoint.tunnel, endpoint.key)
