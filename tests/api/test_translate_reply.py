import json
from typing import Any

import msgspec
import pytest

from ollama_herd.core.request import Usage
from tests.api.exchanges import llamacpp
from tests.api.translations import (
    HELLO,
    JSON,
    NOW_S,
    SSE,
    answered,
    chat,
    delta,
    events,
    lines,
    text_of,
    translation,
)

TIMES = b'"created_at":"2026-11-22T10:28:41Z"'
"""The time at which `answered` feeds the engine's body."""


def test_recorded_stream() -> None:
    exchange = llamacpp("022")
    made = chat()
    assert made.head(exchange.status, exchange.content_type) == (200, "application/x-ndjson")
    output = b""
    for place, piece in enumerate(exchange.pieces):
        output += made.feed(piece, NOW_S + 0.125 * place)
    assert made.end(NOW_S + 9) == b""
    found = output.splitlines(keepends=True)
    assert found[0] == (
        b'{"model":"asked","created_at":"2026-11-22T10:28:40.5Z",'
        b'"message":{"role":"assistant","content":"Say"},"done":false}\n'
    )
    assert found[2] == (
        b'{"model":"asked","created_at":"2026-11-22T10:28:40.75Z",'
        b'"message":{"role":"assistant","content":"\\u003c"},"done":false}\n'
    )
    assert text_of(output) == "Say hi<|im_end|>"
    total_ns = 125_000_000 * (len(exchange.pieces) - 1)
    assert found[-1] == (
        b'{"model":"asked","created_at":"2026-11-22T10:28:41.625Z",'
        b'"message":{"role":"assistant","content":""},"done":true,"done_reason":"length",'
        b'"total_duration":%d,"load_duration":%d,'
        b'"prompt_eval_count":26,"prompt_eval_duration":98909000,'
        b'"eval_count":8,"eval_duration":447123000}\n'
    ) % (total_ns, total_ns - 98_909_000 - 447_123_000)
    assert made.failed is None
    assert made.usage == Usage(
        prompt_tokens=26,
        output_tokens=8,
        prefill_ms=98.909,
        decode_ms=447.123,
        done_reason="length",
    )


def test_recorded_stream_without_usage_has_counts_from_timings() -> None:
    output = answered(chat(), llamacpp("021").body)
    last = lines(output)[-1]
    assert (last["prompt_eval_count"], last["eval_count"]) == (26, 8)


def test_recorded_answer() -> None:
    exchange = llamacpp("020")
    output = answered(chat(stream=False), exchange.body, exchange.content_type)
    assert output == (
        b'{"model":"asked","created_at":"2026-11-22T10:28:41.5Z",'
        b'"message":{"role":"assistant","content":"Say hi\\u003c|im_end|\\u003e"},'
        b'"done":true,"done_reason":"length","total_duration":1000000000,'
        b'"load_duration":44457000,"prompt_eval_count":26,"prompt_eval_duration":295986000,'
        b'"eval_count":8,"eval_duration":659557000}'
    )


@pytest.mark.parametrize(("recording", "stream"), [("028", False), ("029", True)])
def test_recorded_completion(recording: str, *, stream: bool) -> None:
    exchange = llamacpp(recording)
    request = {"model": "asked", "prompt": "The sky is", "raw": True, "stream": stream}
    made = translation("/api/generate", request)
    output = answered(made, exchange.body, exchange.content_type)
    found = [json.loads(line) for line in output.splitlines()]
    assert "".join(line["response"] for line in found) == " the limit for the"
    assert found[-1]["done_reason"] == "length"
    assert (found[-1]["prompt_eval_count"], found[-1]["eval_count"]) == (4, 4)
    assert list(found[0])[:4] == ["model", "created_at", "response", "done"]


def test_generate_through_chat_has_responses() -> None:
    made = translation("/api/generate", {"model": "asked", "prompt": "p"})
    output = answered(made, llamacpp("021").body)
    assert output.startswith(b'{"model":"asked",' + TIMES + b',"response":"Say","done":false}\n')
    assert b'"response":"","done":true,"done_reason":"length","total_duration":' in output


def test_recorded_answer_to_tools_and_schema() -> None:
    output = answered(chat(stream=False), llamacpp("046").body, JSON)
    assert json.loads(json.loads(output)["message"]["content"]) == {"age": 10**15}
    assert json.loads(output)["done_reason"] == "stop"
    whole = json.loads(answered(chat(stream=False), llamacpp("044").body, JSON))
    streamed = answered(chat(), llamacpp("045").body)
    assert text_of(streamed) == whole["message"]["content"]
    assert lines(streamed)[-1]["eval_count"] == whole["eval_count"] == 80


