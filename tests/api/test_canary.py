"""A canary asks for one token, and for nothing that would load a model or keep it."""

import json

import pytest

from ollama_herd.api.canary import canary_call
from ollama_herd.core.node import Endpoint, EngineKind, LoadedModel, Model, Replica
from ollama_herd.core.request import Kind
from tests.core.fleets import request

OPTIONS = (("num_ctx", 8192), ("num_thread", 2))
LOADED = 4096


def call(kind, engine, name="tiny"):
    replica = Replica(
        node_id="n",
        engine_id="e",
        kind=engine,
        model=Model("its-own-name"),
        runner="w",
        loaded=LoadedModel("its-own-name", context_length=LOADED),
        slots=1,
        max_loaded=None,
        endpoint=Endpoint("127.0.0.1", 1),
    )
    path, body = canary_call(replica, request(name, kind=kind, load_options=OPTIONS))
    return path, json.loads(body)


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.GENERATE])
def test_an_ollama_is_asked_with_the_same_load_options(kind):
    """And for the window that is loaded, whoever asked for it."""
    path, body = call(kind, EngineKind.OLLAMA)
    assert path == "/api/generate"
    assert body["options"] == {"num_ctx": LOADED, "num_thread": 2, "num_predict": 1}
    assert body["model"] == "tiny"
    assert body["prompt"]
    assert body["raw"]
    assert body["stream"] is False


def test_an_embedding_model_embeds():
    path, body = call(Kind.EMBED, EngineKind.OLLAMA)
    assert path == "/api/embed"
    assert body["options"] == {"num_ctx": LOADED, "num_thread": 2}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("engine", EngineKind)
def test_the_keep_alive_is_not_touched(kind, engine):
    assert "keep_alive" not in call(kind, engine)[1]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (Kind.CHAT, "/v1/chat/completions"),
        (Kind.GENERATE, "/v1/completions"),
        (Kind.EMBED, "/v1/embeddings"),
    ],
)
def test_another_engine_is_asked_by_its_own_name(kind, path):
    asked, body = call(kind, EngineKind.OPENAI)
    assert asked == path
    assert body["model"] == "its-own-name"
    assert body.get("max_tokens", 1) == 1
    assert "options" not in body
