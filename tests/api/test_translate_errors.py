import json

import pytest

from ollama_herd.api import translate_reply
from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.translate_errors import foreign_error
from ollama_herd.core.request import OutcomeKind
from tests.api.exchanges import llamacpp
from tests.api.translations import (
    JSON,
    NOW_S,
    SSE,
    answered,
    chat,
    delta,
    events,
    lines,
)


@pytest.mark.parametrize(
    ("recording", "status", "message", "failed"),
    [
        ("024", 400, "[json.exception.parse_error.101] parse error at line 1", "client_error"),
        ("026", 400, "[json.exception.parse_error.101] parse error at line 1", "client_error"),
        ("047", 400, "request (6024 tokens) exceeds the available context", "client_error"),
        ("048", 400, "image input is not supported", "engine_error"),
        ("070", 502, "the engine refused the herd's key: Invalid API Key", "engine_error"),
        ("108", 404, "model 'asked' not found", "client_error"),
        ("119", 500, "proxy error: Could not establish connection", "engine_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_recorded_errors(
    recording: str, status: int, message: str, failed: str, *, stream: bool
) -> None:
    exchange = llamacpp(recording)
    made = chat(stream=stream)
    output = answered(made, exchange.body, exchange.content_type, exchange.status)
    assert (made.status, made.content_type) == (status, JSON)
    assert list(json.loads(output)) == ["error"]
    assert json.loads(output)["error"].startswith(message)
    assert made.failed is OutcomeKind(failed)


@pytest.mark.parametrize(
    ("recording", "message", "failed"),
    [
        (
            "117",
            "an error was encountered while running the model: proxy error: Failed",
            "engine_error",
        ),
        ("067", "the engine stopped before its answer was complete", "truncated"),
    ],
)
def test_recorded_streams_that_broke(recording: str, message: str, failed: str) -> None:
    made = chat()
    output = answered(made, llamacpp(recording).body)
    found = lines(output)
    assert len(found) > 5
    assert list(found[-1]) == ["error"]
    assert found[-1]["error"].startswith(message)
    assert not any(line.get("done") for line in found)
    assert made.failed is OutcomeKind(failed)
    assert made.status == 200


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "stop"),
        ("content_filter", "stop"),
        ("eos", "stop"),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_done_reason(finish: str, reason: str, *, done: bool) -> None:
    # Without [DONE] the finish reason alone says that the answer is whole.
    found = lines(answered(chat(), events(delta(content="x"), delta(finish), done=done)))
    assert found[-1]["done"] is True
    assert found[-1]["done_reason"] == reason


def test_done_without_finish_reason_is_an_end_too() -> None:
    found = lines(answered(chat(), events(delta(content="x"))))
    assert (found[-1]["done"], found[-1]["done_reason"]) == (True, "stop")


def test_done_line_does_not_wait_for_the_end_of_the_connection() -> None:
    made = chat()
    made.head(200, SSE)
    assert b'"done":true' in made.feed(events(delta("stop")), NOW_S)
    assert made.feed(b"data: more\n\n", NOW_S) == b""
    assert made.end(NOW_S) == b""


@pytest.mark.parametrize(
    "rest",
    [b"", b"data: ", b'data: {"choi', b'data: {"choices":[{"delta":{"content":"y"}}]}', b":\n\n"],
)
def test_stream_without_its_end_gets_an_error_and_no_done_line(rest: bytes) -> None:
    made = chat()
    found = lines(answered(made, events(delta(content="x"), done=False) + rest))
    assert list(found[-1]) == ["error"]
    assert made.failed is OutcomeKind.TRUNCATED
    assert made.usage is None
    assert all(line["done"] is False for line in found[:-1])


def test_last_event_without_a_blank_line_counts() -> None:
    stream = events(delta(content="x"), delta("stop"), done=False) + b"data: [DONE]"
    assert lines(answered(chat(), stream))[-1]["done"] is True


def test_nothing_goes_out_before_there_is_text() -> None:
    made = chat()
    made.head(200, SSE)
    assert made.feed(events(delta(role="assistant", content=None), done=False), NOW_S) == b""
    assert made.feed(events(delta(content=""), done=False), NOW_S) == b""
    output = made.end(NOW_S)
    # So a stream that breaks here still gets a true status.
    assert (made.status, made.content_type) == (502, JSON)
    assert list(json.loads(output)) == ["error"]
    assert not output.endswith(b"\n")


@pytest.mark.parametrize(
    ("event", "message", "status"),
    [
        (b'data: {"error":{"code":400,"message":"bad"}}\n\n', "bad", 400),
        (b'data: {"error":{"code":500,"message":"bad"}}\n\n', "running the model: bad", 500),
        (b'data: {"error":"bad"}\n\n', "running the model: bad", 500),
        (b'event: error\ndata: {"message":"bad"}\n\n', "running the model: bad", 500),
        (b'event: error\ndata: {"error":{"message":"bad"}}\n\n', "running the model: bad", 500),
        (b'error: {"code":500,"message":"bad"}\n\n', "running the model: bad", 500),
        (b"proxy error: bad", "running the model: proxy error: bad", 500),
        (b'data: {"error":{"code":503,"message":"Loading model"}}\n\n', "Loading model", 500),
        (b'data: {"error":{"x":1}}\n\n', "gave no reason", 500),
    ],
)
def test_errors_inside_a_stream(event: bytes, message: str, status: int) -> None:
    made = chat()
    first = answered(made, event)
    assert made.status == status
    assert json.loads(first)["error"].endswith(message)
    made = chat()
    later = lines(answered(made, events(delta(content="x"), done=False) + event))
    assert made.status == 200
    assert later[-1]["error"].endswith(message)
    assert made.failed is not None


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_answers_that_the_engine_gave_up(finish: str) -> None:
    made = chat()
    assert list(lines(answered(made, events(delta(content="x"), delta(finish))))[-1]) == ["error"]
    made = chat(stream=False)
    body = {"choices": [{"finish_reason": finish, "message": {"content": "x"}}]}
    assert "error" in json.loads(answered(made, json.dumps(body).encode(), JSON))
    assert made.failed is OutcomeKind.TRUNCATED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":5}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"<html>",
    ],
)
def test_garbage_is_an_error(body: bytes) -> None:
    made = chat(stream=False)
    output = answered(made, body, JSON)
    assert (made.status, made.content_type) == (502, JSON)
    assert "OpenAI" in json.loads(output)["error"]
    assert made.failed is OutcomeKind.GARBAGE


