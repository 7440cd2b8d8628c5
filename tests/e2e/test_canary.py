"""A runner that hangs while the health checks of its engine answer: found while idle, taken out,
told of, and brought back.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Herd, Node
from tests.fakes.models import embedding_model, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.raw import Response
from tests.fakes.state import Fault, Settings

QUICK = {
    "HERD_CANARY_S": "0.4",
    "HERD_HEDGE_FLOOR_S": "0.4",
    "HERD_HEDGE_CEILING_S": "1",
    "HERD_STALL_FLOOR_S": "0.4",
    "HERD_STALL_CEILING_S": "1",
}
CHAT = {"messages": [{"role": "user", "content": "Say hi"}]}
FORMS: dict[str, dict[str, Any]] = {
    "/api/chat": {"model": "tiny", **CHAT},
    "/v1/messages": {"model": "tiny", **CHAT, "max_tokens": 9},
    "/api/embed": {"model": "nomic", "input": "x"},
}


@dataclass
class Rig:
    herd: Herd
    engines: dict[str, FakeOllama]

    def ask(self, path: str = "/api/chat", **more: object) -> Response:
        return self.herd.call("POST", path, {**FORMS[path], **more}, timeout_s=30)

    def server(self, path: str = "/api/chat") -> str:
        """The node that answers."""
        answer = self.ask(path)
        assert answer.status == 200, answer.body
        return answer.header("x-herd-node")

    def settled(self, path: str = "/api/chat", **more: object) -> str:
        """The node that answers, once it gets canaries: a fresh node does not know at once which
        weights its models have, and what it learned by then is of another runner.
        """
        where = "/api/embed" if path == "/api/embed" else "/api/generate"
        for _ in range(6):
            answer = self.ask(path, **more)
            assert answer.status == 200, answer.body
            name = answer.header("x-herd-node")
            counters = self.engines[name].counters
            before = counters.by_path[where]
            try:
                self.engines[name].wait_for(lambda c, b=before: c.by_path[where] > b, 4)  # type: ignore[misc]
            except TimeoutError:
                continue
            return name
        raise AssertionError("no canary came")

    def other(self, name: str) -> str:
        return next(n for n in self.engines if n != name)

    def stuck(self) -> list[tuple[str, str]]:
        """Node and model of runners that hang."""
        return stuck_in(self.herd.status())

    def wait_stuck(self, *expected: tuple[str, str]) -> None:
        self.herd.wait_status(
            lambda s: stuck_in(s) == sorted(expected), f"{expected} to be stuck", 20
        )


def stuck_in(status: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted(
        (node["name"], name)
        for node in status["nodes"]
        for engine in node["engines"]
        for name in engine["stuck"]
    )


def canaries(engine: FakeOllama) -> list[dict[str, Any]]:
    """The bodies of canaries that reached an engine."""
    bodies = [json.loads(b) for _, path, _, b in engine.state.requests if path == "/api/generate"]
    return [body for body in bodies if body.get("options", {}).get("num_predict") == 1]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Two nodes; no client asks /api/generate, so that what comes there is a canary."""
    tmp_path = tmp_path_factory.mktemp("canaries")
    with ExitStack() as stack:
        engines = {}
        herd = stack.enter_context(Herd(tmp_path, env=QUICK).ready())
        for name in ("a", "b"):
            models = [model("tiny"), embedding_model("nomic")]
            fake = FakeOllama(models, Settings(is_frozen=True, num_parallel=4, keep_alive_s=-1))
            engines[name] = stack.enter_context(fake.in_thread())
            url = f"http://127.0.0.1:{herd.port}"
            stack.enter_context(Node(tmp_path, name, url, [fake.url]))
        herd.wait_status(lambda s: len(s["nodes"]) == 2 and s["models"] == 2, "both nodes", 20)
        yield Rig(herd, engines)


@pytest.fixture
def rig(standing: Rig) -> Iterator[Rig]:
    yield standing
    for engine in standing.engines.values():
        engine.heal()
    standing.wait_stuck()
    for engine in standing.engines.values():
        engine.runners.loaded.clear()


@pytest.mark.parametrize("path", ["/v1/messages", "/api/embed"])
def test_an_idle_runner_that_hangs_is_found_and_comes_back(rig: Rig, path: str) -> None:
    victim = rig.settled(path)
    other = rig.other(victim)
    name = "nomic:latest" if path == "/api/embed" else "tiny:latest"
    rig.engines[victim].fail_next(Fault.SILENCE, times=-1)
    rig.wait_stuck((victim, name))
    before = rig.engines[victim].counters.by_path[path]
    assert {rig.server(path) for _ in range(4)} == {other}
    if path != "/api/embed":  # a canary of an embedding is an embedding
        assert rig.engines[victim].counters.by_path[path] == before
    rig.engines[victim].heal()
    rig.wait_stuck()
    log = rig.herd.log()
    assert "does not answer" in log
    assert "no longer stuck" in log


def test_a_healthy_idle_runner_is_asked_and_nothing_else_changes(rig: Rig) -> None:
    engine = rig.engines[rig.settled(options={"num_ctx": 2048})]
    loads = engine.counters.loads
    seen = engine.counters.by_path["/api/generate"]
    engine.wait_for(lambda c: c.by_path["/api/generate"] >= seen + 2, 20, "canaries")
    body = canaries(engine)[-1]
    assert body["options"] == {"num_ctx": 2048, "num_predict": 1}
    assert "keep_alive" not in body
    assert engine.counters.loads == loads
    assert rig.stuck() == []


@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.STALL_MID_STREAM], ids=lambda f: f.value)
def test_a_silence_that_clients_meet_is_looked_into(rig: Rig, fault: Fault) -> None:
    """The client's answer comes from the other node; the canary says what to think of the first."""
    victim = rig.settled()
    rig.engines[victim].fail_next(fault, times=-1)
    answer = rig.ask()
    assert answer.status == 200
    assert answer.lines()[-1]["done"] is True
    rig.wait_stuck((victim, "tiny:latest"))
    rig.engines[victim].heal()
    rig.wait_stuck()


def test_an_openai_engine_gets_them_too(tmp_path: Path) -> None:
    with (
        FakeOpenAI().in_thread() as engine,
        Herd(tmp_path, env=QUICK).ready() as herd,
        Node(tmp_path, "a", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_status(lambda s: s["models"] > 0, "the engine's model", 20)
        name = herd.call("GET", "/api/tags").json()["models"][0]["name"]
        assert herd.call("POST", "/api/chat", {"model": name, **CHAT}).status == 200
        before = engine.counters.received
        engine.wait_for(lambda c: c.received > before, 20, "a canary")


def test_none_when_switched_off(tmp_path: Path) -> None:
    env = {**QUICK, "HERD_CANARY_S": "0"}
    with (
        FakeOllama([model("tiny")], Settings(is_frozen=True)).in_thread() as engine,
        Herd(tmp_path, env=env).ready() as herd,
        Node(tmp_path, "a", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("tiny:latest")
        assert herd.call("POST", "/api/chat", FORMS["/api/chat"]).status == 200
        with pytest.raises(TimeoutError):
            engine.wait_for(lambda c: c.received > 1, 4)
