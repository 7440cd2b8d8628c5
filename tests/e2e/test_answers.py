"""What the herd answers is what the engine said, byte for byte, in every dialect."""

from typing import Any

import pytest

from tests.e2e.conftest import Pair
from tests.fakes.raw import call
from tests.fakes.state import Scripted

PROMPT = {"messages": [{"role": "user", "content": "Why is the sky <blue> & deep?"}]}

REQUESTS = {
    "chat": ("/api/chat", {"model": "tiny", **PROMPT}),
    "chat whole": ("/api/chat", {"model": "tiny", **PROMPT, "stream": False}),
    "chat long": ("/api/chat", {"model": "tiny", **PROMPT, "options": {"num_predict": 400}}),
    "chat whole long": (
        "/api/chat",
        {"model": "tiny", **PROMPT, "stream": False, "options": {"num_predict": 900}},
    ),
    "chat thinking": ("/api/chat", {"model": "tiny-full", **PROMPT}),
    "generate": ("/api/generate", {"model": "tiny", "prompt": "The sky is"}),
    "generate whole": ("/api/generate", {"model": "tiny", "prompt": "Hi", "stream": False}),
    "generate load": ("/api/generate", {"model": "tiny"}),
    "embed": ("/api/embed", {"model": "nomic-embed-text", "input": ["a", "b"]}),
    "embed many": ("/api/embed", {"model": "nomic-embed-text", "input": ["a b"] * 200}),
    "embed small": ("/api/embed", {"model": "tiny-embed", "input": "a", "dimensions": 8}),
    "embeddings": ("/api/embeddings", {"model": "tiny-embed", "prompt": "a"}),
    "v1 chat": ("/v1/chat/completions", {"model": "tiny", **PROMPT, "stream": True}),
    "v1 chat usage": (
        "/v1/chat/completions",
        {"model": "tiny", **PROMPT, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "v1 chat whole": ("/v1/chat/completions", {"model": "tiny", **PROMPT}),
    "v1 completions": ("/v1/completions", {"model": "tiny", "prompt": "a b", "stream": True}),
    "v1 completions whole": ("/v1/completions", {"model": "tiny", "prompt": "a b"}),
    "v1 embeddings": ("/v1/embeddings", {"model": "tiny-embed", "input": "x"}),
    "v1 embeddings base64": (
        "/v1/embeddings",
        {"model": "tiny-embed", "input": ["x", "y"], "encoding_format": "base64"},
    ),
    "v1 responses": ("/v1/responses", {"model": "tiny", "input": "hi", "stream": True}),
    "v1 responses whole": ("/v1/responses", {"model": "tiny", "input": "hi"}),
    "v1 messages": (
        "/v1/messages",
        {"model": "tiny", **PROMPT, "max_tokens": 20, "stream": True},
    ),
    "v1 messages whole": ("/v1/messages", {"model": "tiny", **PROMPT, "max_tokens": 20}),
    "no tools": ("/api/chat", {"model": "tiny", **PROMPT, "tools": [{"type": "function"}]}),
    "bad option": (
        "/api/generate",
        {"model": "tiny", "prompt": "x", "options": {"num_predict": "two"}},
    ),
    "not an embedder": ("/api/embed", {"model": "tiny", "input": "x"}),
    "not an embedder v1": ("/v1/embeddings", {"model": "tiny", "input": "x"}),
}


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
def test_passes_unmodified(pair: Pair, path: str, body: dict[str, object]) -> None:
    direct = pair.direct("a", "POST", path, body)
    herded = pair.call("POST", path, body)
    assert herded.status == direct.status
    assert herded.body == direct.body
    assert herded.framing == direct.framing
    assert herded.is_whole
    for name in ("content-type", "cache-control"):
        assert herded.header(name) == direct.header(name), name
    assert herded.header("x-herd-node") in ("a", "b")
    assert int(herded.header("x-herd-queue-ms")) >= 0
    assert herded.header("x-herd-reason")


def test_request_body_reaches_the_engine_unmodified(pair: Pair) -> None:
    body = b'{ "Model" : "only-a",\n"prompt":"\\u00e9 \xc3\xa9", "nope": [1e400, {}]  }  trailing'
    assert pair.call("POST", "/api/generate", body).status == 200
    seen = [r for r in pair.engine("a").state.requests if r[0] == "POST" and "generate" in r[1]]
    assert [r[3] for r in seen] == [body]


def test_request_headers_at_the_engine(pair: Pair) -> None:
    headers = {
        "Origin": "http://localhost:3000",
        "Authorization": "Bearer secret",
        "User-Agent": "probe/1",
        "X-Custom": "kept",
        "Host": "llm.local",
    }
    answer = pair.call("POST", "/api/chat", {"model": "only-a", **PROMPT}, headers=headers)
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") == "http://localhost:3000"
    seen = {name.lower(): value for name, value in pair.engine("a").state.requests[-1][2]}
    assert "origin" not in seen
    assert "authorization" not in seen
    assert seen["user-agent"] == "probe/1"
    assert seen["x-custom"] == "kept"
    assert seen["host"] == f"127.0.0.1:{pair.engine('a').port}"


def test_both_nodes_serve(pair: Pair) -> None:
    for only in ("a", "b"):
        answer = pair.call("POST", "/api/chat", {"model": f"only-{only}", **PROMPT})
        assert answer.status == 200
        assert answer.header("x-herd-node") == only


def test_concurrent_requests_use_both_nodes(pair: Pair) -> None:
    """Answers that do not end fill one node's slots: the rest is better off on the other one,
    whatever was learned of the two before.
    """
    for engine in pair.engines:
        call(engine.port, "POST", "/api/generate", {"model": "tiny"})
        engine.settings.token_ms = 50
    pair.herd.wait_status(lambda s: _loaded_on(s, "tiny:latest") == 2, "both to have it loaded")
    body = {"model": "tiny", **PROMPT, "options": {"num_predict": 1000}}
    clients = [pair.open("/api/chat", body) for _ in range(8)]
    for engine in pair.engines:
        engine.wait_for(lambda c: c.in_flight > 0, 30, "requests on each node")
    for engine in pair.engines:
        engine.settings.token_ms = 0
    nodes = []
    for client in clients:
        with client:
            answer = client.read()
            nodes.append(answer.header("x-herd-node"))
            assert answer.lines()[-1]["done"] is True
    assert set(nodes) == {"a", "b"}


def test_tool_calls_pass(pair: Pair) -> None:
    tool = {"name": "get_weather", "arguments": {"city": "Zürich"}}
    pair.engine("a").script(Scripted(tool_calls=(tool,)))
    pair.engine("b").script(Scripted(tool_calls=(tool,)))
    body = {"model": "tiny:chat", **PROMPT, "tools": [{"type": "function"}]}
    answer = pair.call("POST", "/api/chat", body)
    assert answer.body == pair.direct("a", "POST", "/api/chat", body).body
    assert answer.lines()[0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_unload_reaches_the_engine(pair: Pair) -> None:
    pair.call("POST", "/api/generate", {"model": "only-b"})
    assert pair.engine("b").runners.loaded
    answer = pair.call("POST", "/api/generate", {"model": "only-b", "keep_alive": 0})
    assert answer.json()["done_reason"] == "unload"


def test_unknown_options_and_aliases_pass(pair: Pair) -> None:
    for name in ("TINY", "tiny:latest", "registry.ollama.ai/library/tiny"):
        answer = pair.call("POST", "/api/generate", {"model": name, "prompt": "x"})
        assert answer.status == 200, name
        assert answer.lines()[0]["model"] == name


def _loaded_on(status: dict[str, Any], model: str) -> int:
    return sum(model in e["loaded"] for n in status["nodes"] for e in n["engines"])
