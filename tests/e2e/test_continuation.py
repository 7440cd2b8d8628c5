"""What a client sees of an answer that needed two nodes, and of one that could not go on."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from ollama_herd import clock
from tests.e2e.fault_matrix import LIMITS, Form, read
from tests.e2e.processes import Herd, Node, wait_until
from tests.e2e.test_cancellation import ALLOWED_S
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.raw import Client, Response
from tests.fakes.state import Fault, Scripted, Settings
from tests.pace import in_time

SETTINGS = {"is_frozen": True, "num_parallel": 4}
BROKEN = [
    Fault.CUT_MID_STREAM,
    Fault.CLEAN_END,
    Fault.ERROR_MID_STREAM,
    Fault.STALL_MID_STREAM,
]
CHAT = {"messages": [{"role": "user", "content": "Tell me"}], "stream": True}
STREAMS = [Form(p, is_stream=True) for p in ("/api/chat", "/api/generate", "/v1/chat/completions")]
TRANSLATED = [*STREAMS, Form("/v1/messages", is_stream=True)]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@dataclass
class Pair:
    """Two nodes, each with a fake Ollama (`tiny`) and a fake llama.cpp server (`other`)."""

    herd: Herd
    engines: dict[str, FakeOllama]

    def of(self, name: str) -> list[FakeOllama]:
        """Both engines that have a model."""
        kind = "openai" if name == "other" else "ollama"
        return [engine for key, engine in self.engines.items() if kind in key]

    def ask(self, path: str, body: dict[str, object]) -> Response:
        return self.herd.call("POST", path, body, timeout_s=20)

    def fail_first(self, name: str, fault: Fault, after_tokens: int = 4) -> Callable[[], int]:
        """Whichever engine is asked first breaks, the other one is healed by then."""
        for engine in self.of(name):
            engine.fail_next(fault, after_tokens=after_tokens)
        return lambda: sum(e.counters.received for e in self.of(name))

    @contextlib.contextmanager
    def only_one_breaks(
        self, name: str, fault: Fault, after_tokens: int = 4
    ) -> Iterator[FakeOllama]:
        """The engine that is preferred now breaks whatever it is asked; yields the other one."""
        answer = self.ask("/v1/chat/completions", {**CHAT, "model": name})
        node = answer.header("x-herd-node")
        (bad,) = (
            e for key, e in self.engines.items() if e in self.of(name) and key.endswith(f" {node}")
        )
        (good,) = (e for e in self.of(name) if e is not bad)
        bad.fail_next(fault, times=-1, after_tokens=after_tokens)
        yield good
        bad.heal()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("continuation")
    names = ["tiny", "tools", *(f"m{i}" for i in range(40))]
    engines: dict[str, FakeOllama] = {}
    with contextlib.ExitStack() as stack:
        for node in ("a", "b"):
            full = ("completion", "tools", "thinking")
            models = [model(n) if n != "tools" else model(n, capabilities=full) for n in names]
            made = FakeOllama(models, Settings(**SETTINGS, max_loaded=1000))  # type: ignore[arg-type]
            engines[f"ollama {node}"] = made
            engines[f"openai {node}"] = FakeOpenAI("other", Settings(**SETTINGS))  # type: ignore[arg-type]
        for engine in engines.values():
            stack.enter_context(engine.in_thread())
        herd = stack.enter_context(Herd(folder, env=LIMITS).ready())
        for node in ("a", "b"):
            urls = [engines[f"ollama {node}"].url, engines[f"openai {node}"].url]
            url = f"http://127.0.0.1:{herd.port}"
            stack.enter_context(Node(folder, node, url, urls, env={"HERD_NODE_SLOTS": "4"}))
        herd.wait_models("tiny:latest", "other")
        herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
        yield Pair(herd, engines)


@pytest.fixture
def pair(standing: Pair) -> Iterator[Pair]:
    for engine in standing.engines.values():
        engine.reset(Settings(**SETTINGS, max_loaded=1000))  # type: ignore[arg-type]
    yield standing
    for engine in standing.engines.values():
        engine.heal()
    standing.herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "nothing to be in flight")
    assert "Traceback" not in standing.herd.log()


@pytest.mark.parametrize("form", TRANSLATED, ids=lambda f: f.path)
@pytest.mark.parametrize("fault", BROKEN, ids=lambda f: f.value)
def test_engines_that_are_translated_for(pair: Pair, fault: Fault, form: Form) -> None:
    body = form.body("other")
    wanted = read(form, pair.ask(form.path, body))
    assert wanted.is_whole
    with pair.only_one_breaks("other", fault):
        for _ in range(2):
            assert read(form, pair.ask(form.path, body)) == wanted


@pytest.mark.parametrize("how", ["echo", "anew"])
@pytest.mark.parametrize("form", STREAMS, ids=lambda f: f.path)
@pytest.mark.parametrize("name", ["tiny", "other"])
def test_engines_that_repeat_what_was_said(pair: Pair, name: str, form: Form, how: str) -> None:
    body = form.body(name)
    wanted = read(form, pair.ask(form.path, body))
    with pair.only_one_breaks(name, Fault.CUT_MID_STREAM):
        for engine in pair.of(name):
            engine.settings.continues = how
        for _ in range(2):
            assert read(form, pair.ask(form.path, body)) == wanted


def test_two_breaks_in_one_answer(pair: Pair) -> None:
    """The second node breaks as well: two parts reach the client, then the truth."""
    pair.fail_first("tiny", Fault.CUT_MID_STREAM)
    answer = pair.ask("/api/chat", {**CHAT, "model": "tiny"})
    text = "".join(line["message"]["content"] for line in answer.lines() if "message" in line)
    whole = pair.ask("/api/chat", {**CHAT, "model": "tiny"})
    assert read(STREAMS[0], whole).text.startswith(text)
    assert len(answer.lines()) == 9
    assert answer.lines()[-1]["error"]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/chat", {"tools": TOOLS}),
        ("/api/chat", {"format": "json"}),
        ("/api/chat", {"think": True}),
        ("/v1/chat/completions", {"tools": TOOLS}),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}),
        ("/v1/messages", {"tools": [{"name": "f", "input_schema": {}}], "max_tokens": 20}),
        ("/v1/responses", {"input": "Tell me"}),
    ],
    ids=lambda v: v if isinstance(v, str) else next(iter(v)),
)
def test_what_cannot_go_on_ends_in_one_error(
    pair: Pair, path: str, more: dict[str, object]
) -> None:
    asked = pair.fail_first("tiny", Fault.CUT_MID_STREAM)
    answer = pair.ask(path, {**CHAT, "model": "tools", **more})
    assert answer.is_whole
    assert asked() == 1
    assert answer.body.count(b'"error"') >= 1
    assert b"[DONE]" not in answer.body
    assert b"broke off" in answer.body


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_what_had_not_begun_is_asked_again(pair: Pair, path: str) -> None:
    """Whatever was asked: no text had reached the client."""
    asked = {**CHAT, "model": "other", "tools": TOOLS}
    wanted = read(Form(path, is_stream=True), pair.ask(path, asked))
    with pair.only_one_breaks("other", Fault.CUT_MID_STREAM, after_tokens=0):
        for _ in range(3):
            assert read(Form(path, is_stream=True), pair.ask(path, asked)) == wanted


def test_the_trace_names_both_nodes(pair: Pair) -> None:
    with pair.only_one_breaks("tiny", Fault.CUT_MID_STREAM):
        for _ in range(3):
            pair.ask("/api/chat", {**CHAT, "model": "tiny"})

    def listed() -> list[dict[str, object]]:
        answer = pair.herd.call("GET", "/dashboard/api/traces")
        found: list[dict[str, object]] = answer.json()["traces"]
        is_tiny = [trace for trace in found if str(trace["model"]).startswith("tiny")]
        return [trace for trace in is_tiny if trace["continued"]]

    wait_until(lambda: bool(listed()), 5, "a trace of a continued answer")
    trace = listed()[0]
    assert trace["attempt_count"] == 2
    assert trace["output_tokens"] == 12
    assert not trace["hedged"]
    assert trace["tags"] == []
    metrics = pair.herd.call("GET", "/metrics").body.decode()
    assert re.search(r'herd_continuations_total{model="tiny:latest",node="[ab]"} [1-9]', metrics)
    one = pair.herd.call("GET", f"/dashboard/api/traces/{trace['request_id']}")
    assert b'"truncated"' in one.body
    assert b'"completed"' in one.body
    decisions = [*one.json()["earlier"], one.json()["decision"]]
    went_to = [decision["candidates"][0]["node_id"] for decision in decisions]
    assert went_to == [attempt["node_id"] for attempt in one.json()["attempts"]]


def test_one_text_in_a_long_answer(pair: Pair) -> None:
    words = tuple(f" word{i}" for i in range(400))
    for engine in pair.of("tiny"):
        engine.script(Scripted(tokens=words), "tiny")
    with pair.only_one_breaks("tiny", Fault.CUT_MID_STREAM, after_tokens=300):
        for _ in range(2):
            got = read(STREAMS[0], pair.ask("/api/chat", {**CHAT, "model": "tiny"}))
            assert got.text == "".join(words)
            assert got.tokens == 400


# --- clients that leave ------------------------------------------------------------------------


def open_request(pair: Pair, name: str) -> Client:
    client = Client(pair.herd.port)
    client.ask("POST", "/api/chat", {**CHAT, "model": name, "options": {"num_predict": -1}})
    return client


def leave(pair: Pair, client: Client, name: str) -> None:
    """Close; every engine must see it within the time, and the herd forget it."""
    busy = [e for e in pair.of(name) if e.counters.in_flight or e.counters.received]
    before = sum(e.counters.cancelled for e in busy)
    left_s = clock.monotonic_s()
    client.close()
    wait_until(lambda: sum(e.counters.cancelled for e in busy) > before, 5, "an engine to see it")
    last_s = max(e.counters.last_cancelled_s for e in busy)
    assert in_time(last_s - left_s, ALLOWED_S)
    pair.herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "nothing to be in flight")


def test_leaving_while_two_nodes_are_asked(pair: Pair) -> None:
    name = "m1"
    for engine in pair.of("tiny"):
        engine.fail_next(Fault.SILENCE, times=-1)
    client = open_request(pair, name)
    wait_until(
        lambda: sum(e.counters.received for e in pair.of(name)) == 2,
        10,
        "a second node to be asked",
    )
    before = sum(e.counters.cancelled for e in pair.of(name))
    left_s = clock.monotonic_s()
    client.close()
    wait_until(
        lambda: sum(e.counters.cancelled for e in pair.of(name)) == before + 2, 5, "both to see it"
    )
    last_s = max(e.counters.last_cancelled_s for e in pair.of(name))
    assert in_time(last_s - left_s, ALLOWED_S)
    pair.herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "nothing to be in flight")


def test_leaving_while_it_is_retried(pair: Pair) -> None:
    with pair.only_one_breaks("tiny", Fault.ERROR_500) as other:
        for engine in pair.of("tiny"):
            engine.settings.prefill_ms = 60_000
        client = open_request(pair, "tiny")
        wait_until(lambda: other.counters.in_flight == 1, 5, "the second try")
        leave(pair, client, "tiny")


def test_leaving_while_another_node_goes_on(pair: Pair) -> None:
    with pair.only_one_breaks("tiny", Fault.CUT_MID_STREAM):
        for engine in pair.of("tiny"):
            engine.settings.token_ms = 5
        client = open_request(pair, "tiny")
        answer = client.begin()
        pieces = client.body(answer)
        for _ in range(12):
            next(pieces)
        leave(pair, client, "tiny")


def test_the_loser_is_let_go_at_once(pair: Pair) -> None:
    """Silence on one node: when the other answers, the silent one is told to stop."""
    with pair.only_one_breaks("tiny", Fault.SILENCE):
        answer = pair.ask("/api/chat", {**CHAT, "model": "tiny"})
        assert answer.lines()[-1]["done"] is True
        wait_until(lambda: not any(e.counters.in_flight for e in pair.of("tiny")), 2, "the loser")
    assert json.loads(answer.body.split(b"\n")[0])["model"] == "tiny"
