"""The translation against the real embedded engine: llama.cpp's server inside this process."""

import http.client
import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ollama_herd import clock
from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.api.translate import LocalAnswer, Translation, translate
from tests.api.anthropic_stream import read_message

GGUF = os.environ.get("HERD_TEST_GGUF", "")
READ_BYTES = 7
"""Small and odd, so that events and characters are cut everywhere."""

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="the demo extra is not installed"
    ),
    pytest.mark.skipif(not Path(GGUF).is_file(), reason="HERD_TEST_GGUF names no model file"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = GGUF
    params.n_ctx = 1024
    params.n_parallel = 2
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.cpuparams.n_threads = 1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    yield urlsplit(server.listening_address).netloc
    del server


class Answer:
    """What a client of the herd gets for `request`."""

    def __init__(self, address: str, path: str, request: dict[str, Any]) -> None:
        endpoint = INFERENCE[path.encode()]
        parsed = read_request(endpoint, json.dumps({"model": "asked", **request}).encode())
        assert isinstance(parsed, ParsedBody)
        made = translate(endpoint, parsed, "any", clock.now_s())
        assert not isinstance(made, LocalAnswer | ApiError)
        self.translation: Translation = made
        self.body = self._call(address)

    def _call(self, address: str) -> bytes:
        made = self.translation
        connection = http.client.HTTPConnection(address, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", made.path, made.body, headers)
        response = connection.getresponse()
        made.head(response.status, response.getheader("Content-Type", ""))
        output = b""
        while data := response.read(READ_BYTES):
            output += made.feed(data, clock.now_s())
        output += made.end(clock.now_s())
        connection.close()
        return output

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def text(self) -> str:
        """The answer's text, put together."""
        return "".join(
            line["message"]["content"] if "message" in line else line["response"]
            for line in self.lines
        )


def chat(address: str, content: str = "Say hello in French.", **fields: Any) -> Answer:
    request = {"messages": [{"role": "user", "content": content}], **fields}
    request["options"] = {"temperature": 0, "num_predict": 24, **fields.get("options", {})}
    return Answer(address, "/api/chat", request)


def assert_finished(answer: Answer) -> None:
    last = answer.lines[-1]
    assert answer.translation.failed is None
    assert last["done"] is True
    assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"]
    assert last["prompt_eval_count"] > 0
    assert last["eval_count"] > 0
    assert last["eval_duration"] > 0


def test_stream_and_whole_answer_say_the_same(address: str) -> None:
    stream, whole = chat(address), chat(address, stream=False)
    assert stream.text == whole.text
    assert stream.text.strip()
    assert len(stream.lines) > len(whole.lines) == 1
    for answer in (stream, whole):
        assert_finished(answer)


def test_number_of_tokens_is_bounded(address: str) -> None:
    answer = chat(address, "Count to one hundred.", options={"num_predict": 5})
    assert (answer.lines[-1]["done_reason"], answer.lines[-1]["eval_count"]) == ("length", 5)


def test_stop_word_ends_the_answer(address: str) -> None:
    full = chat(address).text
    word = full.split()[1]
    assert chat(address, options={"stop": [word]}).text == full[: full.index(word)]


def test_seed_repeats_a_random_answer(address: str) -> None:
    options = {"temperature": 1.5, "seed": 7}
    assert chat(address, options=options).text == chat(address, options=options).text


def test_schema_is_kept(address: str) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    answer = chat(address, "What colour is grass? Answer in JSON.", format=schema)
    assert json.loads(answer.text)["colour"] in {"red", "green"}
    raw = {"prompt": "The colour of grass as JSON: ", "raw": True, "format": schema}
    completed = Answer(address, "/api/generate", {**raw, "options": {"num_predict": 24}})
    assert json.loads(completed.text)["colour"] in {"red", "green"}


def test_logprobs(address: str) -> None:
    answer = chat(address, logprobs=True, top_logprobs=2, options={"num_predict": 3})
    tokens = [token for line in answer.lines for token in line.get("logprobs", ())]
    assert "".join(token["token"] for token in tokens) == answer.text
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in tokens)


def test_generate_raw_and_with_template_differ(address: str) -> None:
    request = {"prompt": "The sky is", "options": {"temperature": 0, "num_predict": 4}}
    templated = Answer(address, "/api/generate", request)
    raw = Answer(address, "/api/generate", {**request, "raw": True})
    for answer in (templated, raw):
        assert_finished(answer)
    assert raw.lines[-1]["prompt_eval_count"] < templated.lines[-1]["prompt_eval_count"]


def test_tool_results_are_taken(address: str) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    messages = [
        {"role": "user", "content": "How warm is it in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "22C"},
    ]
    request = {"messages": messages, "tools": [tool], "options": {"num_predict": 8}}
    assert_finished(Answer(address, "/api/chat", request))


@pytest.mark.parametrize("think", [True, False, "low"])
def test_think_is_taken(address: str, think: Any) -> None:
    assert_finished(chat(address, think=think, options={"num_predict": 3}))


def test_prompt_that_is_too_long(address: str) -> None:
    answer = chat(address, "word " * 3000)
    assert answer.translation.status == 400
    assert "context size" in answer.lines[0]["error"]


def test_image_for_a_model_without_eyes(address: str) -> None:
    messages = [{"role": "user", "content": "what?", "images": ["iVBORw0KGgo="]}]
    answer = Answer(address, "/api/chat", {"messages": messages})
    assert answer.translation.status == 400
    assert "not supported" in answer.lines[0]["error"]


def test_embeddings(address: str) -> None:
    both = Answer(address, "/api/embed", {"input": ["hello", "goodbye"], "dimensions": 8}).lines[0]
    assert [len(vector) for vector in both["embeddings"]] == [8, 8]
    assert both["prompt_eval_count"] > 0
    for vector in both["embeddings"]:
        assert sum(number * number for number in vector) == pytest.approx(1.0, abs=1e-5)
    legacy = Answer(address, "/api/embeddings", {"prompt": "hello"}).lines[0]
    single = Answer(address, "/api/embed", {"input": "hello"}).lines[0]
    assert legacy["embedding"] == pytest.approx(single["embeddings"][0], abs=1e-6)


def messages(address: str, content: str, **fields: Any) -> Answer:
    said = [{"role": "user", "content": content}]
    request = {"messages": said, "max_tokens": 24, "temperature": 0, **fields}
    return Answer(address, "/v1/messages", request)


def test_messages_stream_and_whole_say_the_same(address: str) -> None:
    stream = read_message(messages(address, "Say hello in French.", stream=True).body)
    whole = messages(address, "Say hello in French.").lines[0]
    chatted = chat(address)
    assert stream["content"] == whole["content"] == [{"type": "text", "text": chatted.text}]
    assert stream["usage"] == whole["usage"]
    assert whole["usage"]["input_tokens"] == chatted.lines[-1]["prompt_eval_count"]
    assert stream["stop_reason"] in ("end_turn", "max_tokens")


def test_messages_with_a_tool_and_its_result(address: str) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"name": "weather", "description": "Tells it.", "input_schema": schema}
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Graz"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "22C"}
    said = [
        {"role": "user", "content": "How warm is it in Graz?"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    request = {"messages": said, "tools": [tool], "max_tokens": 8, "stream": True}
    answer = Answer(address, "/v1/messages", request)
    assert answer.translation.failed is None
    assert read_message(answer.body)["usage"]["output_tokens"] in range(1, 9)


def test_messages_with_system_and_stop(address: str) -> None:
    french = {"system": "Answer in French."}
    full = messages(address, "Say hello.", **french).lines[0]["content"][0]["text"]
    word = full.split()[1]
    cut = messages(address, "Say hello.", stop_sequences=[word], **french).lines[0]
    assert cut["content"][0]["text"] == full[: full.index(word)]


def test_messages_that_are_too_long(address: str) -> None:
    for stream in (True, False):
        answer = messages(address, "word " * 3000, stream=stream)
        assert answer.translation.status == 400
        assert answer.lines[0]["error"]["type"] == "invalid_request_error"
