"""What is kept of answers under way, for the case that another node has to give them anew or go on:
how much of one answer, and of all together.

The bound on all is held by a look at what is there, a few times a second, so that no read pays for
it: what comes between two looks is above it.
"""

from collections.abc import Callable, Iterable

from ollama_herd.api.fleet_status import KeptTotals
from ollama_herd.api.tail import is_cut_json
from ollama_herd.router.connection import EngineConnection
from ollama_herd.router.reply import Headers, Reply

JSON = b"application/json"

KEPT_BYTES = 4 * 1024 * 1024
"""Of a stream, kept for the case that it has to be continued: about 30,000 tokens of Ollama's."""

HELD_WHOLE_BYTES = 8 * 1024 * 1024
"""Of a single answer, held until it is whole; a longer one goes to the client as it comes."""

KEPT_TOTAL_BYTES = 256 * 1024 * 1024
"""Of all answers under way, unless the settings say otherwise."""

ROOM = 0.9
"""Once over the bound, so much of it is left in use: not every look should have to let go."""


class KeptStream:
    """The bytes of a translated stream so far, as long as they are not too many."""

    __slots__ = ("_is_gone", "_parts", "size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._is_gone = False
        self.size = 0

    def add(self, data: bytes) -> None:
        if self._is_gone:
            return
        self.size += len(data)
        self._parts.append(data)
        if self.size > KEPT_BYTES:
            self.let_go()

    def whole(self) -> bytes | None:
        """All of it; None when it is not kept any more."""
        return None if self._is_gone else b"".join(self._parts)

    def let_go(self) -> None:
        self._is_gone = True
        self._parts.clear()
        self.size = 0


class HeldAnswer:
    """A single answer on its way: held until it is whole, or too long, or has to make room."""

    __slots__ = ("_connection", "_headers", "_parts", "_reply", "size")

    def __init__(
        self, connection: EngineConnection, reply: Reply, headers: Callable[[], Headers]
    ) -> None:
        self._connection = connection
        self._reply = reply
        self._headers = headers
        self._parts: list[bytes] = []
        self.size = 0

    def feed(self, data: bytes) -> None:
        if self._reply.started:
            self._reply.write(data)
            return
        self._parts.append(data)
        self.size += len(data)
        if self.size > HELD_WHOLE_BYTES:
            self.let_go()

    def start(self) -> bytes:
        """Its first piece, as long as it is held."""
        return self._parts[0] if self._parts else b""

    def is_cut(self) -> bool:
        """Whether it stops in its middle: of one that has gone to the client its end tells."""
        connection = self._connection
        if connection.status >= 400 or not connection.content_type.startswith(JSON):
            return False
        if self._reply.started:
            return is_cut_json(connection.tail(), is_all=False)
        return is_cut_json(b"".join(self._parts), is_all=True)

    def let_go(self) -> None:
        """To the client with it: from now on it goes there as it comes."""
        connection, reply = self._connection, self._reply
        reply.start(connection.status, [*connection.headers, *self._headers()], connection.length)
        reply.draw_from(connection)
        for piece in self._parts:
            reply.write(piece)
        reply.flush()
        self._parts.clear()
        self.size = 0


class Keeping:
    """Holds what is kept of all answers within `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._bytes = 0
        self._let_go = 0

    def totals(self) -> KeptTotals:
        return KeptTotals(self._bytes, self.limit_bytes, self._let_go)

    def look(self, connections: Iterable[EngineConnection]) -> None:
        """Let go of the largest until the others have room."""
        kept = [(size, c) for c in connections if (size := c.kept_size) > 0]
        total = sum(size for size, _ in kept)
        if total > self.limit_bytes:
            kept.sort(key=lambda one: one[0], reverse=True)
            for size, connection in kept:
                if total <= ROOM * self.limit_bytes:
                    break
                connection.keep_no_more()
                self._let_go += 1
                total -= size
        self._bytes = total
