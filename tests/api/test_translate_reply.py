import json
from typing import Any

import msgspec
import pytest

from ollama_herd.api import translate_reply
from ollama_herd.core.request import OutcomeKind, Usage
from tests.api.exchanges import OLLAMA, llamacpp
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
    translation,
)
from tests.fakes.recordings import read

TIMES = b'"created_at":"2026-11-22T10:28:41Z"'
"""The time at which `answered` feeds the engine's body."""


def text_of(output: bytes) -> str:
    return "".join(line["message"]["content"] for line in lines(output) if "message" in line)


# --- recorded exchanges ------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("recording", "status", "message", "failed"),
    [
        ("024", 400, "[json.exception.parse_error.101] parse error at line 1", "client_error"),
        ("026", 400, "[json.exception.parse_error.101] parse error at line 1", "client_error"),
        ("047", 400, "request (6024 tokens) exceeds the available context", "client_error"),
        ("048", 400, "image input is not supported", "engine_error"),
        ("070", 502, "the engine refused the herd's key: Invalid API Key", "engine_error"),
        ("108", 404, "model 'asked' not found", "client_error"),
        ("119", 500, "proxy error: Could not establish connection", "engine_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_recorded_errors(
    recording: str, status: int, message: str, failed: str, *, stream: bool
) -> None:
    exchange = llamacpp(recording)
    made = chat(stream=stream)
    output = answered(made, exchange.body, exchange.content_type, exchange.status)
    assert (made.status, made.content_type) == (status, JSON)
    assert list(json.loads(output)) == ["error"]
    assert json.loads(output)["error"].startswith(message)
    assert made.failed is OutcomeKind(failed)


@pytest.mark.parametrize(
    ("recording", "message", "failed"),
    [
        (
            "117",
            "an error was encountered while running the model: proxy error: Failed",
            "engine_error",
        ),
        ("067", "the engine stopped before its answer was complete", "truncated"),
    ],
)
def test_recorded_streams_that_broke(recording: str, message: str, failed: str) -> None:
    made = chat()
    output = answered(made, llamacpp(recording).body)
    found = lines(output)
    assert len(found) > 5
    assert list(found[-1]) == ["error"]
    assert found[-1]["error"].startswith(message)
    assert not any(line.get("done") for line in found)
    assert made.failed is OutcomeKind(failed)
    assert made.status == 200


# --- shapes of a real Ollama -------------------------------------------------------------------


def recorded_lines(name: str) -> list[bytes]:
    body = read(OLLAMA / f"{name}.txt").response.partition(b"\r\n\r\n")[2]
    return [line for line in body.splitlines() if line.startswith(b"{")]


def shape(line: bytes) -> Any:
    """Keys in their order, all the way down."""

    def keys(value: Any) -> Any:
        if isinstance(value, dict):
            return [(key, keys(item)) for key, item in value.items()]
        if isinstance(value, list):
            return [keys(item) for item in value[:1]]
        return None

    return keys(json.loads(line))


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


# --- tool calls --------------------------------------------------------------------------------


def piece(index: int | None, name: str | None = None, arguments: Any = None, **more: Any) -> Any:
    function = {"name": name, "arguments": arguments}
    return {**({} if index is None else {"index": index}), "function": function, **more}


def test_tool_call_comes_whole_and_as_recorded() -> None:
    recorded = recorded_lines("095_toolcall_stream")
    stream = events(
        delta(role="assistant", content=None),
        delta(tool_calls=[piece(0, "get_weather", "", id="call_abc", type="function")]),
        delta(tool_calls=[piece(0, None, '{"city":')]),
        delta(tool_calls=[piece(0, None, ' "Par<is>"}')]),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 109, "completion_tokens": 31}},
    )
    first, last = answered(chat(), stream).splitlines()
    assert shape(first) == shape(recorded[0])
    assert b'"arguments":{"city":"Par\\u003cis\\u003e"}' in first
    assert json.loads(first)["message"]["tool_calls"] == [
        {
            "id": "call_abc",
            "function": {"index": 0, "name": "get_weather", "arguments": {"city": "Par<is>"}},
        }
    ]
    assert shape(last) == shape(recorded[-1])
    assert json.loads(last)["done_reason"] == "stop"


def test_tool_call_of_a_whole_answer() -> None:
    (recorded,) = recorded_lines("096_toolcall_nostream")
    call = piece(None, "get_weather", '{"city":"Paris"}', id="call_abc", type="function")
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = json.dumps({"choices": [{"finish_reason": "tool_calls", "message": message}]}).encode()
    assert shape(answered(chat(stream=False), body, JSON)) == shape(recorded)


