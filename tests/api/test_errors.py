"""Errors in the shapes a real server gives, per dialect and path."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.dialects import dialect_of
from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import (
    ApiError,
    attempts_failed,
    bad_body,
    body_timeout,
    body_too_large,
    broken_stream,
    is_model_name,
    method_not_allowed,
    missing_body,
    missing_model,
    no_node,
    not_found,
    refused,
    render,
    stream_error,
    unknown_listed_model,
    unknown_model,
)
from ollama_herd.core.request import Attempt, Dialect, OutcomeKind, Refusal, RefusalKind

from .recorded import Exchange, ollama

ENDPOINTS = sorted(INFERENCE.values(), key=lambda endpoint: endpoint.path)


def rendered(error: ApiError, exchange: Exchange) -> tuple[int, bytes, bytes]:
    status, content_type, body = render(error, dialect_of(exchange.path), exchange.path)
    return status, content_type, _without_id(body)


def answered(exchange: Exchange) -> tuple[int, bytes, bytes]:
    return exchange.status, exchange.content_type, _without_id(exchange.answer)


def _without_id(body: bytes) -> bytes:
    return re.sub(rb'"req_[0-9a-f]{24}"', b'"req_"', body)


@pytest.mark.parametrize(
    "number", ["026", "054", "055", "074", "146", "147", "165", "168", "173", "176"]
)
def test_unknown_model(number: str) -> None:
    exchange = ollama(number)
    asked = json.loads(exchange.asked)["model"]
    error = unknown_model(asked, INFERENCE[exchange.path.encode()])
    assert rendered(error, exchange) == answered(exchange)
    assert error.code == "unknown_model"


def test_unknown_model_of_the_legacy_embeddings() -> None:
    error = unknown_model("nope", INFERENCE[b"/api/embeddings"])
    assert error.message == 'model "nope" not found, try pulling it first'


@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("015", unknown_listed_model("nope")),
        ("142", unknown_listed_model("nope")),
        ("066", not_found()),
        ("067", not_found()),
        ("153", not_found()),
        ("216", not_found()),
        ("030", method_not_allowed("POST")),
        ("069", method_not_allowed("HEAD, GET")),
        ("152", method_not_allowed("POST")),
        ("028", missing_body(Dialect.OLLAMA)),
        ("149", missing_body(Dialect.OPENAI)),
        ("029", missing_model(INFERENCE[b"/api/generate"])),
        ("058", missing_model(INFERENCE[b"/api/chat"])),
        ("151", missing_model(INFERENCE[b"/v1/chat/completions"])),
        ("059", unknown_model("!!/x y", INFERENCE[b"/api/chat"])),
        ("056", bad_body("invalid character 'b' looking for beginning of object key string")),
    ],
)
def test_as_recorded(number: str, error: ApiError) -> None:
    exchange = ollama(number)
    assert rendered(error, exchange) == answered(exchange)
    assert error.allow.encode() == exchange.header(b"allow")


def test_a_busy_server_as_recorded() -> None:
    text = "server busy, please try again.  maximum pending requests exceeded"
    for number in ("333", "335"):
        exchange = ollama(number)
        assert rendered(ApiError(503, text, "busy"), exchange) == answered(exchange)


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [
        ("llama3.2", True),
        ("llama3.2:3b-instruct-q4_K_M", True),
        ("user/model", True),
        ("hf.co/user/model-GGUF:Q4_K_M", True),
        ("127.0.0.1:5055/library/tinyp:latest", True),
        ("http://127.0.0.1:5055/library/tinyp", True),
        ("a.b/model", False),
        ("model:", False),
        (":tag", False),
        ("a//b", False),
        ("a/b/c/d", False),
        ("-x", False),
        ("x y", False),
        ("caf\u00e9", False),
        ("m" * 80, True),
        ("m" * 81, False),
        ("m\nx", False),
    ],
)
def test_names_a_model_can_have(name: str, is_valid: bool) -> None:  # noqa: FBT001
    assert is_model_name(name) == is_valid
    status = unknown_model(name, INFERENCE[b"/api/chat"]).status
    assert status == (404 if is_valid else 400)


def test_source_suffixes() -> None:
    chat = INFERENCE[b"/api/chat"]
    assert unknown_model("m:8b:local", chat).message == "model 'm:8b:local' not found"
    assert unknown_model("m:cloud", chat).status == 404
    both = unknown_model("m:local:cloud", chat)
    assert (both.status, both.message) == (
        400,
        'use either :local or :cloud, not both: "m:local:cloud"',
    )


OWN = [
    no_node("m", ["mac-1 is offline"]),
    refused(Refusal(RefusalKind.QUEUE_FULL, "wait", 5), "m", INFERENCE[b"/api/chat"]),
    body_too_large(1000),
    body_timeout(60.0),
    attempts_failed("m", [Attempt("n1", "e", "m", OutcomeKind.UNREACHABLE)]),
    unknown_model("<m&\u2028>", INFERENCE[b"/api/chat"]),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
@pytest.mark.parametrize("error", OWN, ids=lambda error: error.code)
def test_own_errors_take_the_shape_of_the_path(endpoint: Endpoint, error: ApiError) -> None:
    status, content_type, body = render(error, endpoint.dialect, endpoint.path)
    assert status == error.status
    assert content_type.startswith(b"application/json")
    value: dict[str, Any] = json.loads(body)
    if endpoint.dialect is Dialect.OLLAMA:
        assert value == {"error": error.message}
    elif endpoint.dialect is Dialect.OPENAI:
        assert list(value["error"]) == ["message", "type", "param", "code"]
        assert value["error"]["message"] == error.message
    else:
        assert list(value) == ["type", "error", "request_id"]
        assert value["error"]["message"] == error.message
        assert re.fullmatch(r"req_[0-9a-f]{24}", value["request_id"])
    assert not re.search(rb"[<>&]", body)


def test_anthropic_types_follow_the_status() -> None:
    for status, kind in ((429, "rate_limit_error"), (503, "overloaded_error"), (502, "api_error")):
        _, _, body = render(ApiError(status, "x", "x"), Dialect.ANTHROPIC, "/v1/messages")
        assert json.loads(body)["error"]["type"] == kind


def test_request_ids_differ_by_request() -> None:
    ids = {
        render(no_node("m"), Dialect.ANTHROPIC, "/v1/messages", request_id)[2]
        for request_id in ("a", "b")
    }
    assert len(ids) == 2


# --- the herd's own ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(RefusalKind))
def test_a_refusal_keeps_its_reason(kind: RefusalKind) -> None:
    chat = INFERENCE[b"/api/chat"]
    message = "m" if kind is RefusalKind.UNKNOWN_MODEL else "why and what to do"
    error = refused(Refusal(kind, message, retry_after_s=7), "m", chat)
    if kind is RefusalKind.UNKNOWN_MODEL:
        assert (error.status, error.message) == (404, "model 'm' not found")
    elif kind is RefusalKind.WRONG_KIND:
        assert (error.status, error.message) == (400, message)
    elif kind is RefusalKind.CLOUD_MODEL:
        assert (error.status, error.message) == (403, message)
    else:
        assert (error.status, error.message, error.retry_after_s) == (503, message, 7)
    assert error.code == kind.value


def test_errors_that_pass_say_when_to_come_back() -> None:
    drained = refused(Refusal(RefusalKind.DRAINING, "later"), "m", INFERENCE[b"/api/chat"])
    for error in (no_node("m"), drained):
        assert error.status == 503
        assert error.retry_after_s > 0


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([OutcomeKind.UNREACHABLE], 502),
        ([OutcomeKind.CLOSED_EARLY, OutcomeKind.SILENT], 502),
        ([OutcomeKind.SILENT, OutcomeKind.SILENT], 504),
        ([OutcomeKind.ENGINE_BUSY], 503),
        ([OutcomeKind.ENGINE_BUSY, OutcomeKind.ENGINE_ERROR], 502),
        ([], 503),
    ],
)
def test_failed_attempts_are_told_one_by_one(outcomes: list[OutcomeKind], status: int) -> None:
    attempts = [
        Attempt(f"id{index}", "ollama-11434", "m", outcome, status=500)
        for index, outcome in enumerate(outcomes)
    ]
    names = {f"id{index}": f"box-{index}" for index in range(len(outcomes))}
    error = attempts_failed("m", attempts, names)
    assert error.status == status
    for name in names.values():
        assert name in error.message
    assert (status == 503) <= (error.retry_after_s > 0)


# --- streams that broke ------------------------------------------------------------------------


def _events(stream: bytes) -> list[tuple[str, Any]]:
    """As SDKs read server-sent events."""
    events = []
    for block in stream.decode().split("\n\n")[:-1]:
        fields = [line.partition(": ") for line in block.splitlines()]
        name = "".join(value for key, _, value in fields if key == "event")
        data = "\n".join(value for key, _, value in fields if key == "data")
        events.append((name, data))
    return events


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
@given(message=st.text(max_size=30))
def test_the_error_of_a_broken_stream_stands_alone(endpoint: Endpoint, message: str) -> None:
    error = stream_error(message, endpoint.dialect, endpoint.path)
    wanted = message.encode("utf-8", "replace").decode()
    if endpoint.dialect is Dialect.OLLAMA:
        assert error.count(b"\n") == 1
        assert json.loads(error) == {"error": wanted}
        return
    ((name, data),) = _events(error)
    value = json.loads(data)
    assert value["error"]["message"] == wanted  # what the OpenAI and Anthropic SDKs raise
    assert b"[DONE]" not in error or "[DONE]" in wanted
    if endpoint.dialect is Dialect.ANTHROPIC or endpoint.path == "/v1/responses":
        assert name == value["type"] == "error"


def test_a_line_that_was_cut_is_closed_first() -> None:
    whole = b'{"model":"m","response":"a","done":false}\n'
    error = stream_error("x", Dialect.OLLAMA, "/api/generate")
    assert stream_error("x", Dialect.OLLAMA, "/api/generate", whole) == error
    assert stream_error("x", Dialect.OLLAMA, "/api/generate", whole[:9]) == b"\n" + error
    event = b'data: {"choices":[]}\n\n'
    error = stream_error("x", Dialect.OPENAI, "/v1/completions")
    assert stream_error("x", Dialect.OPENAI, "/v1/completions", event) == error
    assert _events(event[:9] + stream_error("x", Dialect.OPENAI, "/v1/completions", event[:9]))[
        -1
    ] == ("", error.decode()[6:-2])


def test_a_broken_stream_says_where_and_what_to_do() -> None:
    text = broken_stream("gpu-1")
    assert "gpu-1" in text
    assert "again" in text
