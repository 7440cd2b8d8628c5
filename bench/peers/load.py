"""The load on one router, as a process: `load.py '{"mode": ..., "port": ..., "dialect": ...}'`.

Prints one JSON object: what was measured, and `problems`, the answers that were wrong.
"""

import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import procs
import wire
from checks import percentile
from load_probes import backpressure, disconnects
from peers.exchange import DIALECTS, Answer, judge
from poller import READ, new_poller
from wheel import now_us

_GRACE_S = 15.0


class _Client:
    """A kept-alive connection with one request at a time; a closed one is opened again."""

    __slots__ = ("answer", "order", "port", "request", "sock", "start_us")

    def __init__(self, port: int, dialect: str, order: wire.Order) -> None:
        self.port = port
        self.order = order
        self.request = DIALECTS[dialect].request(order, port)
        self.answer = Answer()
        self.start_us = 0
        self.sock = self._open()

    def _open(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def ask(self) -> None:
        self.answer = Answer()
        self.start_us = now_us()
        self.sock.sendall(self.request)

    def on_readable(self) -> str | None:
        """None until the answer is over; then what is wrong with it, "" for nothing."""
        try:
            data = self.sock.recv(262144)
        except OSError as broken:
            return f"broken: {broken.strerror or broken}"
        if not data:
            return f"closed after {len(self.answer.raw)} bytes"
        return "" if self.answer.add(data, now_us()) else None


class _Run:
    """Clients until all are done or time is up, with the CPU of the router meanwhile."""

    def __init__(self, clients: Sequence[_Client], pids: Sequence[int], deadline_s: float) -> None:
        self.pids = pids
        self.deadline_us = now_us() + int(deadline_s * 1e6)
        self.problems: Counter[str] = Counter()
        self.done: list[tuple[_Client, Answer]] = []
        self._poller = new_poller()
        self._open = {client.sock.fileno(): client for client in clients}
        for fd in self._open:
            self._poller.register(fd, READ)

    def run(self, goes_on: Callable[[], bool]) -> dict[str, Any]:
        procs.reset_peak(self.pids)
        cpu_before_s, start_us = procs.cpu_s(self.pids), now_us()
        for client in self._open.values():
            client.ask()
        while self._open and now_us() < self.deadline_us:
            for fd, _ in self._poller.poll(0.5):
                self._turn(fd, goes_on)
        wall_s, cpu_s = (now_us() - start_us) / 1e6, procs.cpu_s(self.pids) - cpu_before_s
        if self._open:
            self.problems["no answer in time"] += len(self._open)
        return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_rss_mb": procs.peak_rss_mb(self.pids)}

    def _turn(self, fd: int, goes_on: Callable[[], bool]) -> None:
        client = self._open[fd]
        problem = client.on_readable()
        if problem is None:
            return
        if problem:
            self.problems[problem] += 1
        else:
            self.done.append((client, client.answer))
        if problem or not goes_on():
            self._poller.unregister(fd)
            del self._open[fd]
        else:
            client.ask()

    def judge(self) -> list[int]:
        """All chunks' delays; wrong answers go to the problems."""
        delays_us: list[int] = []
        for client, answer in self.done:
            judged = judge(answer, client.order)
            if judged.problem:
                self.problems[judged.problem] += 1
            delays_us += judged.delays_us
        return delays_us

    def told(self) -> list[str]:
        return [f"{count} x {problem}" for problem, count in self.problems.most_common(5)]


def requests(
    port: int, dialect: str, pids: Sequence[int], *, connections: int, seconds: float
) -> dict[str, Any]:
    """`connections` clients that ask again as soon as they have their answer."""
    clients = [_Client(port, dialect, wire.Order(number + 1)) for number in range(connections)]
    run = _Run(clients, pids, seconds + _GRACE_S)
    end_us = now_us() + int(seconds * 1e6)
    used = run.run(lambda: now_us() < end_us)
    run.judge()
    return used | {"requests": len(run.done), "problems": run.told()}


def streams(
    port: int,
    dialect: str,
    pids: Sequence[int],
    *,
    connections: int,
    chunks: int,
    period_us: int,
) -> dict[str, Any]:
    """`connections` streams at once, each whole and in order, or a problem."""
    orders = [wire.Order(number + 1, chunks, period_us) for number in range(connections)]
    clients = [_Client(port, dialect, order) for order in orders]
    idle_mb = procs.rss_mb(pids)
    ideal_s = chunks * period_us / 1e6
    run = _Run(clients, pids, 4 * ideal_s + _GRACE_S)
    used = run.run(lambda: False)
    delays_us = run.judge()
    return used | {
        "chunks": len(delays_us),
        "over_ideal": used["wall_s"] / ideal_s,
        "idle_rss_mb": idle_mb,
        "delay_p50_us": percentile(delays_us, 50),
        "delay_p99_us": percentile(delays_us, 99),
        "problems": run.told(),
    }


def latency(port: int, dialect: str, pids: Sequence[int], *, count: int) -> dict[str, Any]:
    """One request after the other on one connection: microseconds to the first byte."""
    _ = pids
    warm_up = max(5, count // 10)
    client = _Client(port, dialect, wire.Order(1))
    firsts_us: list[float] = []
    problems: list[str] = []
    end_s = time.monotonic() + 10 + count * 0.1  # noqa: TID251
    while len(firsts_us) < count + warm_up and time.monotonic() < end_s:  # noqa: TID251
        client.ask()
        over = client.on_readable()
        while over is None:
            over = client.on_readable()
        if over:
            problems.append(over)
            break
        firsts_us.append(client.answer.times_us[0] - client.start_us)
    taken = firsts_us[warm_up:]
    return {
        "first_p50_us": percentile(taken, 50),
        "first_p99_us": percentile(taken, 99),
        "problems": problems,
    }


MODES = {
    "requests": requests,
    "streams": streams,
    "latency": latency,
    "disconnect": disconnects,
    "backpressure": backpressure,
}


if __name__ == "__main__":
    procs.carry_out(MODES)
