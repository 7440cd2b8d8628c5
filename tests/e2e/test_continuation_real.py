"""One of two real engines dies in the middle of its answer; the text reads on from the cut.

Needs the `demo` extra and the path of a small chat model in HERD_TEST_GGUF. Temperature 0 and one
thread make the engines repeat themselves, so the continued text can be compared to a whole one.
"""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Herd, Node, Running, wait_until
from tests.fakes.raw import Client, Response

GGUF = os.environ.get("HERD_TEST_GGUF", "")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="the demo extra is not installed"
    ),
    pytest.mark.skipif(not Path(GGUF).is_file(), reason="HERD_TEST_GGUF names no model file"),
]

SERVE = "import sys; from ollama_herd.demo.engine import main; main(sys.argv[1:])"
QUESTION = "Tell me three facts about the Moon, one after the other."
TOKENS = 80
CUT_AFTER = 10
"""Pieces of the answer after which the engine is killed."""

TRIES = 5
"""A busy machine may hand us a whole answer in fewer pieces: nothing was cut, and we ask again."""


@dataclass
class Rig:
    herd: Herd
    engines: dict[str, Running]

    def model(self) -> str:
        name: str = self.herd.call("GET", "/api/tags").json()["models"][0]["name"]
        return name


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Two engines of one model, each on a node of its own."""
    with ExitStack() as stack:
        files, engines = {}, {}
        for name in ("a", "b"):
            files[name] = tmp_path / f"{name}.url"
            arguments = ["--model", GGUF, "--alias", "smollm2", "--url-file", str(files[name])]
            engine = Running(f"engine-{name}", ["-c", SERVE, *arguments], tmp_path, {})
            engines[name] = stack.enter_context(engine)
        herd = stack.enter_context(Herd(tmp_path).ready())
        for name, file in files.items():
            wait_until(file.exists, 60, f"engine {name} to load its model")
            url = f"http://127.0.0.1:{herd.port}"
            stack.enter_context(Node(tmp_path, name, url, [file.read_text().strip()]))
        herd.wait_status(lambda s: len(s["nodes"]) == 2 and s["models"] > 0, "both nodes", 30)
        yield Rig(herd, engines)


CHAT = {"messages": [{"role": "user", "content": QUESTION}]}
OPTIONS = {"options": {"temperature": 0, "seed": 1, "num_predict": TOKENS}}
V1 = {"stream": True, "temperature": 0, "seed": 1, "max_tokens": TOKENS}
FORMS: dict[str, dict[str, Any]] = {
    "/api/chat": {**CHAT, **OPTIONS},
    "/api/generate": {"prompt": QUESTION, **OPTIONS},
    "/v1/chat/completions": {**CHAT, **V1, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "The Moon is", **V1, "stream_options": {"include_usage": True}},
    "/v1/messages": {**CHAT, **V1},
}


@pytest.mark.parametrize("path", FORMS)
def test_the_answer_goes_on(rig: Rig, path: str) -> None:
    body = {"model": rig.model(), **FORMS[path]}
    whole = rig.herd.call("POST", path, body, timeout_s=120)
    expected, counted = text_of(path, whole.body)
    assert len(expected) > 40
    answer = next(filter(None, (cut_answer(rig, path, body) for _ in range(TRIES))))
    assert answer.is_whole
    text, tokens = text_of(path, answer.body)
    assert b"error" not in answer.body
    assert text == expected
    assert abs(tokens - counted) <= 1  # a token whose character was incomplete comes with the next


def cut_answer(rig: Rig, path: str, body: dict[str, Any]) -> Response | None:
    """An answer whose engine was killed in its middle; None when it had ended before."""
    with Client(rig.herd.port, timeout_s=120) as client:
        client.ask("POST", path, body)
        answer = client.begin()
        pieces = client.body(answer)
        if len(list(islice(pieces, CUT_AFTER))) < CUT_AFTER:
            return None
        rig.engines[answer.header("x-herd-node")].kill()
        for _ in pieces:
            pass
    return answer


def text_of(path: str, body: bytes) -> tuple[str, int]:
    """The whole text of a stream and its output tokens."""
    text, tokens = "", -1
    for line in body.split(b"\n"):
        data = line.removeprefix(b"data: ")
        if not data.startswith(b"{"):
            continue
        frame = json.loads(data)
        if path.startswith("/api/"):
            text += frame["message"]["content"] if "message" in frame else frame["response"]
            tokens = frame.get("eval_count", tokens)
        elif path == "/v1/messages":
            text += frame.get("delta", {}).get("text", "")
            tokens = frame.get("usage", {}).get("output_tokens", tokens)
        else:
            for choice in frame["choices"]:
                text += choice.get("delta", choice).get("content") or choice.get("text", "")
            tokens = (frame.get("usage") or {}).get("completion_tokens", tokens)
    return text, tokens
