"""Small requests: many at once for the cost, one after the other for the latency."""

import socket
import time
from collections.abc import Sequence
from typing import Any

import procs
import wire
from checks import check_stream, percentile
from poller import READ, new_poller
from wheel import now_us


class _Client:
    """A keep-alive connection that asks again as soon as it has its answer."""

    __slots__ = ("answers", "expected", "input", "problem", "request", "sock")

    def __init__(self, port: int, order_id: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 5)
        self.sock.settimeout(0)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = wire.request(wire.Order(order_id), port)
        self.expected = wire.answer(order_id)
        self.input = b""
        self.answers = 0
        self.problem = ""

    def on_readable(self) -> bool:
        """Whether a whole answer has come; `problem` is set when it is wrong."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError as broken:
            self.problem = f"connection {broken}"
            return False
        if not data:
            self.problem = "connection closed"
            return False
        if self.input:
            data = self.input + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0 or len(data) < head_end + 4 + len(self.expected):
            self.input = data
            return False
        self.input = b""
        if not data.startswith(b"HTTP/1.1 200") or data[head_end + 4 :] != self.expected:
            self.problem = f"wrong answer: {data[:60]!r}"
            return False
        self.answers += 1
        return True


def closed_loop(port: int, pids: Sequence[int], connections: int, seconds: float) -> dict[str, Any]:
    """`connections` clients, each with one request at a time; every body is compared."""
    clients = {}
    poller = new_poller()
    for number in range(connections):
        client = _Client(port, number + 1)
        clients[client.sock.fileno()] = client
        poller.register(client.sock.fileno(), READ)
    procs.reset_peak(pids)
    cpu_before_s = procs.cpu_s(pids)
    start_us = now_us()
    end_us = start_us + int(seconds * 1e6)
    for client in clients.values():
        client.sock.send(client.request)
    problems = []
    waiting = len(clients)
    while waiting and now_us() < end_us + 5_000_000:
        is_on = now_us() < end_us
        for fd, _ in poller.poll(1.0):
            client = clients[fd]
            if client.on_readable():
                if is_on:
                    client.sock.send(client.request)
                else:
                    waiting -= 1
            elif client.problem:
                problems.append(client.problem)
                poller.unregister(fd)
                waiting -= 1
    wall_s = (now_us() - start_us) / 1e6
    if waiting:
        problems.append(f"{waiting} requests without an answer")
    return {
        "requests": sum(client.answers for client in clients.values()),
        "cpu_s": procs.cpu_s(pids) - cpu_before_s,
        "wall_s": wall_s,
        "peak_rss_mb": procs.peak_rss_mb(pids),
        "problems": problems,
    }


def sequential(
    port: int, pids: Sequence[int], *, count: int, warm_up: int, streams: int, chunks: int
) -> dict[str, Any]:
    """One connection: time to the first byte of plain answers, then of short streams.

    The streams have a chunk each 5 ms on the same kept-alive connection; their chunks' delays
    show a stall (Nagle's algorithm against a delayed acknowledgement costs 40 ms).
    """
    _ = pids
    sock = socket.create_connection(("127.0.0.1", port), 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    problems: list[str] = []
    first_us = [_plain(sock, port, number, problems) for number in range(count + warm_up)]
    stream_first_us = []
    delays_us: list[int] = []
    for number in range(streams):
        first, delays = _short_stream(sock, port, wire.Order(number, chunks, 5000), problems)
        stream_first_us.append(first)
        delays_us += delays
    first_us = first_us[warm_up:]
    return {
        "first_p50_us": percentile(first_us, 50),
        "first_p99_us": percentile(first_us, 99),
        "stream_first_p50_us": percentile(stream_first_us, 50),
        "chunk_delay_p50_us": percentile(delays_us, 50),
        "chunk_delay_p99_us": percentile(delays_us, 99),
        "problems": problems,
    }


def _plain(sock: socket.socket, port: int, number: int, problems: list[str]) -> float:
    request = wire.request(wire.Order(number), port)
    expected = wire.answer(number)
    start_ns = time.perf_counter_ns()
    sock.sendall(request)
    data = sock.recv(65536)
    first_ns = time.perf_counter_ns()
    while not data.endswith(expected):
        more = sock.recv(65536)
        if not more:
            problems.append("connection closed")
            break
        data += more
    if not data.startswith(b"HTTP/1.1 200"):
        problems.append(f"wrong answer: {data[:60]!r}")
    return (first_ns - start_ns) / 1000


def _short_stream(
    sock: socket.socket, port: int, order: wire.Order, problems: list[str]
) -> tuple[float, list[int]]:
    start_us = now_us()
    sock.sendall(wire.request(order, port))
    raw = b""
    ends, times_us = [], []
    while not raw.endswith(wire.END):
        data = sock.recv(65536)
        if not data:
            break
        raw += data
        ends.append(len(raw))
        times_us.append(now_us())
    received = check_stream(raw, order, ends, times_us)
    if received.problem:
        problems.append(received.problem)
    return (times_us[0] - start_us if times_us else 0.0), received.delays_us
