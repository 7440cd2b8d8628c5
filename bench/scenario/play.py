"""One run: a scenario's requests through the real router under one policy, all of it fast."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import psutil
from clients import Clients, Measured
from machines import TOLD_EVERY_S, Clock, Host, Seen

import procs
from ollama_herd.core.node import ReportReply
from ollama_herd.simulate import machines
from ollama_herd.simulate.workloads import Turn
from ollama_herd.simulate.world import Scenario

LIMIT = 3.0
"""Requests without an answer after so many horizons count as starved."""

START_S = 90.0
"""From exec to listening, on a busy machine."""

HEARTBEAT_S = 2.0
"""As agents do by default; news goes out at once."""

NEWS_S = 0.2
"""How soon a machine sees that what is in its memory has changed."""

OWN_SETTINGS = {
    # No second tries: the policies are compared, not what saves a request from them.
    "HERD_HEDGE": "false",
    "HERD_CANARY_S": "0",
    # Nobody is sent away: who waits is measured.
    "HERD_QUEUE_TIMEOUT_S": "86400",
    "HERD_QUEUE_LIMIT": "100000",
}


class Played(msgspec.Struct):
    """What came of a run. Shares of CPU are of one core; the machine's is of all of them."""

    measured: list[Measured]
    seen: dict[str, Seen]
    loads: int
    took_s: float
    router_cpu: float
    bench_cpu: float
    machine_cpu: float


Told = Callable[[int], None]
"""Hears how many requests have ended."""


async def play(
    scenario: Scenario, policy: str, speed: float, told: Told, watch: Callable[[int], None]
) -> Played:
    """`watch` is told the router's port once the fleet is there."""
    clock = Clock(speed)
    turns: dict[str, Turn] = {}
    truth = machines.Truth(scenario.machines, scenario.seed, scenario.conditions.wrong_ln)
    models = sorted({c.model for c in scenario.conversations})
    hosts = [Host(m, models, truth, clock, turns) for m in scenario.machines]
    horizon_s = scenario.conditions.horizon_s
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await host.open()
            stack.callback(host.close)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        process, port = stack.enter_context(_router(home, policy, speed, horizon_s))
        for host in hosts:
            agent = Agent(port, host, clock)
            await agent.beat()
            stack.callback(asyncio.create_task(agent.work()).cancel)  # noqa: TID251
        stack.callback(asyncio.create_task(_stream(hosts, speed)).cancel)  # noqa: TID251
        watch(port)
        clients = Clients(port, clock, turns)
        stack.callback(asyncio.create_task(_tell(clients, told)).cancel)  # noqa: TID251
        meter = Meter(process.pid)
        begun_s = clock.now_s()
        await clients.run(_from(scenario, begun_s), horizon_s, LIMIT * horizon_s)
        took_s = (clock.now_s() - begun_s) / speed
        shares = meter.shares(took_s)
    seen = {key: found for host in hosts for key, found in host.seen.items()}
    for measured in clients.measured:
        _since(begun_s, measured, seen.get(measured.key))
    return Played(clients.measured, seen, sum(host.engine.loads for host in hosts), took_s, *shares)


def _from(scenario: Scenario, begun_s: float) -> list:
    return [msgspec.structs.replace(c, at_s=c.at_s + begun_s) for c in scenario.conversations]


def _since(begun_s: float, measured: Measured, seen: Seen | None) -> None:
    """All times from the start of the run on."""
    measured.arrived_s -= begun_s
    for value in (measured, seen) if seen is not None else (measured,):
        for name in ("first_s", "done_s", "received_s", "first_due_s"):
            if getattr(value, name, -1.0) >= 0:
                setattr(value, name, getattr(value, name) - begun_s)


class Meter:
    """CPU from now on."""

    def __init__(self, router: int) -> None:
        self._router = procs.tree(router)
        self._begun = self._now()

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        machine = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        machine -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return procs.cpu_s(self._router), procs.cpu_s([os.getpid()]), machine

    def shares(self, took_s: float) -> tuple[float, float, float]:
        router, bench, machine = (
            (now - then) / took_s for now, then in zip(self._now(), self._begun, strict=True)
        )
        return router, bench, machine / (psutil.cpu_count() or 1)


class Agent:
    """Reports one machine on a connection that it keeps."""

    def __init__(self, port: int, host: Host, clock: Clock) -> None:
        self._port = port
        self._host = host
        self._clock = clock
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def work(self) -> None:
        due_s = self._clock.now_s() + HEARTBEAT_S
        while True:
            await asyncio.sleep(NEWS_S / self._clock.speed)
            if self._host.has_news or self._clock.now_s() >= due_s:
                due_s = self._clock.now_s() + HEARTBEAT_S
                await self.beat()

    async def beat(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        report = self._host.report()
        body = msgspec.json.encode(report)
        head = (
            "POST /fleet/heartbeat HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"authorization: Bearer bench-key-of-{report.node_id}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        start = answered.index(b"content-length:") + len(b"content-length:")
        length = int(answered[start : answered.index(b"\r\n", start)])
        answer = await reader.readexactly(length)
        if not answered.startswith(b"http/1.1 200 "):
            raise RuntimeError(f"the router refused a report: {answer.decode()}")
        if msgspec.json.decode(answer, type=ReportReply).resend:
            self._host.tell_all()


async def _stream(hosts: Sequence[Host], speed: float) -> None:
    while True:
        await asyncio.sleep(TOLD_EVERY_S / speed)
        for host in hosts:
            host.tell_tokens()


async def _tell(clients: Clients, told: Told) -> None:
    while True:
        await asyncio.sleep(0.5)
        told(clients.ended)


@contextlib.contextmanager
def _router(
    home: Path, policy: str, speed: float, horizon_s: float
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The real router as a process of its own, its wall clock right when the horizon is over."""
    port = procs.free_port()
    behind_s = horizon_s * (1 - 1 / speed)
    fast = Path(__file__).with_name("fast_herd.py")
    command = [sys.executable, str(fast), str(speed), str(behind_s), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--home", str(home), "--no-mdns", "--log-level", "error"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HERD_")}
    process = subprocess.Popen(
        command, env={**kept, **OWN_SETTINGS, "HERD_POLICY": policy}, stdin=subprocess.DEVNULL
    )
    try:
        procs.wait_for_port(port, process, START_S)
        yield process, port
    finally:
        procs.stop(process)
