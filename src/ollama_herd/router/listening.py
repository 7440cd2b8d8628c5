"""The router's listening socket, behind which no crowd of new clients is kept waiting.

uvloop takes one connection from it, then looks at up to 1,024 other events: beside 5,000 busy
streams on a busy machine that made 80 connections a second (measured), and heartbeats stood in the
same line. So whenever it has taken one, all others that wait are taken too, as asyncio's own loops
do.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

from ollama_herd.tasks import spawn

BACKLOG = 4096
"""Connections the kernel may hold while the loop is busy: a restart of all clients at once."""

HANDSHAKE_S = 10.0
"""For a TLS handshake, which is a few packets."""

AT_A_TIME = 256
"""Taken before the clients that are in get their turn again."""


class Listening:
    """Open sockets. `port` is the one they listen on."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Take no more connections; those taken stay open."""
        self._server.close()


class _Taking(Listening):
    """With sockets of its own, for the same connections as those of the server."""

    def __init__(self, server: asyncio.Server, crowd: "_Crowd") -> None:
        super().__init__(server)
        self._crowd = crowd
        for sock in server.sockets:
            again = socket.socket(fileno=os.dup(sock.fileno()))
            again.settimeout(0)
            crowd.sockets.append(again)

    def close(self) -> None:
        super().close()
        for sock in self._crowd.sockets:
            sock.close()
        self._crowd.sockets.clear()


class _Crowd:
    """Makes the protocol of a connection that the server has taken, and takes the others."""

    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        self._protocol = protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._is_due = False
        self.sockets: list[socket.socket] = []

    def __call__(self) -> asyncio.Protocol:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._take)
        return self._protocol()

    def _take(self) -> None:
        self._is_due = False
        for listening in self.sockets:
            for _ in range(AT_A_TIME):
                try:
                    taken, _peer = listening.accept()
                except OSError:  # nobody waits, or no descriptor is left: the server deals with it
                    break
                taken.settimeout(0)
                entering = self._enter(taken)
                spawn(entering, name="accept")

    async def _enter(self, taken: socket.socket) -> None:
        if self._tls is None:
            await self._loop.connect_accepted_socket(self._protocol, taken)
            return
        try:
            await self._loop.connect_accepted_socket(
                self._protocol, taken, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError:  # who does not speak TLS, or left; SSLError is one
            taken.close()


async def listen(
    protocol: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
) -> Listening:
    """Listen on all addresses of `host`, with TLS if given. Raises OSError for a taken port.

    `::` is every address of the machine, those of IPv4 among them, as it is for Ollama.
    """
    loop = asyncio.get_running_loop()
    if not type(loop).__module__.startswith("uvloop"):
        return Listening(await _server(protocol, host, port, tls))
    crowd = _Crowd(protocol, tls)
    return _Taking(await _server(crowd, host, port, tls), crowd)


async def _server(
    protocol: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    handshake_s = None if tls is None else HANDSHAKE_S
    if host == "::" and socket.has_dualstack_ipv6():
        both = socket.create_server(
            (host, port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
        return await loop.create_server(
            protocol, sock=both, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=handshake_s
        )
    return await loop.create_server(
        protocol, host, port, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=handshake_s
    )
