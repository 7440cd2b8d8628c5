import json
from typing import Any

import pytest

from tests.api.exchanges import llamacpp
from tests.api.shapes import recorded_lines, shape
from tests.api.translations import (
    JSON,
    answered,
    chat,
    delta,
    events,
    lines,
    translation,
)


def logprobs(token: str) -> dict[str, Any]:
    """One token with two alternatives, keys and ids as llama.cpp sends them."""
    numbers = list(token.encode())
    one = {"id": 1, "token": token, "bytes": numbers, "logprob": -0.5}
    return {"content": [{**one, "top_logprobs": [one, {**one, "token": "x", "logprob": -2}]}]}


def with_logprobs(chunk: dict[str, Any], token: str) -> dict[str, Any]:
    chunk["choices"][0]["logprobs"] = logprobs(token)
    return chunk


def test_stream_has_the_shape_of_a_recorded_one() -> None:
    recorded = recorded_lines("040_chat_stream")
    output = answered(chat(), llamacpp("022").body).splitlines()
    assert {str(shape(line)) for line in output[:-1]} == {str(shape(recorded[0]))}
    assert shape(output[-1]) == shape(recorded[-1])


def test_answer_has_the_shape_of_a_recorded_one() -> None:
    (recorded,) = recorded_lines("041_chat_nostream")
    assert shape(answered(chat(stream=False), llamacpp("020").body, JSON)) == shape(recorded)


def test_raw_answer_has_the_shape_of_a_recorded_one() -> None:
    (recorded,) = recorded_lines("024_generate_raw")
    request = {"model": "asked", "prompt": "p", "raw": True, "stream": False}
    made = translation("/api/generate", request)
    assert shape(answered(made, llamacpp("028").body, JSON)) == shape(recorded)


def test_thinking_has_the_shape_of_a_recorded_stream() -> None:
    recorded = recorded_lines("091_think_stream")
    for field in ("reasoning_content", "reasoning"):
        stream = events(delta(**{field: "You"}), delta(content="Hi"), delta("stop"))
        first, second, last = answered(chat(think=True), stream).splitlines()
        assert shape(first) == shape(recorded[0])
        assert json.loads(first)["message"] == {
            "role": "assistant",
            "content": "",
            "thinking": "You",
        }
        assert json.loads(second)["message"] == {"role": "assistant", "content": "Hi"}
        assert shape(last) == shape(recorded[-1])


def test_thinking_of_a_whole_answer() -> None:
    (recorded,) = recorded_lines("092_think_nostream")
    message = {"role": "assistant", "content": "", "reasoning_content": "You are"}
    body = json.dumps({"choices": [{"finish_reason": "length", "message": message}]}).encode()
    assert shape(answered(chat(stream=False), body, JSON)) == shape(recorded)
    made = translation("/api/generate", {"model": "asked", "prompt": "p", "stream": False})
    found = json.loads(answered(made, body, JSON))
    assert list(found)[2:5] == ["response", "thinking", "done"]


def test_logprobs_have_the_shape_of_a_recorded_stream() -> None:
    recorded = recorded_lines("062_chat_logprobs_stream")
    stream = events(with_logprobs(delta(content="Say"), "Say"), delta("length"))
    first, last = answered(chat(logprobs=True, top_logprobs=2), stream).splitlines()
    assert shape(first) == shape(recorded[0])
    assert shape(last) == shape(recorded[-1])
    (token,) = json.loads(first)["logprobs"]
    assert token["bytes"] == [83, 97, 121]
    assert [other["token"] for other in token["top_logprobs"]] == ["Say", "x"]


def test_alternatives_that_were_not_asked_for_are_left_out() -> None:
    stream = events(with_logprobs(delta(content="Say"), "Say"), delta("stop"))
    first, _ = lines(answered(chat(logprobs=True), stream))
    assert first["logprobs"] == [{"token": "Say", "logprob": -0.5, "bytes": [83, 97, 121]}]


def test_logprobs_of_a_whole_answer_stand_where_ollama_puts_them() -> None:
    choice = {"finish_reason": "stop", "logprobs": logprobs("Say")}
    body = json.dumps({"choices": [{**choice, "message": {"content": "Say"}}]}).encode()
    output = answered(chat(stream=False, logprobs=True, top_logprobs=2), body, JSON)
    keys = list(json.loads(output))
    assert keys[:6] == ["model", "created_at", "message", "done", "done_reason", "logprobs"]
    (recorded,) = recorded_lines("034_generate_logprobs")
    request = {"model": "asked", "prompt": "p", "raw": True, "stream": False, "logprobs": True}
    made = translation("/api/generate", {**request, "top_logprobs": 2})
    body = json.dumps({"choices": [{**choice, "text": "Say"}]}).encode()
    without_context = [item for item in shape(recorded) if item[0] != "context"]
    assert shape(answered(made, body, JSON)) == without_context


def test_older_logprobs_of_completions() -> None:
    request = {"model": "asked", "prompt": "p", "raw": True, "logprobs": True, "top_logprobs": 1}
    older = {
        "tokens": ["a", "é"],
        "token_logprobs": [-1, None],
        "top_logprobs": [{"a": -1, "b": -2}, None],
        "text_offset": [0, 1],
    }
    stream = events({"choices": [{"text": "aé", "logprobs": older, "finish_reason": "stop"}]})
    first, _ = lines(answered(translation("/api/generate", request), stream))
    top = [{"token": "a", "logprob": -1.0, "bytes": [97]}]
    assert first["logprobs"] == [
        {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": top},
        {"token": "é", "logprob": -9999.0, "bytes": [195, 169]},
    ]


@pytest.mark.parametrize("odd", ["null", "-Infinity", "NaN", "1e999", "1" + "0" * 400, '"x"'])
def test_logprob_that_is_no_number(odd: str) -> None:
    token = f'{{"token":"x","logprob":{odd}}}'
    choice = f'{{"delta":{{"content":"x"}},"logprobs":{{"content":[{token}]}}}}'
    stream = f'data: {{"choices":[{choice}]}}\n\n'.encode() + events(delta("stop"))
    first, last = lines(answered(chat(logprobs=True), stream))
    assert first["logprobs"] == [{"token": "x", "logprob": -9999.0, "bytes": [120]}]
    assert last["done"] is True
