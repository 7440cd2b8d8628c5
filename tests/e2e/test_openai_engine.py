"""An engine that speaks OpenAI only: Ollama's dialect is translated, OpenAI's passes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.anthropic_stream import read_message
from tests.e2e.processes import Herd, Node
from tests.fakes.checks import RefusedError
from tests.fakes.gojson import dumps
from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.raw import call
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape
from tests.fakes.state import Fault, Scripted, Settings
from tests.fakes.wire import Reply, Request

NAME = "smollm2-135m"
OVERFLOW = "request (2048 tokens) exceeds the available context size (1024 tokens), try again"
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "Say hi"}]}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Herd, FakeOpenAI]]:
    folder = tmp_path_factory.mktemp("openai")
    settings = Settings(is_frozen=True)
    with (
        FakeOpenAI(NAME, settings, embeds=True).in_thread() as engine,
        Herd(folder).ready() as herd,
        Node(folder, "llama", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_status(_serves, "the model of the OpenAI engine", 20)
        yield herd, engine


def _serves(status: dict[str, list[dict[str, list[dict[str, list[str]]]]]]) -> bool:
    return any(
        name.startswith(NAME)
        for node in status["nodes"]
        for engine in node["engines"]
        for name in engine["models"]
    )


@pytest.fixture
def openai(standing: tuple[Herd, FakeOpenAI]) -> tuple[Herd, FakeOpenAI]:
    standing[1].reset(Settings(is_frozen=True))
    standing[1].refuses = None
    return standing


def test_it_is_listed(openai: tuple[Herd, FakeOpenAI]) -> None:
    names = [entry["name"] for entry in openai[0].call("GET", "/api/tags").json()["models"]]
    assert [name.partition(":")[0] for name in names] == [NAME]


def test_chat_stream_is_translated(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, engine = openai
    engine.script(Scripted(tokens=("Hel", "lo <b>", " ünd", "\n")))
    answer = herd.call("POST", "/api/chat", CHAT)
    assert answer.status == 200
    assert answer.header("content-type") == "application/x-ndjson"
    lines = answer.lines()
    text = "".join(line["message"]["content"] for line in lines)
    assert text == "Hello <b> ünd\n"
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["eval_count"] == 4
    assert lines[-1]["prompt_eval_count"] > 0
    assert lines[-1]["total_duration"] > 0
    assert b"\\u003cb\\u003e" in answer.body
    assert engine.counters.by_path["/v1/chat/completions"] == 1


@pytest.mark.parametrize(
    ("path", "fields", "recorded"),
    [
        ("/api/chat", {**CHAT}, "040_chat_stream"),
        ("/api/chat", {**CHAT, "stream": False}, "041_chat_nostream"),
        ("/api/generate", {"model": NAME, "prompt": "a b", "raw": True}, "024_generate_raw"),
    ],
    ids=["chat", "chat whole", "generate"],
)
def test_translated_answers_have_ollamas_shape(
    openai: tuple[Herd, FakeOpenAI], path: str, fields: dict[str, object], recorded: str
) -> None:
    real = parse_response(read(OLLAMA / f"{recorded}.txt").response)
    body = {**fields, "stream": fields.get("stream", real.framing == "chunked")}
    answer = openai[0].call("POST", path, body)
    content_type = real.header("content-type")
    assert answer.status == 200, answer.body
    assert answer.header("content-type") == content_type
    assert body_shape(content_type, answer.body) == body_shape(content_type, real.body)


def test_generate_and_embed_are_translated(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, _ = openai
    answer = herd.call("POST", "/api/generate", {"model": NAME, "prompt": "a b", "stream": False})
    assert answer.json()["response"]
    assert answer.json()["done"] is True
    answer = herd.call("POST", "/api/embed", {"model": NAME, "input": ["a", "b"]})
    assert answer.status == 200, answer.body
    assert len(answer.json()["embeddings"]) == 2
    assert list(answer.json())[:2] == ["model", "embeddings"]


def test_options_are_translated(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, _ = openai
    answer = herd.call("POST", "/api/chat", {**CHAT, "options": {"num_predict": 3}})
    last = answer.lines()[-1]
    assert (last["done_reason"], last["eval_count"]) == ("length", 3)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("stream", [True, False])
def test_openai_passes_unmodified(
    openai: tuple[Herd, FakeOpenAI], path: str, *, stream: bool
) -> None:
    herd, engine = openai
    body = {**CHAT, "prompt": "x", "input": "x", "stream": stream}
    direct = call(engine.port, "POST", path, body)
    answer = herd.call("POST", path, body)
    assert (answer.status, answer.body) == (direct.status, direct.body)


@pytest.mark.parametrize(
    "fault", [Fault.CUT_MID_STREAM, Fault.CLEAN_END, Fault.ERROR_MID_STREAM], ids=lambda f: f.value
)
def test_broken_translated_stream_says_so(openai: tuple[Herd, FakeOpenAI], fault: Fault) -> None:
    herd, engine = openai
    engine.fail_next(fault)
    answer = herd.call("POST", "/api/chat", CHAT)
    assert answer.is_whole
    assert answer.lines()[-1]["error"]


MESSAGES = {**CHAT, "max_tokens": 20}


def test_messages_are_translated(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, engine = openai
    engine.script(Scripted(tokens=("Hel", "lo <b>", " ünd", "\n")))
    answer = herd.call("POST", "/v1/messages", {**MESSAGES, "stream": True})
    assert (answer.status, answer.header("content-type")) == (200, "text/event-stream")
    assert answer.header("x-herd-node") == "llama"
    message = read_message(answer.body)
    assert message["content"] == [{"type": "text", "text": "Hello <b> ünd\n"}]
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["output_tokens"] == 4
    answer = herd.call("POST", "/v1/messages", MESSAGES)
    real = parse_response(read(OLLAMA / "174_v1_messages_nostream.txt").response)
    assert answer.header("content-type") == real.header("content-type")
    assert list(answer.json()) == list(json.loads(real.body))
    assert answer.json()["content"] == message["content"]
    assert engine.counters.by_path["/v1/chat/completions"] == 2


def test_tokens_are_counted_for_it(openai: tuple[Herd, FakeOpenAI]) -> None:
    answer = openai[0].call("POST", "/v1/messages/count_tokens", CHAT)
    assert answer.status == 200
    assert answer.json()["input_tokens"] > 0


@pytest.mark.parametrize(
    "fault", [Fault.CUT_MID_STREAM, Fault.CLEAN_END, Fault.ERROR_MID_STREAM], ids=lambda f: f.value
)
def test_broken_translated_messages_say_so(openai: tuple[Herd, FakeOpenAI], fault: Fault) -> None:
    herd, engine = openai
    engine.fail_next(fault)
    answer = herd.call("POST", "/v1/messages", {**MESSAGES, "stream": True})
    assert answer.is_whole
    message = read_message(answer.body)
    assert message["error"]["type"] == "api_error"
    assert "node 'llama'" in message["error"]["message"]


def test_errors_of_messages_are_anthropics(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, engine = openai
    engine.refuses = RefusedError(400, OVERFLOW)
    answer = herd.call("POST", "/v1/messages", MESSAGES)
    assert answer.status == 400
    assert answer.json()["error"] == {"type": "invalid_request_error", "message": OVERFLOW}
    engine.refuses = None
    engine.fail_next(Fault.ERROR_500, times=-1)
    answer = herd.call("POST", "/v1/messages", {**MESSAGES, "stream": True})
    assert answer.status == 500
    assert answer.json()["error"]["type"] == "api_error"


def test_error_is_translated(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, engine = openai
    engine.fail_next(Fault.ERROR_500, times=-1)
    answer = herd.call("POST", "/api/chat", CHAT)
    assert answer.status == 500
    assert "Could not establish connection" in answer.json()["error"]


def test_a_refusal_of_the_engine_is_the_answer(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, engine = openai
    engine.refuses = RefusedError(400, OVERFLOW)
    for stream in (True, False):
        answer = herd.call("POST", "/api/chat", {**CHAT, "stream": stream})
        assert (answer.status, answer.json()) == (400, {"error": OVERFLOW})
    assert engine.counters.received == 2


def test_leaving_cancels_a_translated_stream(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, engine = openai
    engine.settings.token_ms = 5
    with pytest.raises(TimeoutError):
        herd.call(
            "POST",
            "/api/chat",
            {**CHAT, "stream": False, "options": {"num_predict": 90000}},
            timeout_s=0.3,
        )
    engine.wait_for(lambda c: c.cancelled == 1)


def test_a_stream_that_cannot_go_on_names_its_node(openai: tuple[Herd, FakeOpenAI]) -> None:
    herd, engine = openai
    engine.fail_next(Fault.CUT_MID_STREAM)
    answer = herd.call("POST", "/api/chat", {**CHAT, "format": "json"})
    last = json.loads(answer.body.splitlines()[-1])["error"]
    assert "broke off on node 'llama'" in last
    assert "an answer with a format cannot be continued" in last


class SpeaksMessages(FakeOpenAI):
    """Newer llama.cpp: it has `/v1/messages`, and refuses there in OpenAI's form."""

    refusal = (400, {"error": {"code": 400, "message": OVERFLOW, "type": "exceed_context_size"}})

    async def _answer(self, request: Request, reply: Reply) -> None:
        if request.path == "/v1/messages":
            status, body = self.refusal
            self.counters.by_path[request.path] += 1
            await reply.send(status, dumps(body), "application/json; charset=utf-8")
            return
        await super()._answer(request, reply)


def test_refusals_of_an_engine_that_speaks_messages_are_anthropics(tmp_path: Path) -> None:
    with (
        SpeaksMessages(NAME, Settings(is_frozen=True)).in_thread() as engine,
        Herd(tmp_path).ready() as herd,
        Node(tmp_path, "llama", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_status(_serves, "the model of the OpenAI engine", 20)
        probes = engine.counters.by_path["/v1/messages"]
        asked = {**CHAT, "max_tokens": 5}
        answer = herd.call("POST", "/v1/messages", asked)
        assert (answer.status, answer.json()["type"]) == (400, "error")
        error = {"type": "invalid_request_error", "message": OVERFLOW}
        assert answer.json()["error"] == error
        assert answer.header("X-Herd-Node") == "llama"
        message = "image input is not supported"
        engine.refusal = (500, {"error": {"code": 500, "message": message, "type": "server_error"}})
        answer = herd.call("POST", "/v1/messages", {**asked, "stream": True})
        assert answer.status == 400
        error = {"type": "invalid_request_error", "message": message}
        assert answer.json()["error"] == error
        assert engine.counters.by_path["/v1/messages"] >= probes + 2
        assert herd.status()["queue"]["in_flight"] == 0
