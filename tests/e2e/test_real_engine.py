"""The embedded engine with a real model behind a real herd: real answers in all dialects.

Needs the `demo` extra and the path of a small chat model in HERD_TEST_GGUF.
"""

from collections.abc import Iterator

import pytest

from tests.api.anthropic_stream import read_message
from tests.e2e.processes import Herd
from tests.e2e.real import NEEDS_ENGINE, real_herd

pytestmark = NEEDS_ENGINE

QUESTION = "What is the capital of France? Answer in one word."


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    with real_herd(tmp_path_factory.mktemp("real")) as running:
        yield running


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


@pytest.mark.parametrize("stream", [True, False])
def test_anthropic_messages(herd: Herd, model: str, *, stream: bool) -> None:
    """This engine speaks Anthropic's dialect: its own bytes pass."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": stream,
        "temperature": 0,
        "max_tokens": 24,
    }
    answer = herd.call("POST", "/v1/messages", body, timeout_s=90)
    assert answer.status == 200
    message = read_message(answer.body) if stream else answer.json()
    assert "Paris" in message["content"][0]["text"]
    assert message["id"].startswith("chatcmpl-")