def calls(*pieces: Any, finish: str = "tool_calls") -> list[Any]:
    """Index, name and arguments of the calls in the client's stream."""
    stream = events(*(delta(tool_calls=[item]) for item in pieces), delta(finish))
    found = lines(answered(chat(), stream))
    return [
        tuple(call["function"].values())
        for line in found
        for call in line.get("message", {}).get("tool_calls", ())
    ]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            [piece(0, "a", "{"), piece(1, "b", '{"x":1'), piece(0, None, "}"), piece(1, None, "}")],
            [(0, "a", {}), (1, "b", {"x": 1})],
        ),
        (
            [
                piece(None, "a", '{"x"', id="1"),
                piece(None, None, ":2}"),
                piece(None, "b", "{}", id="2"),
            ],
            [(0, "a", {"x": 2}), (1, "b", {})],
        ),
        ([piece(0, "a", {"x": {"y": 1}})], [(0, "a", {"x": {"y": 1}})]),
        ([piece(0, "a", None)], [(0, "a", {})]),
        ([piece(0, "a", '"{\\"x\\":1}"')], [(0, "a", {"x": 1})]),
        ([piece(3, "a", "{}")], [(3, "a", {})]),
    ],
)
def test_pieces_of_tool_calls(pieces: list[Any], expected: list[Any]) -> None:
    assert calls(*pieces) == expected


def test_numbers_in_arguments_keep_their_value() -> None:
    number = 123456789012345678901234567890
    assert calls(piece(0, "a", f'{{"n":{number},"f":1.0}}')) == [(0, "a", {"n": number, "f": 1.0})]


@pytest.mark.parametrize("arguments", ["[1]", "nonsense", '{"x":', "5"])
def test_arguments_that_are_no_object_are_an_error(arguments: str) -> None:
    made = chat()
    stream = events(delta(tool_calls=[piece(0, "a", arguments)]), delta("tool_calls"))
    output = answered(made, stream)
    assert "tool" in json.loads(output)["error"]
    assert (made.status, made.failed) == (502, OutcomeKind.GARBAGE)


def test_tool_call_cut_by_the_token_limit_is_left_out() -> None:
    whole, cut = piece(0, "a", "{}"), piece(1, "b", '{"x":')
    assert calls(whole, cut, finish="length") == [(0, "a", {})]


# --- ends and failures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "stop"),
        ("content_filter", "stop"),
        ("eos", "stop"),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_done_reason(finish: str, reason: str, *, done: bool) -> None:
    # Without [DONE] the finish reason alone says that the answer is whole.
    found = lines(answered(chat(), events(delta(content="x"), delta(finish), done=done)))
    assert found[-1]["done"] is True
    assert found[-1]["done_reason"] == reason


def test_done_without_finish_reason_is_an_end_too() -> None:
    found = lines(answered(chat(), events(delta(content="x"))))
    assert (found[-1]["done"], found[-1]["done_reason"]) == (True, "stop")


def test_done_line_does_not_wait_for_the_end_of_the_connection() -> None:
    made = chat()
    made.head(200, SSE)
    assert b'"done":true' in made.feed(events(delta("stop")), NOW_S)
    assert made.feed(b"data: more\n\n", NOW_S) == b""
    assert made.end(NOW_S) == b""


@pytest.mark.parametrize(
    "rest",
    [b"", b"data: ", b'data: {"choi', b'data: {"choices":[{"delta":{"content":"y"}}]}', b":\n\n"],
)
def test_stream_without_its_end_gets_an_error_and_no_done_line(rest: bytes) -> None:
    made = chat()
    found = lines(answered(made, events(delta(content="x"), done=False) + rest))
    assert list(found[-1]) == ["error"]
    assert made.failed is OutcomeKind.TRUNCATED
    assert made.usage is None
    assert all(line["done"] is False for line in found[:-1])


def test_last_event_without_a_blank_line_counts() -> None:
    stream = events(delta(content="x"), delta("stop"), done=False) + b"data: [DONE]"
    assert lines(answered(chat(), stream))[-1]["done"] is True


def test_nothing_goes_out_before_there_is_text() -> None:
    made = chat()
    made.head(200, SSE)
    assert made.feed(events(delta(role="assistant", content=None), done=False), NOW_S) == b""
    assert made.feed(events(delta(content=""), done=False), NOW_S) == b""
    output = made.end(NOW_S)
    # So a stream that breaks here still gets a true status.
    assert (made.status, made.content_type) == (502, JSON)
    assert list(json.loads(output)) == ["error"]
    assert not output.endswith(b"\n")


