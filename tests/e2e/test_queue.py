"""The router's own queue: bounded in length and time, first come first served, visible."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from ollama_herd import clock
from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client
from tests.fakes.state import Settings
from tests.pace import in_time

FOR_EVER = {"num_predict": -1}
PROMPT = [{"role": "user", "content": "hi"}]


@dataclass
class Narrow:
    """One slot, two places to wait, two seconds of patience."""

    herd: Herd
    engine: FakeOllama

    def open(
        self,
        path: str = "/api/generate",
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> Client:
        client = Client(self.herd.port)
        body = {"model": "m", "prompt": "x", "messages": PROMPT, "max_tokens": 3, **fields}
        client.ask("POST", path, body, headers)
        return client


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrow]:
    folder = tmp_path_factory.mktemp("queue")
    limits = {"HERD_QUEUE_LIMIT": "2", "HERD_QUEUE_TIMEOUT_S": "2"}
    with (
        FakeOllama([model("m"), model("other")]).in_thread() as engine,
        Herd(folder, env=limits).ready() as herd,
        Node(
            folder,
            "n",
            f"http://127.0.0.1:{herd.port}",
            [engine.url],
            env={"HERD_NODE_SLOTS": "1"},
        ),
    ):
        herd.wait_models("m:latest")
        yield Narrow(herd, engine)


@pytest.fixture
def narrow(standing: Narrow) -> Iterator[tuple[Narrow, ExitStack]]:
    """Clients entered into the stack are gone, and the queue empty, after the test."""
    standing.engine.reset(Settings(token_ms=5))
    with ExitStack() as clients:
        yield standing, clients
    standing.herd.wait_status(
        lambda s: s["queue"]["waiting"] == 0 and s["queue"]["in_flight"] == 0, "an empty queue"
    )


def fill(narrow: Narrow, clients: ExitStack, waiting: int) -> Client:
    """One request that never ends, and so many behind it."""
    running = clients.enter_context(narrow.open(options=FOR_EVER))
    narrow.engine.wait_for(lambda c: c.in_flight == 1)
    for i in range(waiting):
        clients.enter_context(narrow.open())
        narrow.herd.wait_status(lambda s, n=i + 1: s["queue"]["waiting"] == n, "one more to wait")  # type: ignore[misc]
    return running


def places_of(herd: Herd, error: str) -> list[str]:
    """The nodes that the trace of the last request refused so says could have taken it."""
    begun_s = clock.monotonic_s()
    while True:  # traces are written in batches
        found = herd.call("GET", f"/dashboard/api/traces?error={error}").json()["traces"]
        if found:
            break
        assert in_time(clock.monotonic_s() - begun_s, 10), "no such trace"
        time.sleep(0.05)
    trace = herd.call("GET", f"/dashboard/api/traces/{found[0]['request_id']}").json()
    assert trace["attempts"] == []
    assert trace["reason"] == trace["refusal"]["message"]
    names = {node["node_id"]: node["name"] for node in herd.status()["nodes"]}
    return [names[one["node_id"]] for one in trace["decision"]["candidates"]]


@pytest.mark.parametrize(
    "path", ["/api/generate", "/api/chat", "/v1/chat/completions", "/v1/messages"]
)
def test_a_full_queue_refuses_in_the_dialect(narrow: tuple[Narrow, ExitStack], path: str) -> None:
    small, clients = narrow
    fill(small, clients, 2)
    refused = clients.enter_context(small.open(path)).read()
    assert refused.status == 503
    assert int(refused.header("retry-after")) >= 1
    error = refused.json()["error"]
    text = error if path.startswith("/api/") else error["message"]
    assert len(text) > 20
    assert places_of(small.herd, "queue_full") == ["n"]
    assert small.engine.counters.received == 1


def test_waiting_is_bounded_in_time(narrow: tuple[Narrow, ExitStack]) -> None:
    small, clients = narrow
    begun_s = clock.monotonic_s()
    fill(small, clients, 0)
    waited = clients.enter_context(small.open()).read()
    assert waited.status == 503
    took_s = clock.monotonic_s() - begun_s
    assert took_s > 1.5
    assert in_time(took_s, 6)
    assert waited.json()["error"]
    assert small.engine.counters.received == 1
    assert places_of(small.herd, "queue_timeout") == ["n"]


def test_first_come_first_served(narrow: tuple[Narrow, ExitStack]) -> None:
    small, clients = narrow
    running = clients.enter_context(small.open(options=FOR_EVER))
    small.engine.wait_for(lambda c: c.in_flight == 1)
    waiting = []
    for i in range(2):
        waiting.append(clients.enter_context(small.open(prompt=f"number-{i}")))
        small.herd.wait_status(lambda s, n=i + 1: s["queue"]["waiting"] == n, "one more to wait")  # type: ignore[misc]
    running.close()
    for client in waiting:
        assert client.read().lines()[-1]["done"] is True
    asked = [r[3] for r in small.engine.state.requests if r[1] == "/api/generate"]
    assert [b"number-0" in asked[1], b"number-1" in asked[2]] == [True, True]
    assert small.engine.counters.max_in_flight == 1


def test_batch_lets_others_go_first(narrow: tuple[Narrow, ExitStack]) -> None:
    small, clients = narrow
    running = clients.enter_context(small.open(options=FOR_EVER))
    small.engine.wait_for(lambda c: c.in_flight == 1)
    waiting = []
    for i, headers in enumerate([{"X-Herd-Priority": "Batch"}, {}]):
        waiting.append(clients.enter_context(small.open(headers=headers, prompt=f"number-{i}")))
        small.herd.wait_status(lambda s, n=i + 1: s["queue"]["waiting"] == n, "one more to wait")  # type: ignore[misc]
    view = small.herd.call("GET", "/fleet/queue").json()["requests"]
    assert [(one["position"], one["priority"]) for one in view] == [(1, 0), (2, 1)]
    running.close()
    for client in waiting:
        assert client.read().lines()[-1]["done"] is True
    asked = [r[3] for r in small.engine.state.requests if r[1] == "/api/generate"]
    assert [b"number-1" in asked[1], b"number-0" in asked[2]] == [True, True]


def test_the_queue_can_be_seen(narrow: tuple[Narrow, ExitStack]) -> None:
    small, clients = narrow
    fill(small, clients, 1)
    view = small.herd.call("GET", "/fleet/queue").json()
    assert (view["waiting"], view["in_flight"]) == (1, 1)
    (waiting,) = view["requests"]
    assert waiting["position"] == 1
    assert waiting["expected_wait_s"] > 0


def test_one_slot_is_never_used_twice(narrow: tuple[Narrow, ExitStack]) -> None:
    small, clients = narrow
    small.engine.settings.token_ms = 1
    for _ in range(10):
        three = [clients.enter_context(small.open(stream=False)) for _ in range(3)]
        assert [client.read().status for client in three] == [200, 200, 200]
    assert small.engine.counters.max_in_flight == 1
