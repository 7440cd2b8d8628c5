"""Thousands of clients that wait at once for one slot: what they cost a router, and who is told."""

import contextlib
import selectors
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_herd import clock
from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client
from tests.fakes.state import Settings

PROMPT_BYTES = 4096
"""Of each request: what a router holds of a client that waits is foremost its body."""

LIMITS = {"HERD_QUEUE_TIMEOUT_S": "300"}


@dataclass(frozen=True)
class Crowd:
    """What was seen. Bytes are the router's resident memory; times are of a new client's answers.

    `waiting` are in the queue; `told` got a 503 with Retry-After at once.
    """

    clients: int
    waiting: int
    told: int
    before_bytes: int
    crowded_bytes: int
    again_bytes: int
    answer_ms: list[float]

    @property
    def bytes_each(self) -> float:
        """What each client costs."""
        return (self.crowded_bytes - self.before_bytes) / self.clients

    @property
    def slowest_ms(self) -> float:
        return max(self.answer_ms)


def gather(folder: Path, clients: int, queue_limit: int) -> Crowd:
    """One crowd waits, leaves, and comes again. Raises TimeoutError when it does not settle."""
    waiting = min(clients, queue_limit)
    env = LIMITS | {"HERD_QUEUE_LIMIT": str(queue_limit)}
    engine = FakeOllama([model("m")], Settings(is_frozen=True, token_ms=20))
    with engine.in_thread(), Herd(folder, env=env).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(folder, "n", url, [engine.url], env={"HERD_NODE_SLOTS": "1"}):
            herd.wait_models("m:latest")
            before_bytes = herd.rss_bytes()
            with _runs_for_ever(herd, engine):
                with _waits(herd, clients, waiting) as crowd:
                    crowded_bytes = herd.rss_bytes()
                    answer_ms = [_answer_ms(herd) for _ in range(20)]
                    told = _told(crowd, clients - waiting)
                herd.wait_status(lambda s: s["queue"]["waiting"] == 0, "the crowd to be gone", 30)
                with _waits(herd, clients, waiting):
                    again_bytes = herd.rss_bytes()
            herd.wait_status(
                lambda s: not s["queue"]["waiting"] and not s["queue"]["in_flight"], "idle", 30
            )
    return Crowd(clients, waiting, told, before_bytes, crowded_bytes, again_bytes, answer_ms)


@contextlib.contextmanager
def _runs_for_ever(herd: Herd, engine: FakeOllama) -> Iterator[None]:
    """The only slot is taken."""
    with Client(herd.port) as client:
        body = {"model": "m", "prompt": "x", "options": {"num_predict": -1}}
        client.ask("POST", "/api/generate", body)
        engine.wait_for(lambda c: c.in_flight == 1)
        yield


@contextlib.contextmanager
def _waits(herd: Herd, clients: int, waiting: int) -> Iterator[list[Client]]:
    """So many clients have asked, and so many of them are in the queue."""
    body = {"model": "m", "prompt": "x" * PROMPT_BYTES, "stream": False}
    with contextlib.ExitStack() as stack:
        crowd = []
        for _ in range(clients):
            client = stack.enter_context(Client(herd.port))
            client.ask("POST", "/api/generate", body)
            crowd.append(client)
        herd.wait_status(lambda s: s["queue"]["waiting"] == waiting, "the crowd to wait", 60)
        yield crowd


def _answer_ms(herd: Herd) -> float:
    begun_s = clock.monotonic_s()
    answer = herd.call("GET", "/api/tags")
    assert answer.status == 200
    return 1000 * (clock.monotonic_s() - begun_s)


def _told(crowd: list[Client], expected: int, within_s: float = 30.0) -> int:
    """How many have been answered with a 503 that says when to come again."""
    told, until_s = 0, clock.monotonic_s() + within_s
    with selectors.DefaultSelector() as selector:
        for client in crowd:
            selector.register(client.socket, selectors.EVENT_READ, client)
        while told < expected and clock.monotonic_s() < until_s:
            for key, _events in selector.select(1.0):
                selector.unregister(key.fileobj)
                answer = key.data.read()
                assert answer.status == 503, answer.body
                assert int(answer.header("retry-after")) >= 1
                told += 1
    return told