def test_durations_are_measured_where_the_engine_tells_none() -> None:
    made = chat()
    made.head(200, SSE)
    made.feed(events(delta(role="assistant"), done=False), NOW_S + 0.25)
    made.feed(events(delta(content="a"), done=False), NOW_S + 1.0)
    made.feed(events(delta(content="b"), done=False), NOW_S + 1.5)
    made.feed(events(delta(content="c"), done=False), NOW_S + 2.0)
    (last,) = lines(made.feed(events(delta("stop")), NOW_S + 2.5))
    assert last["total_duration"] == 2_500_000_000
    assert last["prompt_eval_duration"] == 1_000_000_000
    assert last["eval_duration"] == 1_000_000_000
    assert (last["prompt_eval_count"], last["eval_count"]) == (0, 3)
    assert made.usage == Usage(output_tokens=3, done_reason="stop")


def test_answer_without_timings() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    body = {"choices": [{"finish_reason": "stop", "message": {"content": "x"}}], "usage": usage}
    found = json.loads(answered(chat(stream=False), json.dumps(body).encode(), JSON))
    assert (found["prompt_eval_count"], found["eval_count"]) == (7, 3)
    assert found["eval_duration"] == found["total_duration"] == 1_000_000_000


def test_a_clock_that_steps_back_gives_no_negative_duration() -> None:
    made = chat()
    made.head(200, SSE)
    made.feed(events(delta(content="a"), done=False), NOW_S - 5)
    (last,) = lines(made.feed(events(delta("stop")), NOW_S - 10))
    durations = [value for key, value in last.items() if key.endswith("_duration")]
    assert min(durations) >= 0
    assert last["eval_duration"] > 0


@pytest.mark.parametrize(
    "odd",
    [
        {"usage": {"prompt_tokens": None, "completion_tokens": 2.0}},
        {"usage": "none", "timings": []},
        {"timings": {"prompt_ms": -5, "predicted_ms": 1e300, "prompt_n": -1, "predicted_n": "x"}},
        {"choices": None, "usage": {"prompt_tokens": -3, "completion_tokens": -4}},
        {"usage": {"prompt_tokens": 10**30}, "timings": {"prompt_ms": 1e308}},
        {"choices": [None, 5]},
        {"choices": [{"index": None, "delta": None, "finish_reason": 5}]},
        {"choices": [{"index": 1, "delta": {"content": "other"}}]},
        {"choices": [{"delta": {"content": 5, "tool_calls": [None, {"function": 5}]}}]},
        {"choices": [{"delta": {"tool_calls": "x"}, "logprobs": {"content": [5, {}]}}]},
        {"choices": [{"logprobs": {"tokens": "x"}}]},
        {"choices": [{"logprobs": {"tokens": [None], "token_logprobs": [None]}}]},
    ],
)
def test_odd_types_are_left_out(odd: dict[str, Any]) -> None:
    made = chat(logprobs=True)
    output = answered(made, events(delta(content="x"), odd, delta("stop")))
    found = lines(output)
    assert made.failed is None
    assert (found[0]["message"]["content"], found[-1]["done"]) == ("x", True)
    for key, value in found[-1].items():
        if key.endswith(("_count", "_duration")):
            assert 0 <= value < 2**63


@pytest.mark.parametrize("number", ["1e999", "-1e999", "Infinity", "NaN", "1" + "0" * 400])
def test_numbers_beyond_all_bounds(number: str) -> None:
    usage = f'"usage":{{"prompt_tokens":{number},"completion_tokens":2}}'
    timings = f'"timings":{{"prompt_ms":{number},"predicted_ms":{number},"prompt_n":{number}}}'
    event = f'data: {{"choices":[],{usage},{timings}}}\n\n'.encode()
    last = lines(answered(chat(), event + events(delta("stop"))))[-1]
    assert last["eval_count"] == 2
    for key, value in last.items():
        if key.endswith(("_count", "_duration")):
            assert 0 <= value < 2**63


def test_content_in_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert text_of(answered(chat(), events(delta(content=parts), delta("stop")))) == "ab"


def test_lone_surrogate_of_an_engine_becomes_a_replacement_character() -> None:
    stream = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n' + events(delta("stop"))
    assert text_of(answered(chat(), stream)) == "a\ufffd"


def test_model_name_is_the_one_asked_with() -> None:
    made = translation("/api/chat", {**HELLO, "model": "L<é>m:8B"})
    assert answered(made, events(delta(content="x"), delta("stop"))).startswith(
        '{"model":"L\\u003cé\\u003em:8B",'.encode()
    )


def test_each_line_is_one_json_value() -> None:
    output = answered(chat(), events(delta(content="a\u2028b\u2029c\n"), delta("stop")))
    assert b"\\u2028" in output
    assert b"\\u2029" in output
    for line in output.decode().splitlines():  # splits at U+2028 as well
        msgspec.json.decode(line)
