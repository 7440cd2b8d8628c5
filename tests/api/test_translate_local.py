"""What is answered without the engine, and embeddings."""

import json
from typing import Any

import pytest

from ollama_herd.api.translate import LocalAnswer
from tests.api.exchanges import OLLAMA
from tests.api.translations import engine_body, outcome, refusal, translation
from tests.fakes.recordings import read

# --- answers without the engine ----------------------------------------------------------------


@pytest.mark.parametrize(
    "recording",
    [
        "010_unload_generate_keepalive0",
        "020_generate_load_empty_prompt",
        "036_generate_keepalive_minus1",
        "042_chat_load_no_messages",
        "063_chat_unload",
        "073_embed_empty",
    ],
)
def test_recorded_answers_that_need_no_engine(recording: str) -> None:
    exchange = read(OLLAMA / f"{recording}.txt")
    head, _, body = exchange.response.partition(b"\r\n\r\n")
    made = outcome(exchange.path, json.loads(exchange.body))
    assert isinstance(made, LocalAnswer)
    assert made.status == 200
    assert f"Content-Type: {made.content_type}".encode() in head
    answer = json.loads(body)
    recorded_time = answer.get("created_at", "-")
    assert made.body == body.replace(recorded_time.encode(), b"2026-11-22T10:28:40.5Z")


def test_empty_prompt_of_the_older_embeddings_path() -> None:
    made = outcome("/api/embeddings", {"model": "asked", "prompt": ""})
    assert isinstance(made, LocalAnswer)
    assert made.body == b'{"embedding":[]}'


# --- embeddings --------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "sent"), [("x", ["x"]), (["x", "y", ""], ["x", "y", ""])])
def test_embed(given: Any, sent: list[str]) -> None:
    made = translation("/api/embed", {"model": "asked", "input": given, "dimensions": 8})
    assert made.path == "/v1/embeddings"
    assert json.loads(made.body) == {
        "model": "engine-name",
        "input": sent,
        "encoding_format": "float",
    }


def test_older_embeddings_path() -> None:
    body = engine_body("/api/embeddings", {"model": "asked", "prompt": "x"})
    assert body["input"] == ["x"]


@pytest.mark.parametrize("given", [["x", 5], [["x"]]])
def test_inputs_that_are_no_text_are_refused(given: Any) -> None:
    refused = refusal("/api/embed", {"model": "asked", "input": given})
    assert (refused.status, refused.message) == (400, "invalid input type")
