"""A client that leaves ends its request in every state, over every dialect, directly and relayed.

`test_cancellation` has the ways of leaving; here it is where the request is when that happens.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ollama_herd import clock
from tests.e2e.fault_matrix import LIMITS
from tests.e2e.processes import Herd, Node, wait_until
from tests.e2e.test_cancellation import check
from tests.e2e.test_relay import ELSEWHERE, _has_second_loopback
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client
from tests.fakes.state import Fault, Settings
from tests.pace import in_time

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi"}]}
PATHS: dict[str, dict[str, Any]] = {
    "/api/chat": {**CHAT, "options": {"num_predict": -1}},
    "/v1/chat/completions": {**CHAT, "max_tokens": 90_000},
    "/v1/messages": {**CHAT, "max_tokens": 90_000},
}
SLOTS = 2
A_MINUTE = 60_000


@dataclass
class Rig:
    """Two nodes; `preferred` is the one that is asked first."""

    herd: Herd
    engines: dict[str, FakeOllama]
    preferred: str = ""
    clients: list[Client] = field(default_factory=list)

    def open(self, path: str, *, stream: bool = True) -> Client:
        client = Client(self.herd.port)
        self.clients.append(client)
        client.ask("POST", path, {**PATHS[path], "stream": stream})
        return client

    def first(self) -> FakeOllama:
        return self.engines[self.preferred]

    def second(self) -> FakeOllama:
        return next(e for name, e in self.engines.items() if name != self.preferred)

    def set(self, **values: float) -> None:
        for engine in self.engines.values():
            for name, value in values.items():
                setattr(engine.settings, name, value)

    def total(self, name: str) -> int:
        return sum(getattr(engine.counters, name) for engine in self.engines.values())


@pytest.fixture(scope="module", params=["direct", "relayed"])
def standing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    if request.param == "relayed" and not _has_second_loopback():
        pytest.skip(f"this platform has no {ELSEWHERE}")
    folder: Path = tmp_path_factory.mktemp("leaving")
    host = "127.0.0.1" if request.param == "direct" else ELSEWHERE
    with ExitStack() as stack:
        herd = stack.enter_context(Herd(folder, env={**LIMITS, "HERD_PLACEMENT": "false"}).ready())
        engines = {}
        for name in ("a", "b"):
            engine = FakeOllama([model("tiny")], settings(), host=host)
            engines[name] = stack.enter_context(engine.in_thread())
            url, env = f"http://127.0.0.1:{herd.port}", {"HERD_NODE_SLOTS": str(SLOTS)}
            stack.enter_context(Node(folder, name, url, [engine.url], env=env))
        herd.wait_models("tiny:latest")
        herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
        way = "direct" if request.param == "direct" else "relay"
        herd.wait_status(lambda s: _ways(s) == {way}, f"the way to be {way}", 20)
        for engine in engines.values():
            wait_until(lambda e=engine: _was_shown(e), 20, "the model's weights to be asked for")  # type: ignore[misc]
        shown_s = herd.status()[
            "time_s"
        ]  # slots are counted by weights: known with the next report
        herd.wait_status(lambda s: s["time_s"] > shown_s + 1.5, "two heartbeats")
        yield Rig(herd, engines)
        assert "Traceback" not in herd.log()


def _was_shown(engine: FakeOllama) -> bool:
    return any(path == "/api/show" for _, path, _, _ in list(engine.state.requests))


def _ways(status: dict[str, Any]) -> set[str]:
    return {engine["path"] for node in status["nodes"] for engine in node["engines"]}


def settings() -> Settings:
    return Settings(is_frozen=True, num_parallel=SLOTS, token_ms=5)


@pytest.fixture
def rig(standing: Rig) -> Iterator[Rig]:
    body = {**CHAT, "options": {"num_predict": 2}}
    answer = standing.herd.call("POST", "/api/chat", body)
    standing.preferred = answer.header("x-herd-node")
    for engine in standing.engines.values():
        engine.reset(settings())
    yield standing
    while standing.clients:
        standing.clients.pop().close()
    for engine in standing.engines.values():
        engine.heal()
        engine.wait_for(lambda c: c.in_flight == 0, 5, "all requests to have left")
        engine.state.settings = settings()
    standing.herd.wait_status(
        lambda s: not s["queue"]["in_flight"] and not s["queue"]["waiting"], "an idle herd"
    )


def streaming(rig: Rig, path: str) -> tuple[Client, int]:
    client = rig.open(path)
    rig.first().wait_for(lambda c: c.tokens >= 3)
    return client, 1


def whole(rig: Rig, path: str) -> tuple[Client, int]:
    client = rig.open(path, stream=False)
    rig.first().wait_for(lambda c: c.tokens >= 3)
    return client, 1


def prefill(rig: Rig, path: str) -> tuple[Client, int]:
    rig.set(prefill_ms=A_MINUTE)
    client = rig.open(path)
    rig.first().wait_for(lambda c: c.in_flight == 1)
    return client, 1


def loading(rig: Rig, path: str) -> tuple[Client, int]:
    rig.set(load_ms=A_MINUTE)
    for engine in rig.engines.values():
        engine.runners.loaded.clear()
    client = rig.open(path)
    rig.first().wait_for(lambda c: c.waiting == 1)
    return client, 1


def retried(rig: Rig, path: str) -> tuple[Client, int]:
    rig.set(prefill_ms=A_MINUTE)
    rig.first().fail_next(Fault.ERROR_500)
    client = rig.open(path)
    rig.second().wait_for(lambda c: c.in_flight == 1, 5, "the second try")
    return client, 1


def hedged(rig: Rig, path: str) -> tuple[Client, int]:
    rig.set(prefill_ms=A_MINUTE)
    rig.first().fail_next(Fault.SILENCE)
    client = rig.open(path)
    rig.second().wait_for(lambda c: c.in_flight == 1, 10, "the try beside the first")
    return client, 2


def continued(rig: Rig, path: str) -> tuple[Client, int]:
    rig.first().fail_next(Fault.CUT_MID_STREAM, after_tokens=4)
    rig.second().settings.prefill_ms = A_MINUTE
    client = rig.open(path)
    rig.second().wait_for(lambda c: c.in_flight == 1, 5, "the other node to go on")
    return client, 1


STATES: list[Callable[[Rig, str], tuple[Client, int]]] = [
    streaming,
    whole,
    prefill,
    loading,
    retried,
    hedged,
    continued,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
def test_the_engines_are_free_at_once(
    rig: Rig,
    state: Callable[[Rig, str], tuple[Client, int]],
    path: str,
    request: pytest.FixtureRequest,
) -> None:
    client, running = state(rig, path)
    before = rig.total("cancelled")
    left_s = clock.monotonic_s()
    client.close()
    for _ in range(500):
        if rig.total("cancelled") >= before + running:
            break
        rig.herd.wait_status(lambda _status: True, "a moment")
    assert rig.total("cancelled") == before + running
    last_s = max(engine.counters.last_cancelled_s for engine in rig.engines.values())
    check(last_s - left_s, request)


@pytest.mark.parametrize("path", PATHS)
def test_what_waits_is_forgotten(rig: Rig, path: str) -> None:
    for number in range(1, 2 * SLOTS + 3):
        rig.open("/api/chat")
        rig.herd.wait_status(lambda s, n=number: _all(s) == n, "it to be known")  # type: ignore[misc]
    waiting = int(rig.herd.status()["queue"]["waiting"])
    assert waiting > 0
    wait_until(lambda: rig.total("in_flight") == 2 * SLOTS + 2 - waiting, 5, "the others to run")
    received = rig.total("received")
    client = rig.open(path)
    rig.herd.wait_status(lambda s: s["queue"]["waiting"] == waiting + 1, "one more to wait")
    client.close()
    took_s = rig.herd.wait_status(
        lambda s: s["queue"]["waiting"] == waiting, "it to be forgotten", 5
    )
    assert in_time(took_s, 1)
    assert rig.total("received") == received


def _all(status: dict[str, Any]) -> int:
    return int(status["queue"]["in_flight"]) + int(status["queue"]["waiting"])
