"""A fake Ollama for the bench: as cheap as Python allows, so that it is not what is measured.

Run as a process with the number of ports to open; it prints `{"ports": [...]}` and lives until
its standard input ends. Streams are driven by one wheel of 1 ms ticks, not by a timer each.
`GET /bench/stats` tells what happened, `GET /bench/reset` forgets it.
"""

import contextlib
import gc
import json
import re
import socket
import sys
import zlib
from collections.abc import Iterator
from types import ModuleType

import flood
import wire
import wire_openai
from engine_api import Stats, answer_get
from poller import READ, WRITE, new_poller
from wheel import Wheel, now_us

_DIALECTS = ((b"POST /api/chat", wire), (b"POST /v1/chat/completions", wire_openai))
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_ORDER_WITHIN = 4096  # the prompt's start; an image follows it


class Stream:
    """An answer in progress: a plain one that is due later, or the chunks of a stream."""

    __slots__ = ("connection", "due_us", "is_over", "order", "sent")

    def __init__(self, connection: "Connection", order: wire.Order, due_us: int) -> None:
        self.connection = connection
        self.order = order
        self.due_us = due_us
        self.sent = 0
        self.is_over = False


class Connection:
    """One connection of a proxy or a direct client: one request at a time."""

    __slots__ = (
        "body_left",
        "body_start",
        "crc",
        "dialect",
        "engine",
        "flood",
        "input",
        "out",
        "sock",
        "stream",
    )

    def __init__(self, engine: "Engine", sock: socket.socket) -> None:
        self.engine = engine
        self.sock = sock
        self.input = b""
        self.body_left = 0  # bytes of a large body still to come
        self.body_start = b""
        self.crc = 0
        self.dialect: ModuleType | None = None  # of the request in hand
        self.out = b""  # what the socket did not take
        self.stream: Stream | None = None
        self.flood: Iterator[bytes] | None = None

    def on_event(self, mask: int) -> None:
        if mask & WRITE:
            self._pump()
        if mask & ~WRITE:
            self._read()

    def _read(self) -> None:
        engine = self.engine
        try:
            count = self.sock.recv_into(engine.buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0:
            self._closed()
        elif self.body_left:
            self._more_body(engine.view[:count])
        else:
            data = bytes(engine.view[:count])
            self._request(self.input + data if self.input else data)

    def _request(self, data: bytes) -> None:
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self.input = data
            return
        self.input = b""
        found = _LENGTH.search(data, 0, head_end)
        length = int(found[1]) if found else 0
        body = data[head_end + 4 :]
        self.dialect = next((d for start, d in _DIALECTS if data.startswith(start)), None)
        if len(body) < length:
            self.body_left = length - len(body)
            self.body_start = body
            self.crc = zlib.crc32(body)
        elif self.dialect is not None:
            self._answer(wire.read_order(body), 0)
        else:
            self.write(answer_get(data, self.engine.stats))

    def _more_body(self, data: memoryview) -> None:
        self.body_left -= len(data)
        self.crc = zlib.crc32(data, self.crc)
        if len(self.body_start) < _ORDER_WITHIN:
            self.body_start += bytes(data)
        if self.body_left <= 0:
            start, self.body_start = self.body_start, b""
            self._answer(wire.read_order(start), self.crc)

    def _answer(self, order: wire.Order, crc: int) -> None:
        self.engine.stats.requests += 1
        dialect = self.dialect or wire
        if order.chunks or order.first_us:
            at_us = now_us()
            self.stream = Stream(self, order, at_us + order.first_us)
            if order.first_us:
                self.engine.wheel.add(self.stream, self.stream.due_us)
            else:
                self.engine.fire(self.stream, at_us)
        else:
            body = dialect.answer(order.id, crc)
            self.write(dialect.ANSWER_HEAD % len(body) + body)

    def write(self, data: bytes) -> int:
        """Bytes taken by the socket; the rest waits until it is writable."""
        if self.out:
            self.out += data
            return 0
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._closed()
            return 0
        if sent < len(data):
            self.out = data[sent:]
            self.engine.poller.modify(self.sock.fileno(), READ | WRITE)
        return sent

    def start_flood(self, blocks: Iterator[bytes]) -> None:
        self.flood = blocks
        self.engine.poller.modify(self.sock.fileno(), READ | WRITE)

    def _pump(self) -> None:
        """Send what waits, then the next block of a flood: one a turn, so that all progress."""
        if not self.out and self.flood is not None:
            self.out = next(self.flood, b"")
            if not self.out:
                self.flood = None
                self._end_stream()
        if self.out:
            try:
                sent = self.sock.send(self.out)
            except BlockingIOError:
                return
            except OSError:
                self._closed()
                return
            if self.stream is not None:
                self.engine.stats.flood_bytes += sent
            self.out = self.out[sent:]
        if not self.out and self.flood is None:
            self.engine.poller.modify(self.sock.fileno(), READ)

    def _end_stream(self) -> None:
        if self.stream is not None:
            self.stream.is_over = True
            self.stream = None

    def _closed(self) -> None:
        if self.sock.fileno() < 0:
            return
        if self.stream is not None or self.body_left:
            order_id = self.stream.order.id if self.stream is not None else -1
            self.engine.stats.closed_us[order_id] = now_us()
        self._end_stream()
        self.flood = None
        self.out = b""
        self.engine.forget(self.sock)


class Engine:
    """The loop: sockets, the wheel of streams."""

    def __init__(self, ports: int) -> None:
        self.poller = new_poller()
        self.buffer = bytearray(1 << 18)
        self.view = memoryview(self.buffer)
        self.stats = Stats()
        self._connections: dict[int, Connection] = {}
        self.wheel: Wheel[Stream] = Wheel()
        self._listeners = {sock.fileno(): sock for sock in (_listen() for _ in range(ports))}
        for fd in self._listeners:
            self.poller.register(fd, READ)

    @property
    def ports(self) -> list[int]:
        return [sock.getsockname()[1] for sock in self._listeners.values()]

    def run(self, stop_fd: int) -> None:
        """Until `stop_fd` is readable, which for standard input means: its writer is gone."""
        self.poller.register(stop_fd, READ)
        connections = self._connections
        poll = self.poller.poll
        wheel = self.wheel
        while True:
            for fd, mask in poll(wheel.wait_s()):
                connection = connections.get(fd)
                if connection is not None:
                    connection.on_event(mask)
                elif fd in self._listeners:
                    self._accept(self._listeners[fd])
                elif fd == stop_fd:
                    return
            for stream in wheel.due():
                self.fire(stream, now_us())

    def fire(self, stream: Stream, at_us: int) -> None:
        """Send what is due of the stream now, and say when the next is."""
        if stream.is_over:
            return
        order = stream.order
        connection = stream.connection
        dialect = connection.dialect or wire
        number = stream.sent
        if order.chunks == 0:
            connection.stream = None
            body = dialect.answer(order.id)
            connection.write(dialect.ANSWER_HEAD % len(body) + body)
        elif order.period_us == 0:
            connection.start_flood(flood.blocks(order, dialect))
        elif number == order.chunks:
            stream.is_over = True
            connection.stream = None
            connection.write(dialect.final_chunk(order.chunks))
        else:
            data = dialect.chunk(at_us, order.id, number)
            connection.write(data if number else dialect.STREAM_HEAD + data)
            stream.sent = number + 1
            stream.due_us += order.period_us
            self.wheel.add(stream, stream.due_us)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                sock, _ = listener.accept()
                sock.settimeout(0)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[sock.fileno()] = Connection(self, sock)
                self.poller.register(sock.fileno(), READ)

    def forget(self, sock: socket.socket) -> None:
        self.poller.unregister(sock.fileno())
        del self._connections[sock.fileno()]
        sock.close()


def _listen() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sock.settimeout(0)
    return sock


def main() -> None:
    engine = Engine(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    print(json.dumps({"ports": engine.ports}), flush=True)
    gc.freeze()
    gc.disable()  # nothing here is cyclic but streams and connections, and they are few
    engine.run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
