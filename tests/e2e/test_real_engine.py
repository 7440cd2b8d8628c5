"""The embedded engine with a real model behind a real herd: real answers in both dialects.

Needs the `demo` extra and the path of a small chat model in HERD_TEST_GGUF.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, free_port, wait_until
from tests.fakes.raw import call

GGUF = os.environ.get("HERD_TEST_GGUF", "")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="the demo extra is not installed"
    ),
    pytest.mark.skipif(not Path(GGUF).is_file(), reason="HERD_TEST_GGUF names no model file"),
]

SERVE = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostname, params.port = sys.argv[1], "127.0.0.1", int(sys.argv[2])
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 1024, 1, 1
params.model_alias = "smollm2"
server = xllamacpp.Server(params)
threading.Event().wait()
"""
QUESTION = "What is the capital of France? Answer in one word."


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder = tmp_path_factory.mktemp("real")
    port = free_port()
    with (folder / "engine.log").open("wb") as log:
        engine = subprocess.Popen(
            [sys.executable, "-c", SERVE, GGUF, str(port)], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _is_up(port, engine), 60, "the engine to load its model")
        with Herd(folder).ready() as running:
            url = f"http://127.0.0.1:{running.port}"
            with Node(folder, "real", url, [f"http://127.0.0.1:{port}"]):
                running.wait_status(lambda s: s["models"] > 0, "the model", 30)
                yield running
    finally:
        engine.kill()
        engine.wait(10)


def _is_up(port: int, engine: "subprocess.Popen[bytes]") -> bool:
    assert engine.poll() is None, "the engine ended"
    try:
        return call(port, "GET", "/health", timeout_s=2).status == 200
    except OSError:
        return False


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
