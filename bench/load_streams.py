"""Many streams at once: at a token rate, slow ones by the thousand, or at full speed."""

import errno
import socket
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import procs
import wire
from checks import check_stream, percentile
from poller import READ, WRITE, Poller, new_poller
from wheel import now_us

_buffer = bytearray(1 << 18)
_view = memoryview(_buffer)


class _Stream:
    """A request and all that came for it."""

    __slots__ = ("ends", "order", "raw", "start_us", "times_us")

    def __init__(self, order: wire.Order, start_us: int) -> None:
        self.order = order
        self.start_us = start_us
        self.raw = bytearray()
        self.ends = array("Q")
        self.times_us = array("Q")


class _Connection:
    """A kept-alive connection with one stream at a time."""

    __slots__ = ("sock", "stream")

    def __init__(self, port: int) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(0)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = self.sock.connect_ex(("127.0.0.1", port))
        if result not in (0, errno.EINPROGRESS):
            raise OSError(result, "connect")
        self.stream: _Stream | None = None


class _Load:
    """All connections of one run, and what has become of their streams."""

    def __init__(self, port: int, template: wire.Order, repeat_until_us: int) -> None:
        self.port = port
        self.template = template
        self.repeat_until_us = repeat_until_us
        self.poller: Poller = new_poller()
        self.open: dict[int, _Connection] = {}
        self.done: list[_Stream] = []
        self.lost: Counter[str] = Counter()
        self.started = 0

    def connect(self) -> None:
        connection = _Connection(self.port)
        self.open[connection.sock.fileno()] = connection
        self.poller.register(connection.sock.fileno(), READ | WRITE)

    def on_event(self, fd: int, mask: int) -> None:
        connection = self.open[fd]
        if connection.stream is None:
            error = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._lose(connection, f"not connected: {errno.errorcode[error]}")
            elif mask & WRITE:
                self.poller.modify(fd, READ)
                self._ask(connection)
            return
        self._read(connection, connection.stream)

    def _ask(self, connection: _Connection) -> None:
        self.started += 1
        order = self.template._replace(id=self.started % 100_000)
        connection.stream = _Stream(order, now_us())
        connection.sock.send(wire.request(order, self.port))

    def _read(self, connection: _Connection, stream: _Stream) -> None:
        try:
            count = connection.sock.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError as broken:
            self._lose(connection, f"broken: {errno.errorcode[broken.errno or 0]}")
            return
        if count == 0:
            self._lose(connection, f"closed after {len(stream.raw)} bytes")
            return
        raw = stream.raw
        raw += _view[:count]
        if not raw.startswith(b"HTTP/1.1 200"):
            status, _, rest = bytes(raw).partition(b"\r\n")
            self._lose(connection, f"answered {status!r}: {rest[rest.find(b'{') :][:200]!r}")
            return
        stream.ends.append(len(raw))
        stream.times_us.append(now_us())
        if raw.endswith(wire.END):
            self.done.append(stream)
            if stream.times_us[-1] < self.repeat_until_us:
                self._ask(connection)
            else:
                self._drop(connection)

    def _lose(self, connection: _Connection, why: str) -> None:
        self.lost[why] += 1
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self.open[connection.sock.fileno()]
        self.poller.unregister(connection.sock.fileno())
        connection.sock.close()

    def abandon(self) -> None:
        """Whatever is still open counts as stalled."""
        for connection in list(self.open.values()):
            got = len(connection.stream.raw) if connection.stream else 0
            self._lose(connection, f"stalled after {got} bytes")


def streams(
    port: int,
    pids: Sequence[int],
    *,
    connections: int,
    chunks: int,
    period_us: int,
    per_s: float = 2000.0,
    repeat_s: float = 0.0,
    grace_s: float = 20.0,
) -> dict[str, Any]:
    """`connections` streams, opened at `per_s`; with `repeat_s` each asks again for so long.

    All are given the time they should take and `grace_s` more; every byte is checked.
    """
    procs.reset_peak(pids)
    rss_before_mb = procs.rss_mb(pids)
    cpu_before_s = procs.cpu_s(pids)
    start_us = now_us()
    load = _Load(port, wire.Order(0, chunks, period_us), start_us + int(repeat_s * 1e6))
    ideal_us = connections / per_s * 1e6 + chunks * period_us + repeat_s * 1e6
    deadline_us = start_us + ideal_us + grace_s * 1e6
    due = deque(start_us + int(number / per_s * 1e6) for number in range(connections))
    while (due or load.open) and now_us() < deadline_us:
        while due and due[0] <= now_us():
            due.popleft()
            load.connect()
        timeout_s = max(0.0, (due[0] - now_us()) / 1e6) if due else 1.0
        for fd, mask in load.poller.poll(timeout_s):
            load.on_event(fd, mask)
    wall_s = (now_us() - start_us) / 1e6
    cpu_used_s = procs.cpu_s(pids) - cpu_before_s
    peak_mb = procs.peak_rss_mb(pids)
    load.abandon()
    return _judged(load) | {
        "wall_s": wall_s,
        "cpu_s": cpu_used_s,
        "rss_before_mb": rss_before_mb,
        "peak_rss_mb": peak_mb,
        "ideal_s": ideal_us / 1e6,
    }


def _judged(load: _Load) -> dict[str, Any]:
    wrong: Counter[str] = Counter()
    delays_us: list[int] = []
    firsts_us: list[int] = []
    reads = 0
    for stream in load.done:
        received = check_stream(bytes(stream.raw), stream.order, stream.ends, stream.times_us)
        reads += len(stream.ends)
        if received.problem:
            wrong[received.problem] += 1
            continue
        delays_us += received.delays_us
        firsts_us.append(stream.times_us[0] - stream.start_us)
    chunks = (load.template.chunks + 1) * (len(load.done) - wrong.total())
    return {
        "streams": len(load.done) + load.lost.total(),
        "dropped": wrong.total() + load.lost.total(),
        "chunks": chunks,
        "chunks_per_read": chunks / reads if reads else 0.0,
        "delay_p50_us": percentile(delays_us, 50),
        "delay_p99_us": percentile(delays_us, 99),
        "first_p50_us": percentile(firsts_us, 50),
        "problems": [f"{count} streams: {why}" for why, count in (wrong + load.lost).items()],
    }
