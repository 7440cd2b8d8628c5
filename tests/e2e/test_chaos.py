"""Load from many clients while engines, agents and the router are killed, frozen and restarted.

Nothing is expected of a single answer but that it is not a lie: it is whole and right, or the
client knows that it is not. And when the dust has settled, nothing is left behind.
"""

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ollama_herd import clock
from tests.e2e.fault_matrix import FORMS, Form, Read, read
from tests.e2e.processes import Herd, Node, Running, free_port, wait_until
from tests.fakes.raw import Client, call

SOAK_S = float(os.environ.get("HERD_CHAOS_S", "16"))
"""Of each phase; HERD_CHAOS_S makes it longer, by hand."""

CLIENTS = 10
NAMES = ("a", "b", "c")
LIMITS = {
    "HERD_HEARTBEAT_S": "0.3",
    "HERD_HEDGE_FLOOR_S": "0.6",
    "HERD_HEDGE_CEILING_S": "2",
    "HERD_STALL_FLOOR_S": "0.6",
    "HERD_STALL_CEILING_S": "1.5",
    "HERD_QUEUE_TIMEOUT_S": "15",
    "HERD_CONNECT_TIMEOUT_S": "1",
}
FORMS_HERE = [form for form in FORMS if form.path != "/api/embed"]


def engine(folder: Path, name: str, port: int) -> Running:
    """A fake as a process: 12 tokens in 60 ms, four at once."""
    arguments = ["-m", "tests.fakes.ollama", "--port", str(port), "--model", "tiny"]
    arguments += ["--token-ms", "5", "--num-parallel", "4", "--frozen"]
    return Running(f"engine-{name}", arguments, folder, {"PYTHONPATH": str(Path.cwd())})


@dataclass
class Tally:
    """How requests ended, by what their clients saw."""

    seen: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    lies: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, lie: str = "") -> None:
        with self.lock:
            self.seen[what] += 1
            if lie:
                self.lies.append(lie)

    def begin(self) -> None:
        with self.lock:
            self.sent += 1


