"""Pooled connections to engines: the only module of the router that opens them."""

import asyncio
from collections import deque

from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Endpoint
from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.connection import EngineConnection, Patience, UpstreamFailed

__all__ = ["EngineConnection", "Upstream", "UpstreamFailed"]

IDLE_EXPIRY_S = 4.0
"""llama.cpp's server closes idle connections after 5 s; Ollama never does."""

RESTED_S = 1.0
"""An engine that closes a connection used more recently than this has failed; one that closes it
later may only have thought it idle."""

IDLE_PER_ENDPOINT = 64
"""Idle connections kept to one engine; more than any engine's slots, small for its sockets."""


class Upstream:
    """The pools. `connect_timeout_s` bounds the opening of a connection and its tunnel."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Endpoint, deque[EngineConnection]] = {}
        self._busy: set[EngineConnection] = set()

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

    def release(self, endpoint: Endpoint, connection: EngineConnection) -> None:
        """Back into the pool if another request can follow on it, closed otherwise."""
        self._busy.discard(connection)
        if not connection.is_reusable():
            connection.close()
            return
        connection.let_go()
        connection.idle_since_s = monotonic_s()
        idle = self._idle.setdefault(endpoint, deque())
        idle.append(connection)
        if len(idle) > IDLE_PER_ENDPOINT:
            idle.popleft().close()

    def pass_time(self, passed_s: float) -> None:
        """Let the silence of engines be noticed; call it every `passed_s` seconds."""
        for connection in list(self._busy):
            connection.pass_time(passed_s)

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
