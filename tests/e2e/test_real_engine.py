"""The embedded engine with a real model behind a real herd: real answers in both dialects.

Needs the `demo` extra and the path of a small chat model in HERD_TEST_GGUF.
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, Running, wait_until

GGUF = os.environ.get("HERD_TEST_GGUF", "")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="the demo extra is not installed"
    ),
    pytest.mark.skipif(not Path(GGUF).is_file(), reason="HERD_TEST_GGUF names no model file"),
]

SERVE = "import sys; from ollama_herd.demo.engine import main; main(sys.argv[1:])"
QUESTION = "What is the capital of France? Answer in one word."


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder = tmp_path_factory.mktemp("real")
    url_file = folder / "engine.url"
    arguments = ["--model", GGUF, "--alias", "smollm2", "--url-file", str(url_file)]
    with Running("engine", ["-c", SERVE, *arguments], folder, {}) as engine:
        wait_until(lambda: _has_url(engine, url_file), 60, "the engine to load its model")
        with Herd(folder).ready() as running:
            url = f"http://127.0.0.1:{running.port}"
            with Node(folder, "real", url, [url_file.read_text().strip()]):
                running.wait_status(lambda s: s["models"] > 0, "the model", 30)
                yield running


def _has_url(engine: Running, url_file: Path) -> bool:
    engine.check_alive()
    return url_file.exists()


@pytest.fixture
def model(herd: Herd) -> str:
    """The name under which the herd offers the model."""
    name: str = herd.call("GET", "/api/tags").json()["models"][0]["name"]
    return name


def test_chat_streams(herd: Herd, model: str) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "options": {"temperature": 0, "num_predict": 24},
    }
    answer = herd.call("POST", "/api/chat", body, timeout_s=90)
    lines = answer.lines()
    assert answer.status == 200
    assert answer.header("x-herd-node") == "real"
    assert "Paris" in "".join(line["message"]["content"] for line in lines)
    assert lines[-1]["done"] is True
    assert lines[-1]["eval_count"] >= 1
    assert lines[-1]["prompt_eval_count"] > 5
    assert lines[-1]["eval_duration"] > 0


def test_chat_whole(herd: Herd, model: str) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": False,
        "options": {"temperature": 0, "num_predict": 24},
    }
    answer = herd.call("POST", "/api/chat", body, timeout_s=90)
    assert "Paris" in answer.json()["message"]["content"]


def test_generate(herd: Herd, model: str) -> None:
    body = {"model": model, "prompt": QUESTION, "options": {"temperature": 0, "num_predict": 24}}
    lines = herd.call("POST", "/api/generate", body, timeout_s=90).lines()
    assert "Paris" in "".join(line["response"] for line in lines)
    assert lines[-1]["done_reason"] in ("stop", "length")


@pytest.mark.parametrize("stream", [True, False])
def test_openai_chat(herd: Herd, model: str, *, stream: bool) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": stream,
        "temperature": 0,
        "max_tokens": 24,
    }
    answer = herd.call("POST", "/v1/chat/completions", body, timeout_s=90)
    assert answer.status == 200
    assert b"Paris" in answer.body
    assert (b"[DONE]" in answer.body) == stream
