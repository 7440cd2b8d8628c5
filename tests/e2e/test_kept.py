"""Over its bound on memory the router keeps no more: answers go on, but not after a failure."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fault_matrix import LIMITS, Form, read
from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.raw import Client, Response
from tests.fakes.state import Fault, Settings

LONG = 400
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me"}], "stream": True}
FORMS = [
    Form(path, is_stream=True)
    for path in ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages")
]


@dataclass
class Pair:
    herd: Herd
    engines: list[FakeOllama]

    def fail(self, after_tokens: int) -> None:
        for engine in self.engines:
            engine.fail_next(Fault.STALL_MID_STREAM, after_tokens=after_tokens)

    def heal(self) -> None:
        for engine in self.engines:
            engine.heal()

    def ask(self, form: Form, name: str) -> Response:
        body = form.body(name)
        if "max_tokens" in body:
            body["max_tokens"] = LONG
        return self.herd.call("POST", form.path, body, timeout_s=30)

    def let_go(self) -> int:
        return int(self.herd.status()["kept"]["let_go"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Answers of 400 tokens at 2 ms; room for 12 KB."""
    folder: Path = tmp_path_factory.mktemp("kept")
    settings = {"is_frozen": True, "num_parallel": 4, "answer_tokens": LONG, "token_ms": 2}
    with ExitStack() as stack:
        env = {**LIMITS, "HERD_KEPT_BYTES": "12000", "HERD_STALL_CEILING_S": "0.6"}
        herd = stack.enter_context(Herd(folder, env=env).ready())
        engines: list[FakeOllama] = []
        for name in ("a", "b"):
            ollama = FakeOllama([model("tiny")], Settings(**settings))  # type: ignore[arg-type]
            other = FakeOpenAI("other", Settings(**settings))  # type: ignore[arg-type]
            engines += [stack.enter_context(e.in_thread()) for e in (ollama, other)]
            url = f"http://127.0.0.1:{herd.port}"
            stack.enter_context(Node(folder, name, url, [ollama.url, other.url]))
        herd.wait_models("tiny:latest", "other")
        herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
        yield Pair(herd, engines)


@pytest.mark.parametrize("name", ["tiny", "other"])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.path)
def test_a_long_answer_ends_with_one_error(pair: Pair, form: Form, name: str) -> None:
    if name == "other" and form.path == "/v1/messages":
        pytest.skip("llama.cpp's own messages are not spoken by the fake")
    before = pair.let_go()
    pair.fail(after_tokens=300)
    answer = pair.ask(form, name)
    pair.heal()
    assert answer.is_whole
    assert read(form, answer).error
    assert answer.body.count(b'"error"') == 1 or form.path == "/v1/messages"
    assert b"send the request again" in answer.body
    assert b"not kept" in answer.body
    assert pair.let_go() > before


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.path)
def test_a_short_one_goes_on(pair: Pair, form: Form) -> None:
    for engine in pair.engines:
        engine.settings.answer_tokens = 20
    pair.engines[0].fail_next(Fault.STALL_MID_STREAM, after_tokens=5, times=-1)
    answers = [read(form, pair.ask(form, "tiny")) for _ in range(3)]
    pair.heal()
    for engine in pair.engines:
        engine.settings.answer_tokens = LONG
    assert [answer.error for answer in answers] == [""] * 3
    assert all(answer.is_whole for answer in answers)


def test_a_whole_answer_is_not_hurt(pair: Pair) -> None:
    """A healthy stream that was let go, and a single answer longer than the room."""
    form = Form("/api/chat", is_stream=True)
    assert read(form, pair.ask(form, "tiny")).is_whole
    whole = Form("/api/chat", is_stream=False)
    assert read(whole, pair.ask(whole, "tiny")).is_whole


def test_it_is_given_back(pair: Pair) -> None:
    with Client(pair.herd.port) as client:
        client.ask("POST", "/api/chat", {**CHAT, "model": "tiny"})
        pair.herd.wait_status(lambda s: s["kept"]["bytes"] > 0, "bytes to be kept")
    pair.herd.wait_status(lambda s: s["kept"]["bytes"] == 0, "nothing to be kept")
    assert pair.herd.status()["kept"]["limit_bytes"] == 12000