def test_garbage_inside_a_stream_is_an_error() -> None:
    made = chat()
    found = lines(answered(made, events(delta(content="x"), done=False) + b"data: nonsense\n\n"))
    assert list(found[-1]) == ["error"]
    assert made.failed is OutcomeKind.GARBAGE


def test_error_with_status_200() -> None:
    made = chat(stream=False)
    output = answered(made, b'{"error":"Unexpected endpoint or method."}', JSON)
    assert made.status == 500
    assert json.loads(output)["error"].endswith("Unexpected endpoint or method.")


@pytest.mark.parametrize(
    ("status", "body", "expected", "message"),
    [
        (503, b'{"error":{"message":"Loading model","code":503}}', 503, "Loading model"),
        (400, b'{"object":"error","message":"too long","code":400}', 400, "too long"),
        (422, b'{"detail":[{"loc":["body"],"msg":"field required"}]}', 422, "field required"),
        (404, b'{"detail":"Not Found"}', 404, "Not Found"),
        (
            404,
            b'{"error":{"message":"The model `e` does not exist."}}',
            404,
            "model 'asked' not found",
        ),
        (404, b"404 page not found", 404, "404 page not found"),
        (502, b"<html><body>Bad Gateway</body></html>", 502, "the engine answered with status 502"),
        (500, b"", 500, "the engine answered with status 500"),
        (403, b"{}", 502, "the engine refused the herd's key"),
        (302, b"", 502, "the engine answered with status 302"),
        (500, b"x" * 10_000, 500, "x" * 2000),
    ],
)
def test_errors_of_engines(status: int, body: bytes, expected: int, message: str) -> None:
    made = chat()
    output = answered(made, body, "text/plain", status)
    assert made.status == expected
    assert json.loads(output)["error"].startswith(message)
    assert len(json.loads(output)["error"]) <= 2000 + len("the engine refused the herd's key: ")
    assert made.failed is not None


def test_busy_engine() -> None:
    made = chat()
    answered(made, b'{"error":"busy"}', JSON, 503)
    assert made.failed is OutcomeKind.ENGINE_BUSY


def test_body_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate_reply, "MAX_BODY_BYTES", 100)
    made = chat(stream=False)
    made.head(200, JSON)
    assert made.feed(b"x" * 100, NOW_S) == b""
    assert "larger" in json.loads(made.feed(b"x", NOW_S))["error"]
    assert made.feed(b"x", NOW_S) == b""
    assert made.end(NOW_S) == b""


def test_engine_that_does_not_stream_when_asked_to() -> None:
    made = chat()
    first, last = lines(answered(made, llamacpp("020").body, JSON))
    assert (made.status, made.content_type) == (200, "application/x-ndjson")
    assert first["message"]["content"] == "Say hi<|im_end|>"
    assert (first["done"], last["done"], last["eval_count"]) == (False, True, 8)


OPENAI_CHAT, MESSAGES = (INFERENCE[path] for path in (b"/v1/chat/completions", b"/v1/messages"))


@pytest.mark.parametrize("endpoint", [OPENAI_CHAT, MESSAGES])
def test_pictures_that_no_model_sees_are_the_requests_fault(endpoint: Endpoint) -> None:
    exchange = llamacpp("048")
    made = foreign_error(endpoint, exchange.status, exchange.body)
    assert exchange.status == 500
    assert made is not None
    assert made[0] == 400
    error = json.loads(made[2])["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("image input is not supported")


def test_a_foreign_refusal_takes_anthropics_form() -> None:
    exchange = llamacpp("047")
    assert foreign_error(OPENAI_CHAT, exchange.status, exchange.body) is None
    made = foreign_error(MESSAGES, exchange.status, exchange.body)
    assert made is not None
    said = json.loads(made[2])
    assert (made[0], said["type"]) == (400, "error")
    assert said["error"]["type"] == "invalid_request_error"
    assert said["error"]["message"].startswith("request (6024 tokens) exceeds")
    assert foreign_error(MESSAGES, made[0], made[2]) is None


def test_a_foreign_error_without_words_says_its_status() -> None:
    made = foreign_error(MESSAGES, 422, b"<html>")
    assert made is not None
    assert "status 422" in json.loads(made[2])["error"]["message"]
