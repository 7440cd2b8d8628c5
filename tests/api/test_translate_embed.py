import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.request import OutcomeKind, Usage
from tests.api.exchanges import OLLAMA, llamacpp
from tests.api.translations import JSON, answered, translation
from tests.fakes.recordings import read

ONE = {"model": "asked", "input": "x"}


def items(*vectors: Any, **more: Any) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, **more}).encode()


def embedded(body: bytes, status: int = 200, **request: Any) -> dict[str, Any]:
    output = answered(translation("/api/embed", {**ONE, **request}), body, JSON, status)
    answer = json.loads(output)
    assert isinstance(answer, dict)
    return answer


def test_recorded_embedding_is_that_of_a_real_ollama() -> None:
    # Recordings 081 and 085 hold one model and one text, through Ollama and through llama.cpp.
    made = translation("/api/embed", {"model": "tiny-embed", "input": "hello"})
    exchange = llamacpp("085")
    answer = json.loads(answered(made, exchange.body, exchange.content_type))
    recorded = recorded_answer("081_embed_ok")
    assert list(answer) == list(recorded)
    assert answer["model"] == recorded["model"]
    assert answer["prompt_eval_count"] == recorded["prompt_eval_count"] == 2
    assert answer["total_duration"] == 1_000_000_000
    assert answer["embeddings"][0] == pytest.approx(recorded["embeddings"][0], rel=1e-5)
    assert made.usage == Usage(prompt_tokens=2, done_reason="stop")


def test_recorded_dimensions_are_those_of_a_real_ollama() -> None:
    made = translation("/api/embed", {"model": "tiny-embed", "input": "hello", "dimensions": 8})
    answer = json.loads(answered(made, llamacpp("085").body, JSON))
    recorded = recorded_answer("083_embed_dimensions_ok")
    assert answer["embeddings"][0] == pytest.approx(recorded["embeddings"][0], rel=1e-5)


def test_recorded_legacy_embedding_is_that_of_a_real_ollama() -> None:
    made = translation("/api/embeddings", {"model": "tiny-embed", "prompt": "hello"})
    output = answered(made, llamacpp("085").body, JSON)
    assert json.loads(output) == recorded_answer("084_embeddings_legacy_ok")


def test_recorded_base64_embeddings() -> None:
    answer = embedded(llamacpp("086").body, input=["hello", "x"])
    recorded = recorded_answer("081_embed_ok")
    assert answer["embeddings"][0] == pytest.approx(recorded["embeddings"][0], rel=1e-5)
    assert len(answer["embeddings"]) == 2


def recorded_answer(name: str) -> dict[str, Any]:
    head, _, body = read(OLLAMA / f"{name}.txt").response.partition(b"\r\n\r\n")
    if b"chunked" in head:
        body = b"".join(body.split(b"\r\n")[1::2])
    answer = json.loads(body)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize(
    ("recording", "path", "status", "message"),
    [
        ("032", "/api/embed", 501, "This server does not support embeddings."),
        ("032", "/api/embeddings", 500, "This server does not support embeddings."),
        ("076", "/api/embed", 501, "Pooling type 'none' is not OAI compatible."),
        ("076", "/api/embeddings", 500, "Pooling type 'none' is not OAI compatible."),
    ],
)
def test_recorded_errors(recording: str, path: str, status: int, message: str) -> None:
    exchange = llamacpp(recording)
    made = translation(path, {**ONE, "prompt": "x"})
    output = answered(made, exchange.body, exchange.content_type, exchange.status)
    assert (made.status, made.content_type) == (status, JSON)
    assert json.loads(output)["error"].startswith(message)
    assert made.failed is not None


@pytest.mark.parametrize(
    ("status", "text", "expected", "message"),
    [
        (500, "input is too large to process", 400, "the input length exceeds the context length"),
        (400, "request exceeds the available context size", 400, "the input length exceeds"),
        (404, "Not Found", 501, "this model's engine does not make embeddings"),
        (404, "model x not found", 404, 'model "asked" not found, try pulling it first'),
        (401, "no", 502, "the engine refused the herd's key"),
        (503, "Loading model", 503, "Loading model"),
    ],
)
def test_errors(status: int, text: str, expected: int, message: str) -> None:
    made = translation("/api/embed", ONE)
    output = answered(made, json.dumps({"error": {"message": text}}).encode(), JSON, status)
    assert made.status == expected
    assert json.loads(output)["error"].startswith(message)


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    data = [{"index": i, "embedding": [float(i == k) for k in range(3)]} for i in (2, 0, 1)]
    answer = embedded(json.dumps({"data": data}).encode(), input=["a", "b", "c"])
    assert answer["embeddings"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_vectors_without_index_keep_their_order() -> None:
    body = json.dumps({"data": [{"embedding": [1.0]}, {"embedding": [-1.0]}]}).encode()
    assert embedded(body, input=["a", "b"])["embeddings"] == [[1.0], [-1.0]]


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40).filter(
        lambda v: math.hypot(*v) > 1e-3
    ),
    st.integers(0, 50),
)
def test_vectors_have_length_one_and_keep_their_direction(
    vector: list[float], dimensions: int
) -> None:
    made = embedded(items(vector), dimensions=dimensions)["embeddings"][0]
    kept = vector[:dimensions] if dimensions else vector
    assert len(made) == len(kept)
    length = math.hypot(*kept)
    if length > 0:
        assert math.hypot(*made) == pytest.approx(1.0, abs=1e-5)
        assert [number * length for number in made] == pytest.approx(kept, rel=1e-5, abs=1e-5)


def test_nothing_but_zeros_stays_as_it_is() -> None:
    assert embedded(items([0.0, 0.0]))["embeddings"] == [[0, 0]]


def test_number_that_is_not_finite() -> None:
    packed = base64.b64encode(struct.pack("<2f", 1.0, math.nan)).decode()
    made = translation("/api/embed", ONE)
    output = answered(made, items(packed), JSON)
    assert json.loads(output) == {"error": "embedding contains NaN or Inf values"}
    assert (made.status, made.failed) == (500, OutcomeKind.ENGINE_ERROR)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"{}",
        b"[]",
        items(),
        items([1.0], [1.0]),
        items("!!!"),
        items(""),
        items([]),
        items("AAA="),
        items(["x"]),
        items(5),
        b'{"data":[{"embedding":[1.0],"index":1}]}',
        b'{"data":[{"embedding":[null]}]}',
    ],
)
@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
def test_garbage_is_an_error(path: str, body: bytes) -> None:
    made = translation(path, {**ONE, "prompt": "x"})
    output = answered(made, body, JSON)
    assert made.failed is OutcomeKind.GARBAGE
    assert made.status == 502
    assert "OpenAI" in json.loads(output)["error"]


def test_error_with_status_200() -> None:
    made = translation("/api/embed", ONE)
    output = answered(made, b'{"error":"Unexpected endpoint or method."}', JSON)
    assert made.status == 500
    assert "Unexpected endpoint" in json.loads(output)["error"]
