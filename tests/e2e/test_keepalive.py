"""Comments keep the clients of event streams alive in long waits, where that is configured."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fault_matrix import LIMITS, Form, read
from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.raw import Client, Response
from tests.fakes.state import Fault, Settings

COMMENT = b": keep-alive\n\n"
EVENTS = [
    Form(path, is_stream=True)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
]
LINES = [Form(path, is_stream=True) for path in ("/api/chat", "/api/generate")]
PATIENT = {**LIMITS, "HERD_HEDGE_FLOOR_S": "3", "HERD_HEDGE_CEILING_S": "4"}


@dataclass
class Pair:
    herd: Herd
    engines: list[FakeOllama]

    def fail(self, fault: Fault, times: int = -1, after_tokens: int = 3) -> None:
        for engine in self.engines:
            engine.fail_next(fault, times, after_tokens=after_tokens)

    def ask(self, form: Form, name: str = "tiny") -> Response:
        return self.herd.call("POST", form.path, body_of(form, name), timeout_s=30)


def body_of(form: Form, name: str) -> dict[str, Any]:
    if form.path == "/v1/responses":
        return {"model": name, "input": "Tell me", "stream": form.is_stream}
    return form.body(name)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("keepalive")
    with ExitStack() as stack:
        env = {**PATIENT, "HERD_SSE_KEEPALIVE_S": "0.2"}
        herd = stack.enter_context(Herd(folder, env=env).ready())
        engines: list[FakeOllama] = []
        for name in ("a", "b"):
            ollama = FakeOllama([model("tiny")], settings())
            other = FakeOpenAI("other", settings())
            engines += [stack.enter_context(e.in_thread()) for e in (ollama, other)]
            url = f"http://127.0.0.1:{herd.port}"
            stack.enter_context(Node(folder, name, url, [ollama.url, other.url]))
        herd.wait_models("tiny:latest", "other")
        herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
        yield Pair(herd, engines)
        assert "Traceback" not in herd.log()


def settings(**more: Any) -> Settings:
    return Settings(is_frozen=True, num_parallel=4, **more)


@pytest.fixture
def pair(standing: Pair) -> Iterator[Pair]:
    yield standing
    for engine in standing.engines:
        engine.heal()
        engine.state.settings = settings()


def slow(pair: Pair) -> None:
    for engine in pair.engines:
        engine.settings.prefill_ms = 900


@pytest.mark.parametrize("form", EVENTS, ids=lambda f: f.path)
def test_a_long_wait_is_filled_with_comments(pair: Pair, form: Form) -> None:
    quick = pair.ask(form)
    assert COMMENT not in quick.body
    assert quick.header("x-herd-node")
    slow(pair)
    answer = pair.ask(form)
    assert answer.is_whole
    assert answer.body.startswith(COMMENT)
    assert 2 <= answer.body.count(COMMENT) <= 6
    assert same(answer.body.replace(COMMENT, b""), quick.body)
    assert answer.header("content-type") == "text/event-stream"
    assert not answer.header("x-herd-node")  # nobody knew it when the head was sent


def same(one: bytes, other: bytes) -> bool:
    """Equal but for ids and times, which an engine makes anew."""
    return events(one) == events(other)


def events(body: bytes) -> list[str]:
    found = []
    for block in body.split(b"\n\n"):
        data = b"".join(line[6:] for line in block.split(b"\n") if line.startswith(b"data: "))
        event = json.loads(data) if data.startswith(b"{") else {}
        found.append(f"{event.get('type')} {event.get('choices')} {event.get('delta')}")
    return found


@pytest.mark.parametrize("form", LINES, ids=lambda f: f.path)
def test_lines_get_none(pair: Pair, form: Form) -> None:
    slow(pair)
    answer = pair.ask(form)
    assert read(form, answer).is_whole
    assert answer.header("x-herd-node")
    assert all(json.loads(line) for line in answer.body.splitlines())


@pytest.mark.parametrize("form", EVENTS, ids=lambda f: f.path)
def test_single_answers_get_none(pair: Pair, form: Form) -> None:
    slow(pair)
    whole = Form(form.path, is_stream=False)
    answer = pair.ask(whole)
    assert answer.header("x-herd-node")
    assert answer.json()


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.CLOSE], ids=lambda f: f.value)
@pytest.mark.parametrize("form", EVENTS, ids=lambda f: f.path)
def test_an_error_after_the_head_is_an_event(pair: Pair, form: Form, fault: Fault) -> None:
    """The engines hang first, so that the head is out; then every attempt fails."""
    pair.fail(Fault.SILENCE, times=-1)
    with Client(pair.herd.port) as client:
        client.ask("POST", form.path, body_of(form, "tiny"))
        answer = client.begin()
        assert answer.status == 200
        pieces = client.body(answer)
        assert next(pieces) == COMMENT
        for engine in pair.engines:
            engine.heal()
        pair.fail(fault)
        for engine in pair.engines:  # what hangs is closed, what is tried next fails
            engine.refuse()
            engine.listen()
        body = b"".join(pieces)
    last = body.rstrip().rpartition(b"\n\n")[2]
    assert answer.is_whole
    data = json.loads(last.rpartition(b"data: ")[2])
    assert data["error"]["message"] if "error" in data else data["message"]
    assert last.startswith(b"event: error\n") is (form.path in ("/v1/messages", "/v1/responses"))
    assert body.count(b"data: ") == 1


def _knows_weights(herd: Herd, body: dict[str, Any]) -> bool:
    """Slots are counted by weights, and a fresh node tells these a little after the model."""
    with Client(herd.port) as client:
        client.ask("POST", "/api/generate", body)
        herd.wait_status(lambda s: s["queue"]["in_flight"] > 0, "the request to run")
        running = herd.status()["queue"]["replicas"]
    herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "its end")
    return bool(running) and running[0]["runner"].startswith("sha256:")


def test_a_refusal_after_the_head_is_an_event(tmp_path: Path) -> None:
    """Waiting in the queue until the time for that is over."""
    env = {**PATIENT, "HERD_SSE_KEEPALIVE_S": "0.2", "HERD_QUEUE_TIMEOUT_S": "1"}
    with (
        FakeOllama([model("tiny")], settings(token_ms=5)).in_thread() as engine,
        Herd(tmp_path, env=env).ready() as herd,
        Node(
            tmp_path,
            "a",
            f"http://127.0.0.1:{herd.port}",
            [engine.url],
            env={"HERD_NODE_SLOTS": "4"},
        ),
        ExitStack() as stack,
    ):
        herd.wait_models("tiny:latest")
        body = {"model": "tiny", "prompt": "x", "options": {"num_predict": -1}}
        wait_until(lambda: _knows_weights(herd, body), 20, "the node to tell the model's weights")
        for _ in range(4):
            busy = stack.enter_context(Client(herd.port))
            busy.ask("POST", "/api/generate", body)
        herd.wait_status(lambda s: s["queue"]["in_flight"] == 4, "all slots to be taken")
        for form in EVENTS[::2]:
            answer = herd.call("POST", form.path, body_of(form, "tiny"))
            assert answer.status == 200
            assert answer.body.startswith(COMMENT)
            assert b"try again" in answer.body
            assert b'"error"' in answer.body
            assert answer.is_whole


@pytest.mark.parametrize(
    ("name", "form"),
    [("tiny", EVENTS[0]), ("tiny", EVENTS[1]), ("tiny", EVENTS[2]), ("other", EVENTS[0])],
    ids=str,
)
def test_a_continued_answer_stays_alive(pair: Pair, name: str, form: Form) -> None:
    """The first node stalls, the other one goes on; the pause is filled, nothing is torn."""
    healthy = pair.ask(form, name)
    wanted = read(form, healthy)
    first = 0 if healthy.header("x-herd-node") == "a" else 2
    preferred = pair.engines[first + (name == "other")]
    preferred.fail_next(Fault.STALL_MID_STREAM, times=-1, after_tokens=4)
    answer = pair.ask(form, name)
    assert COMMENT in answer.body
    assert read(form, answer) == wanted


@pytest.mark.parametrize("form", EVENTS[:1], ids=lambda f: f.path)
def test_a_client_that_leaves_is_noticed(pair: Pair, form: Form) -> None:
    pair.fail(Fault.SILENCE)
    client = Client(pair.herd.port)
    client.ask("POST", form.path, body_of(form, "tiny"))
    assert client.begin().status == 200
    client.close()
    pair.herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "nothing to be in flight", 2)
