"""Unloading reaches every node, and a request may name models to take instead of its own."""

import pytest

from tests.e2e.conftest import Pair
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape

CHAT = {"messages": [{"role": "user", "content": "Say hi"}], "stream": False}


def load(pair: Pair, name: str) -> None:
    """On both engines, without the router knowing of it."""
    for node in ("a", "b"):
        assert pair.direct(node, "POST", "/api/generate", {"model": name}).status == 200


@pytest.mark.parametrize("name", ["010_unload_generate_keepalive0", "063_chat_unload"])
def test_unload_reaches_all_nodes_at_once(pair: Pair, name: str) -> None:
    load(pair, "tiny")
    recording = read(OLLAMA / f"{name}.txt")
    real = parse_response(recording.response)
    answer = pair.call("POST", recording.path, recording.body)
    content_type = real.header("content-type")
    assert (answer.status, answer.header("content-type")) == (200, content_type)
    assert body_shape(content_type, answer.body) == body_shape(content_type, real.body)
    assert answer.json()["done_reason"] == "unload"
    assert sorted(answer.header("x-herd-node").split(", ")) == ["a", "b"]
    for node in ("a", "b"):
        running = pair.direct(node, "GET", "/api/ps").json()["models"]
        assert "tiny:latest" not in [entry["name"] for entry in running]


def test_unload_does_not_wait_for_a_slot(pair: Pair) -> None:
    engine = pair.engine("a")
    engine.settings.token_ms = 5
    body = {"model": "only-a", "prompt": "x", "options": {"num_predict": -1}}
    clients = [pair.open("/api/generate", body) for _ in range(4)]
    engine.wait_for(lambda c: c.in_flight == 4)
    answer = pair.call("POST", "/api/generate", {"model": "only-a", "keep_alive": 0})
    assert answer.json()["done_reason"] == "unload"
    for client in clients:
        client.close()
    engine.wait_for(lambda c: c.in_flight == 0)


def test_unload_of_an_unknown_model(pair: Pair) -> None:
    answer = pair.call("POST", "/api/generate", {"model": "nope", "keep_alive": 0})
    assert (answer.status, answer.json()) == (404, {"error": "model 'nope' not found"})


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_fallback_serves_when_the_model_is_unknown(pair: Pair, path: str) -> None:
    body = {**CHAT, "model": "nope", "fallback_models": ["nope-too", "only-b"]}
    answer = pair.call("POST", path, body)
    assert answer.status == 200
    assert answer.header("x-herd-model") == "only-b"
    assert answer.header("x-herd-node") == "b"
    sent = pair.engine("b").state.requests[-1][3]
    assert b"fallback_models" not in sent
    assert b'"only-b"' in sent


def test_no_fallback_while_the_model_is_there(pair: Pair) -> None:
    answer = pair.call(
        "POST", "/api/chat", {**CHAT, "model": "tiny", "fallback_models": ["only-a"]}
    )
    assert (answer.status, answer.json()["model"]) == (200, "tiny")
    assert not answer.header("x-herd-model")


def test_no_fallback_unless_asked_for(pair: Pair) -> None:
    assert pair.call("POST", "/api/chat", {**CHAT, "model": "nope"}).status == 404


def test_the_refusal_is_about_the_model_asked_for(pair: Pair) -> None:
    body = {**CHAT, "model": "nope", "fallback_models": ["nope-too"]}
    answer = pair.call("POST", "/api/chat", body)
    assert (answer.status, answer.json()) == (404, {"error": "model 'nope' not found"})
    assert not answer.header("x-herd-model")