class World:
    """Three engines, their agents and the router, each of which can be broken and mended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in NAMES}
        self.port = free_port()
        self.stack = contextlib.ExitStack()
        self.engines = {n: engine(folder, n, p) for n, p in self.ports.items()}
        self.herd = self.start_herd()
        self.nodes = {name: self.start_node(name) for name in NAMES}
        self.herd.wait_status(lambda s: _usable(s) == len(NAMES), "all nodes", 30)

    def start_herd(self) -> Herd:
        return Herd(self.folder, port=self.port, env=LIMITS).ready()

    def start_node(self, name: str) -> Node:
        url = f"http://127.0.0.1:{self.port}"
        engines = [f"http://127.0.0.1:{self.ports[name]}"]
        return Node(self.folder, name, url, engines, env={"HERD_NODE_SLOTS": "4"})

    def close(self) -> None:
        for running in (*self.nodes.values(), self.herd, *self.engines.values()):
            with contextlib.suppress(ProcessLookupError):
                running.signal(signal.SIGCONT)
            running.kill()

    def restart_engine(self, name: str) -> None:
        self.engines[name].kill()
        time.sleep(0.2)
        self.engines[name] = engine(self.folder, name, self.ports[name])

    def restart_node(self, name: str) -> None:
        self.nodes[name].kill()
        self.nodes[name] = self.start_node(name)

    def restart_herd(self) -> None:
        self.herd.kill()
        self.herd = self.start_herd()

    def freeze(self, running: Running, seconds: float) -> None:
        running.signal(signal.SIGSTOP)
        time.sleep(seconds)
        running.signal(signal.SIGCONT)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_soak(world: World) -> None:
    """Everything at once; afterwards the herd is as it was."""
    expected = {form: read(form, _direct(world, form)) for form in FORMS_HERE}
    with_router = Tally()
    soak(world, expected, with_router, [*_node_faults(world), *_router_faults(world)])
    check(with_router)
    world.herd.wait_status(lambda s: _usable(s) == len(NAMES), "all nodes to be back", 30)
    settle(world)
    write_down(world)
    traced_before, sockets_before, tasks_before = traces(world), sockets(world), tasks(world)

    tally = Tally()
    soak(world, expected, tally, _node_faults(world))
    check(tally)
    world.herd.wait_status(lambda s: _usable(s) == len(NAMES), "all nodes to be back", 30)
    settle(world)
    wait_until(
        lambda: sockets(world) <= sockets_before + 3, 15, "the router's sockets to be closed"
    )
    wait_until(lambda: tasks(world) <= tasks_before + 3, 15, "the router's tasks to end")
    wait_until(lambda: traces(world) - traced_before >= tally.sent, 10, "a trace of every request")
    assert traces(world) - traced_before == tally.sent
    assert "Traceback" not in world.herd.log()
    for form in FORMS_HERE:
        got = read(form, world.herd.call("POST", form.path, form.body("tiny")))
        assert got == expected[form]


def soak(
    world: World, expected: dict[Form, Read], tally: Tally, faults: list[Callable[[], None]]
) -> None:
    """Clients and faults for a while; returns when all of them have ended."""
    until_s = clock.monotonic_s() + SOAK_S
    clients = [
        threading.Thread(target=client, args=(world.port, expected, tally, until_s, seed))
        for seed in range(CLIENTS)
    ]
    for thread in clients:
        thread.start()
    order = random.Random(SOAK_S)
    for fault in itertools.chain(*(order.sample(faults, len(faults)) for _ in range(1000))):
        if clock.monotonic_s() > until_s:
            break
        fault()
        time.sleep(0.3)
    for thread in clients:
        thread.join(60)
        assert not thread.is_alive()


def _node_faults(world: World) -> list[Callable[[], None]]:
    return [
        lambda: world.restart_engine("a"),
        lambda: world.freeze(world.engines["b"], 1.5),
        lambda: world.restart_engine("c"),
        lambda: world.restart_node("b"),
        lambda: world.freeze(world.nodes["c"], 1.0),
    ]


def _router_faults(world: World) -> list[Callable[[], None]]:
    return [world.restart_herd, lambda: world.freeze(world.herd, 1.0)]


def client(port: int, expected: dict[Form, Read], tally: Tally, until_s: float, seed: int) -> None:
    """Request after request: read at once, read slowly, or left in the middle."""
    choices = random.Random(seed)
    while clock.monotonic_s() < until_s:
        form = choices.choice(FORMS_HERE)
        how = choices.choices(["read", "slow", "leave"], [8, 1, 1])[0]
        try:
            ask(port, form, how, expected[form], tally)
        except OSError:
            tally.add("connection lost")
            time.sleep(0.05)


def ask(port: int, form: Form, how: str, expected: Read, tally: Tally) -> None:
    with Client(port, timeout_s=40) as connection:
        connection.ask("POST", form.path, form.body("tiny"))
        tally.begin()
        if how == "leave":
            time.sleep(0.03)
            tally.add("left")
            return
        answer = connection.begin()
        with contextlib.suppress(ConnectionError):
            for _ in connection.body(answer):
                if how == "slow":
                    time.sleep(0.05)
    got = read(form, answer)
    if got.error:
        tally.add("told")
    elif not got.is_whole or (got.text, got.tokens) != (expected.text, expected.tokens):
        tally.add("lie", f"{form.name}: {got} instead of {expected}")
    else:
        tally.add("whole")


def check(tally: Tally) -> None:
    print(dict(tally.seen))  # noqa: T201 (pytest shows it)
    assert not tally.lies
    assert tally.seen["whole"] > 20


def settle(world: World) -> None:
    """Nothing is in flight or waiting any more."""
    world.herd.wait_status(
        lambda s: not s["queue"]["in_flight"] and not s["queue"]["waiting"], "an idle herd", 20
    )


def write_down(world: World) -> None:
    """All that has ended is in the database: traces are written in their order."""
    assert world.herd.call("POST", "/api/chat", {"model": "mark"}).status == 404
    path = "/dashboard/api/traces?error=unknown_model"
    wait_until(lambda: world.herd.call("GET", path).json()["traces"], 20, "the last trace")


def sockets(world: World) -> int:
    """Descriptors of the router, idle connections to engines given time to expire."""
    folder = Path(f"/proc/{world.herd.popen.pid}/fd")
    return sum(1 for _ in folder.iterdir())


def tasks(world: World) -> float:
    """What the router works on, as it tells."""
    told = world.herd.call("GET", "/metrics").body.decode()
    (line,) = [line for line in told.splitlines() if line.startswith("herd_tasks ")]
    return float(line.split()[1])


def traces(world: World) -> int:
    """Rows of the router's database; each request id is there once."""
    with contextlib.closing(sqlite3.connect(world.herd.home / "herd.db", timeout=5)) as database:
        rows: list[tuple[Any, ...]] = database.execute(
            "SELECT count(*), count(DISTINCT request_id) FROM traces"
        ).fetchall()
    count, distinct = rows[0]
    assert count == distinct
    return int(count)


def _direct(world: World, form: Form) -> Any:
    return call(world.ports["a"], "POST", form.path, form.body("tiny"))


def _usable(status: dict[str, Any]) -> int:
    """Nodes that are online and whose engine works."""
    return sum(
        node["status"] == "online" and not any(engine["error"] for engine in node["engines"])
        for node in status["nodes"]
    )


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors")
