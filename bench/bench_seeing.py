"""What seeing everything costs a request: traces, counting and an open dashboard.

    python bench/bench_seeing.py [--rate 2000] [--seconds 4] [--rounds 5]

A real router in this process gets the traces of requests that have ended, at a steady rate and by
the call that the request path makes. CPU is that of the whole process: event loop, writer thread,
health, events. What making the traces costs, and an idle router, is measured in the same way and
taken off. Rounds are interleaved, the median of each is told. The open dashboard is another process
that follows `/dashboard/events` and lists the newest 60 requests at each change, as the page
Requests does. Traces have three candidates, one eliminated node and one attempt.
"""

import argparse
import asyncio
import gc
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_store
from ollama_herd import logs
from ollama_herd.config import RouterSettings
from ollama_herd.core.trace import Trace
from ollama_herd.router.app import Herd, running

TICK_S = 0.005
"""Requests end one by one; 200 wake-ups a second are near enough and cost little."""

SETTLE_S = 0.6
"""Until what was put before is written (`store.thread.GATHER_S`)."""


async def put_at(rate: float, seconds: float, put: Callable[[Trace], None]) -> int:
    """How many traces were put."""
    wanted = int(rate * seconds)
    made = bench_store.traces(wanted, seconds)
    begin, done = time.perf_counter(), 0
    while done < wanted:
        due = min(wanted, int((time.perf_counter() - begin) * rate))
        for _ in range(due - done):
            put(next(made))
        done = due
        await asyncio.sleep(TICK_S)
    await asyncio.sleep(SETTLE_S)
    return done


async def cost_us(rate: float, seconds: float, put: Callable[[Trace], None]) -> float:
    """CPU a trace of the whole process."""
    gc.collect()
    before = time.process_time()
    count = await put_at(rate, seconds, put)
    return (time.process_time() - before) / count * 1e6


async def with_dashboard(port: int, measure: Callable[[], Any]) -> float:
    """`measure` while one dashboard is open."""
    follower = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, __file__, "--follow", str(port)], stdout=subprocess.PIPE
    )
    assert follower.stdout is not None
    try:
        first = await asyncio.to_thread(follower.stdout.readline)
        assert first == b"following\n", first
        return float(await measure())
    finally:
        follower.terminate()
        await asyncio.to_thread(follower.wait)
        follower.stdout.close()


async def measured(herd: Herd, given: argparse.Namespace) -> dict[str, list[float]]:
    """CPU (us) a request of each way, by round."""
    both = herd._parts.put_trace  # noqa: SLF001 - what the request path calls at a request's end
    count = herd.watch.put
    found: dict[str, list[float]] = {"nothing": [], "counted": [], "kept": [], "seen": []}

    def cost(put: Callable[[Trace], None]) -> Any:
        return cost_us(given.rate, given.seconds, put)

    await put_at(given.rate, 1.0, both)
    for number in range(given.rounds):
        found["nothing"].append(await cost(lambda _trace: None))
        found["counted"].append(await cost(count))
        found["kept"].append(await cost(both))
        found["seen"].append(await with_dashboard(herd.port, lambda: cost(both)))
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    return found


async def run(given: argparse.Namespace, home: Path) -> None:
    settings = RouterSettings(home=home, host="127.0.0.1", port=0, mdns=False)
    async with running(settings) as herd:
        gc.collect()
        gc.freeze()
        found = await measured(herd, given)
    median = {name: statistics.median(values) for name, values in found.items()}
    base = median["nothing"]
    costs = {
        "counting (metrics, health)": median["counted"] - base,
        "traces": median["kept"] - median["counted"],
        "one open dashboard": median["seen"] - median["kept"],
        "together": median["seen"] - base,
    }
    print(f"CPU a request at {given.rate:g} requests/s, {given.rounds} rounds:")
    for name, value in costs.items():
        print(f"{name:28} {value:6.2f} us")
    if given.json:
        given.json.write_text(json.dumps({"costs_us": costs, "rounds_us": found}))


def follow(port: int) -> None:
    """An open dashboard on the page Requests, until this process is ended."""
    with socket.create_connection(("127.0.0.1", port)) as events:
        events.sendall(b"GET /dashboard/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        told = False
        while data := events.recv(1 << 20):
            if b'"traces"' not in data:
                continue
            url = f"http://127.0.0.1:{port}/dashboard/api/traces?limit=60"
            with urllib.request.urlopen(url) as answer:
                answer.read()
            if not told:
                told = True
                print("following", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--follow", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.follow:
        follow(given.follow)
        return
    logs.setup("warning")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            import uvloop  # noqa: PLC0415 - not on Windows
        except ImportError:
            asyncio.run(run(given, Path(scratch)))
        else:
            uvloop.run(run(given, Path(scratch)))


if __name__ == "__main__":
    main()
