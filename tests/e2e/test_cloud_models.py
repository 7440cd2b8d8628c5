"""Models that an Ollama would ask its cloud for: offered only when the owner says so."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings

CLOUD = replace(model("gpt-oss:120b-cloud"), size_bytes=384, remote_host="https://ollama.com:443")
COPY = replace(CLOUD, name="mine:latest")
"""A copy has another name and the same host behind it."""

ASK = {"messages": [{"role": "user", "content": "a secret"}], "max_tokens": 5, "stream": False}
BODIES = {
    "/api/chat": ASK,
    "/api/generate": {"prompt": "a secret", "stream": False},
    "/api/embed": {"input": "a secret"},
    "/v1/chat/completions": ASK,
    "/v1/messages": ASK,
    "/v1/responses": {"input": "a secret"},
}
ALLOWED = {"HERD_CLOUD_MODELS": "true"}


@pytest.fixture
def engine() -> Iterator[FakeOllama]:
    with FakeOllama([CLOUD, COPY, model("local")], Settings(is_frozen=True)).in_thread() as fake:
        yield fake


def test_no_prompt_reaches_them(tmp_path: Path, engine: FakeOllama) -> None:
    with (
        Herd(tmp_path).ready() as herd,
        Node(tmp_path, "n", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("local:latest")
        listed = herd.call("GET", "/api/tags").json()["models"]
        assert [entry["name"] for entry in listed] == ["local:latest"]
        for name in ("gpt-oss:120b-cloud", "mine", "GPT-OSS:120b-Cloud"):
            for path, body in BODIES.items():
                answer = herd.call("POST", path, {**body, "model": name})
                assert answer.status == 403, (path, answer.body)
                assert b"would leave this network" in answer.body
                assert b"cloud_models = true" in answer.body
            shown = herd.call("POST", "/api/show", {"model": name})
            assert shown.status == 403
            assert "runs in Ollama's cloud" in shown.json()["error"]
        assert herd.call("GET", "/v1/models/mine").status == 404
        fallback = {**ASK, "model": "mine", "fallback_models": ["local"]}
        answer = herd.call("POST", "/api/chat", fallback)
        assert (answer.status, answer.header("x-herd-model")) == (200, "local")
        (left_out,) = herd.call("GET", "/fleet/explain?model=mine").json()["excluded"]
        assert left_out["reason"] == "cloud_model"
    assert engine.counters.received == 1
    assert "/api/show" not in {r[1] for r in engine.state.requests if b"cloud" in r[3]}


def test_the_owner_may_allow_them(tmp_path: Path, engine: FakeOllama) -> None:
    with (
        Herd(tmp_path, env=ALLOWED).ready() as herd,
        Node(tmp_path, "n", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("local:latest", "gpt-oss:120b-cloud", "mine:latest")
        listed = {e["name"]: e for e in herd.call("GET", "/api/tags").json()["models"]}
        assert listed == {m.name: m.tag_entry() for m in engine.models.values()}
        assert list(listed["mine:latest"]) == list(COPY.tag_entry())
        for path, body in BODIES.items():
            answer = herd.call("POST", path, {**body, "model": "mine"})
            assert answer.header("x-herd-node") == "n"
            assert answer.status == (501 if path == "/api/embed" else 200), answer.body