@pytest.mark.parametrize(
    ("event", "message", "status"),
    [
        (b'data: {"error":{"code":400,"message":"bad"}}\n\n', "bad", 400),
        (b'data: {"error":{"code":500,"message":"bad"}}\n\n', "running the model: bad", 500),
        (b'data: {"error":"bad"}\n\n', "running the model: bad", 500),
        (b'event: error\ndata: {"message":"bad"}\n\n', "running the model: bad", 500),
        (b'event: error\ndata: {"error":{"message":"bad"}}\n\n', "running the model: bad", 500),
        (b'error: {"code":500,"message":"bad"}\n\n', "running the model: bad", 500),
        (b"proxy error: bad", "running the model: proxy error: bad", 500),
        (b'data: {"error":{"code":503,"message":"Loading model"}}\n\n', "Loading model", 500),
        (b'data: {"error":{"x":1}}\n\n', "gave no reason", 500),
    ],
)
def test_errors_inside_a_stream(event: bytes, message: str, status: int) -> None:
    made = chat()
    first = answered(made, event)
    assert made.status == status
    assert json.loads(first)["error"].endswith(message)
    made = chat()
    later = lines(answered(made, events(delta(content="x"), done=False) + event))
    assert made.status == 200
    assert later[-1]["error"].endswith(message)
    assert made.failed is not None


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_answers_that_the_engine_gave_up(finish: str) -> None:
    made = chat()
    assert list(lines(answered(made, events(delta(content="x"), delta(finish))))[-1]) == ["error"]
    made = chat(stream=False)
    body = {"choices": [{"finish_reason": finish, "message": {"content": "x"}}]}
    assert "error" in json.loads(answered(made, json.dumps(body).encode(), JSON))
    assert made.failed is OutcomeKind.TRUNCATED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":5}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"<html>",
    ],
)
def test_garbage_is_an_error(body: bytes) -> None:
    made = chat(stream=False)
    output = answered(made, body, JSON)
    assert (made.status, made.content_type) == (502, JSON)
    assert "OpenAI" in json.loads(output)["error"]
    assert made.failed is OutcomeKind.GARBAGE


def test_garbage_inside_a_stream_is_an_error() -> None:
    made = chat()
    found = lines(answered(made, events(delta(content="x"), done=False) + b"data: nonsense\n\n"))
    assert list(found[-1]) == ["error"]
    assert made.failed is OutcomeKind.GARBAGE


def test_error_with_status_200() -> None:
    made = chat(stream=False)
    output = answered(made, b'{"error":"Unexpected endpoint or method."}', JSON)
    assert made.status == 500
    assert json.loads(output)["error"].endswith("Unexpected endpoint or method.")


@pytest.mark.parametrize(
    ("status", "body", "expected", "message"),
    [
        (503, b'{"error":{"message":"Loading model","code":503}}', 503, "Loading model"),
        (400, b'{"object":"error","message":"too long","code":400}', 400, "too long"),
        (422, b'{"detail":[{"loc":["body"],"msg":"field required"}]}', 422, "field required"),
        (404, b'{"detail":"Not Found"}', 404, "Not Found"),
        (
            404,
            b'{"error":{"message":"The model `e` does not exist."}}',
            404,
            "model 'asked' not found",
        ),
        (404, b"404 page not found", 404, "404 page not found"),
        (502, b"<html><body>Bad Gateway</body></html>", 502, "the engine answered with status 502"),
        (500, b"", 500, "the engine answered with status 500"),
        (403, b"{}", 502, "the engine refused the herd's key"),
        (302, b"", 502, "the engine answered with status 302"),
        (500, b"x" * 10_000, 500, "x" * 2000),
    ],
)
def test_errors_of_engines(status: int, body: bytes, expected: int, message: str) -> None:
    made = chat()
    output = answered(made, body, "text/plain", status)
    assert made.status == expected
    assert json.loads(output)["error"].startswith(message)
    assert len(json.loads(output)["error"]) <= 2000 + len("the engine refused the herd's key: ")
    assert made.failed is not None


def test_busy_engine() -> None:
    made = chat()
    answered(made, b'{"error":"busy"}', JSON, 503)
    assert made.failed is OutcomeKind.ENGINE_BUSY


def test_body_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate_reply, "MAX_BODY_BYTES", 100)
    made = chat(stream=False)
    made.head(200, JSON)
    assert made.feed(b"x" * 100, NOW_S) == b""
    assert "larger" in json.loads(made.feed(b"x", NOW_S))["error"]
    assert made.feed(b"x", NOW_S) == b""
    assert made.end(NOW_S) == b""


def test_engine_that_does_not_stream_when_asked_to() -> None:
    made = chat()
    first, last = lines(answered(made, llamacpp("020").body, JSON))
    assert (made.status, made.content_type) == (200, "application/x-ndjson")
    assert first["message"]["content"] == "Say hi<|im_end|>"
    assert (first["done"], last["done"], last["eval_count"]) == (False, True, 8)


# --- counts and durations ----------------------------------------------------------------------


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
