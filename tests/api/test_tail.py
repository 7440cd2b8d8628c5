"""The end of an answer: whole or not, what it counted, what it says went wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.known_end import read_end
from ollama_herd.api.tail import (
    MAX_ERROR_CHARS,
    MAX_REASON_CHARS,
    TAIL_BYTES,
    Tail,
    read_any_tail,
    read_tail,
)
from ollama_herd.core.request import Usage

from .recorded import Exchange, every_ollama, llamacpp, ollama

ENDPOINTS = sorted(INFERENCE.values(), key=lambda endpoint: endpoint.path)
CHAT = INFERENCE[b"/api/chat"]
GENERATE = INFERENCE[b"/api/generate"]
V1_CHAT = INFERENCE[b"/v1/chat/completions"]
RESPONSES = INFERENCE[b"/v1/responses"]
MESSAGES = INFERENCE[b"/v1/messages"]

CUT_STREAMS = ("300", "321", "325", "355", "356")
"""Recordings of streams that stopped: client gone, runner killed, server stopped or killed."""


def tail_of(exchange: Exchange, size: int = TAIL_BYTES) -> Tail:
    return read_tail(
        exchange.answer[-size:],
        INFERENCE[exchange.path.encode()],
        exchange.status,
        is_stream=exchange.is_stream,
    )


def _is_stream(exchange: Exchange) -> bool:
    request, response = exchange.recording.request, exchange.recording.response
    if not request.startswith(b"POST ") or not response:
        return False
    return exchange.path.encode() in INFERENCE and exchange.is_stream


STREAMS = [exchange for exchange in every_ollama() if _is_stream(exchange)]
WHOLE_STREAMS = [x for x in STREAMS if not x.name.startswith(CUT_STREAMS)]


@pytest.mark.parametrize("exchange", WHOLE_STREAMS, ids=lambda exchange: exchange.name)
def test_recorded_streams_are_whole(exchange: Exchange) -> None:
    tail = tail_of(exchange)
    assert tail.complete
    assert tail.error == ""


@pytest.mark.parametrize("number", CUT_STREAMS)
def test_recorded_cut_streams_are_not(number: str) -> None:
    assert not tail_of(ollama(number)).complete


def test_the_error_line_of_a_recorded_stream() -> None:
    tail = tail_of(ollama("321"))
    assert tail.error == "an error was encountered while running the model: unexpected EOF"


@pytest.mark.parametrize(
    ("exchange", "usage"),
    [
        (ollama("022"), Usage(12, 8, 0.852863, 90.75, 311.19, "length")),
        (ollama("040"), Usage(11, 8, 0.824311, 93.387, 341.203, "length")),
        (ollama("024"), Usage(4, 8, 0.890228, 50.915, 291.756, "length")),
        (ollama("081"), Usage(2, None, 1630.498048)),
        (ollama("020"), Usage(done_reason="load")),
        (ollama("010"), Usage(done_reason="unload")),
        (ollama("143"), Usage(done_reason="length")),
        (ollama("144"), Usage(11, 8, done_reason="length")),
        (ollama("145"), Usage(11, 8, done_reason="length")),
        (ollama("163"), Usage(12, 4, done_reason="length")),
        (ollama("166"), Usage(2)),
        (ollama("171"), Usage(11, 6)),
        (ollama("172"), Usage(11, 4)),
        (ollama("174"), Usage(11, 6, done_reason="max_tokens")),
        (ollama("175"), Usage(11, 4, done_reason="max_tokens")),
        (llamacpp("020"), Usage(26, 8, None, 295.986, 659.557, "length")),
        (llamacpp("021"), Usage(26, 8, None, 121.021, 428.481, "length")),
        (llamacpp("022"), Usage(26, 8, None, 98.909, 447.123, "length")),
        (llamacpp("029"), Usage(4, 4, None, 84.636, 241.728, "length")),
    ],
    ids=lambda value: value.name if isinstance(value, Exchange) else "",
)
def test_recorded_counts(exchange: Exchange, usage: Usage) -> None:
    tail = tail_of(exchange)
    assert tail.complete
    assert tail.usage == usage


@pytest.mark.parametrize("number", ["067", "117"])
def test_recorded_cut_streams_of_llamacpp(number: str) -> None:
    assert not tail_of(llamacpp(number)).complete


@pytest.mark.parametrize("number", ["033", "054", "146", "176", "043"])
def test_the_message_of_a_refusal(number: str) -> None:
    exchange = ollama(number)
    error = json.loads(exchange.answer)["error"]
    message = error["message"] if isinstance(error, dict) else error
    tail = tail_of(exchange)
    assert tail.complete
    assert tail.error == message


@pytest.mark.parametrize(
    "exchange",
    [ollama("022"), ollama("044"), ollama("144"), ollama("172"), ollama("175"), llamacpp("022")],
    ids=lambda exchange: exchange.name,
)
def test_no_cut_of_a_recorded_stream_looks_whole(exchange: Exchange) -> None:
    endpoint = INFERENCE[exchange.path.encode()]
    whole = exchange.answer
    final = tail_of(exchange).usage
    for end in range(len(whole)):
        tail = read_tail(whole[:end][-TAIL_BYTES:], endpoint, 200, is_stream=True)
        if not tail.complete:
            continue
        # Only what comes behind the last of the answer may be missing.
        assert _text(endpoint, whole[:end]) == _text(endpoint, whole)
        assert tail.usage is None or tail.usage.done_reason == (final.done_reason if final else "")


def _text(endpoint: Endpoint, stream: bytes) -> list[Any]:
    """The pieces of text in a stream, in whatever event they are."""
    pieces = []
    for line in stream.splitlines():
        try:
            value = json.loads(line.removeprefix(b"data: "))
        except ValueError:
            continue
        if not isinstance(value, dict):
            continue
        if endpoint is V1_CHAT:
            pieces.append([choice["delta"].get("content") for choice in value.get("choices", [])])
        pieces.append([value.get("response") if endpoint is GENERATE else value.get("message")])
        pieces.append([value.get("delta")])
    return [text for piece in pieces for text in piece if isinstance(text, str) and text]


@pytest.mark.parametrize(
    "exchange",
    [ollama("022"), ollama("040"), ollama("144"), ollama("172"), ollama("175"), llamacpp("022")],
    ids=lambda exchange: exchange.name,
)
def test_a_short_tail_of_a_whole_stream_is_whole(exchange: Exchange) -> None:
    # From where the tail holds the end marker's own event or, of a long line, its stats.
    shortest = {"/api/generate": 60, "/api/chat": 60, "/v1/responses": 200}.get(exchange.path, 200)
    for size in range(shortest, len(exchange.answer)):
        assert tail_of(exchange, size).complete, size


# --- text that looks like an end ----------------------------------------------------------------

TRICKS = st.sampled_from(
    [
        '"done":true',
        '{"done":true}',
        '\n{"model":"m","done":true}\n',
        "data: [DONE]",
        "\n\ndata: [DONE]\n\n",
        '"type":"response.completed"',
        '{"type":"message_stop"}',
        "\n\nevent: message_stop\ndata: {}\n\n",
        '"finish_reason":"stop"}',
        '"eval_count":5}',
        '"usage":{"input_tokens":1}}',
        '{"error":"x"}',
        "\\",
        '"',
        "}",
    ]
)
TEXTS = st.lists(TRICKS | st.text(max_size=8), max_size=6).map("".join)


def _line(text: str, *, done: bool = False, **more: object) -> bytes:
    message = {"role": "assistant", "content": text}
    line = {"model": "m", "created_at": "t", "message": message, "done": done, **more}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _chunk(text: str) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _event(kind: str, **more: object) -> bytes:
    data = json.dumps({"type": kind, **more}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _delta(endpoint: Endpoint, text: str) -> bytes:
    if endpoint is V1_CHAT:
        return _chunk(text)
    if endpoint is RESPONSES:
        return _event("response.output_text.delta", delta=text)
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


END: dict[str, bytes] = {
    CHAT.path: _line("", done=True, done_reason="stop", prompt_eval_count=3, eval_count=5),
    V1_CHAT.path: b"data: [DONE]\n\n",
    RESPONSES.path: _event("response.completed", response={"usage": {"output_tokens": 5}}),
    MESSAGES.path: _event("message_stop"),
}
STREAMING = [CHAT, V1_CHAT, RESPONSES, MESSAGES]


def _stream(endpoint: Endpoint, texts: list[str]) -> bytes:
    if endpoint is CHAT:
        return b"".join(_line(text) for text in texts)
    return b"".join(_delta(endpoint, text) for text in texts)


@given(st.sampled_from(STREAMING), st.lists(TEXTS, min_size=1, max_size=4), st.data())
def test_text_never_looks_like_an_end(
    endpoint: Endpoint, texts: list[str], data: st.DataObject
) -> None:
    stream = _stream(endpoint, texts)
    end = data.draw(st.integers(0, len(stream)), label="cut at the end")
    # A tail is cut at its front only when the answer is longer than it.
    start = data.draw(st.just(0) | st.integers(0, max(0, end - 400)), label="cut at the front")
    tail = read_tail(stream[start:end], endpoint, 200, is_stream=True)
    assert not tail.complete


@given(st.sampled_from(STREAMING), st.lists(TEXTS, max_size=4), st.integers(200, 2000))
def test_a_whole_stream_is_whole_whatever_its_text(
    endpoint: Endpoint, texts: list[str], size: int
) -> None:
    tail = read_tail(
        (_stream(endpoint, texts) + END[endpoint.path])[-size:], endpoint, 200, is_stream=True
    )
    assert tail.complete
    assert tail.error == ""
    if endpoint in {CHAT, RESPONSES}:
        assert tail.usage is not None
        assert tail.usage.output_tokens == 5


def test_tool_arguments_do_not_end_a_stream() -> None:
    calls = [{"function": {"name": "f", "arguments": {"done": True, "eval_count": 3}}}]
    line = _line("x").replace(
        b'"content":"x"', b'"content":"","tool_calls":' + json.dumps(calls).encode()
    )
    assert not read_tail(line, CHAT, 200, is_stream=True).complete
    for cut in range(1, len(line)):
        assert not read_tail(line[:-cut], CHAT, 200, is_stream=True).complete


def test_a_long_context_hides_the_mark_of_the_last_line() -> None:
    context = list(range(100_000, 105_000))
    stats = '"total_duration":9,"prompt_eval_count":7,"eval_count":5,"eval_duration":2000000'
    line = f'{{"model":"m","response":"","done":true,"context":{context},{stats}}}\n'
    tail = read_tail(line.encode()[-TAIL_BYTES:], GENERATE, 200, is_stream=True)
    assert tail == Tail(complete=True, usage=Usage(7, 5, decode_ms=2.0))
    single = read_tail(line.encode()[-TAIL_BYTES:], GENERATE, 200, is_stream=False)
    assert single == tail


def test_a_long_answer_hides_the_beginning_of_the_last_event() -> None:
    text = "all of it " * 2000
    usage = {"input_tokens": 25, "output_tokens": 4, "total_tokens": 29}
    output = [{"content": [{"text": text}]}]
    # llama.cpp names the type first, Ollama (recording 172) last.
    first = _event("response.completed", response={"output": output, "usage": usage})
    last = json.dumps(
        {"response": {"output": output, "usage": usage}, "type": "response.completed"}
    )
    for event in (first, f"event: response.completed\ndata: {last}\n\n".encode()):
        tail = read_tail(event[-TAIL_BYTES:], RESPONSES, 200, is_stream=True)
        assert tail.complete
        assert tail.usage == Usage(25, 4)


def test_a_last_chunk_without_the_done_mark_is_enough() -> None:
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    assert read_tail(last, V1_CHAT, 200, is_stream=True).complete
    tail = read_tail(last + usage, V1_CHAT, 200, is_stream=True)
    assert tail == Tail(complete=True, usage=Usage(3, 2, done_reason="stop"))


def test_other_line_ends_and_comments() -> None:
    crlf = b'data: {"choices":[]}\r\n\r\n: ping\r\n\r\ndata: [DONE]\r\n\r\n'
    assert read_tail(crlf, V1_CHAT, 200, is_stream=True).complete
    no_newline = END[CHAT.path].rstrip()
    assert read_tail(_line("a") + no_newline, CHAT, 200, is_stream=True).complete
    ping = END[MESSAGES.path] + _event("ping")
    assert read_tail(ping, MESSAGES, 200, is_stream=True).complete


@pytest.mark.parametrize(
    ("endpoint", "end"),
    [
        (CHAT, b'{"error":"boom"}\n'),
        (V1_CHAT, b'data: {"error":{"message":"boom","type":"api_error"}}\n\n'),
        (MESSAGES, _event("error", error={"type": "api_error", "message": "boom"})),
        (RESPONSES, _event("error", message="x", error={"message": "boom"})),
    ],
)
def test_an_error_in_the_stream(endpoint: Endpoint, end: bytes) -> None:
    tail = read_tail(_stream(endpoint, ["a"]) + end, endpoint, 200, is_stream=True)
    assert tail == Tail(complete=False, error="boom")


def test_a_failed_response_has_an_end_and_an_error() -> None:
    failed = _event("response.failed", response={"error": {"code": "x", "message": "boom"}})
    tail = read_tail(failed, RESPONSES, 200, is_stream=True)
    assert (tail.complete, tail.error) == (True, "boom")


def test_long_messages_are_shortened() -> None:
    tail = read_tail(b"<html>" + b"x" * 9000, CHAT, 502, is_stream=False)
    assert len(tail.error) == MAX_ERROR_CHARS


@given(
    st.sampled_from(ENDPOINTS),
    st.binary(max_size=60) | st.lists(TRICKS, max_size=5).map(lambda t: "".join(t).encode()),
    st.sampled_from([200, 404, 500]),
    st.booleans(),
)
def test_never_raises(endpoint: Endpoint, tail: bytes, status: int, is_stream: bool) -> None:  # noqa: FBT001
    assert isinstance(read_tail(tail, endpoint, status, is_stream=is_stream), Tail)


# --- the fast way and the slow one agree -------------------------------------------------------

ANSWERED = [
    x
    for x in every_ollama()
    if x.recording.request.startswith(b"POST ")
    and x.recording.response
    and x.path.encode() in INFERENCE
    and x.status < 400
]


def both(answer: bytes, endpoint: Endpoint, *, is_stream: bool) -> tuple[Tail, Tail]:
    return (
        read_tail(answer, endpoint, 200, is_stream=is_stream),
        read_any_tail(answer, endpoint, 200, is_stream=is_stream),
    )


@pytest.mark.parametrize("exchange", ANSWERED, ids=lambda exchange: exchange.name)
def test_recorded_answers_are_read_alike(exchange: Exchange) -> None:
    fast, slow = both(
        exchange.answer[-TAIL_BYTES:],
        INFERENCE[exchange.path.encode()],
        is_stream=exchange.is_stream,
    )
    assert fast == slow


def test_everyday_answers_are_read_the_fast_way() -> None:
    short = [x for x in ANSWERED if not x.is_stream and len(x.answer) <= TAIL_BYTES]
    slow = {x.name for x in short if read_end(x.answer, MAX_REASON_CHARS) is None}
    assert len(short) > 20
    assert slow == {"209_expect_100"}  # its "answer" begins with a second head


NUMBERS = st.one_of(
    st.none(), st.booleans(), st.sampled_from([0, 1, 0.0, 2.5]), st.integers(-5, 10**12)
)
REASONS = st.one_of(st.none(), st.sampled_from(["", "stop", "r" * 50]), st.integers())
COUNTED = st.sampled_from(
    [
        "prompt_eval_count",
        "eval_count",
        "load_duration",
        "prompt_eval_duration",
        "eval_duration",
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_n",
        "prompt_n",
        "predicted_n",
        "prompt_ms",
        "predicted_ms",
    ]
)
COUNTS = st.dictionaries(COUNTED, NUMBERS, max_size=4)
CHOICES = st.fixed_dictionaries(
    {}, optional={"finish_reason": REASONS, "done_reason": REASONS, "stop_reason": REASONS}
)
OBJECTS = st.builds(
    lambda counts, rest: {**counts, **rest},
    COUNTS,
    st.fixed_dictionaries(
        {},
        optional={
            "done": st.one_of(st.booleans(), st.none(), st.just("true")),
            "done_reason": REASONS,
            "stop_reason": REASONS,
            "finish_reason": REASONS,
            "usage": st.one_of(COUNTS, st.none(), st.integers()),
            "timings": st.one_of(COUNTS, st.none()),
            "choices": st.one_of(st.lists(CHOICES, max_size=2), st.none(), st.just({})),
            "delta": CHOICES,
            "error": st.one_of(st.none(), st.just("no"), st.just({"message": "no"})),
            "message": st.just({"role": "assistant", "content": '"done":true'}),
        },
    ),
)


@given(OBJECTS, st.sampled_from(ENDPOINTS), st.booleans(), st.sampled_from([b"", b"\n", b" \r\n"]))
def test_any_object_is_read_alike(
    value: dict[str, Any],
    endpoint: Endpoint,
    is_stream: bool,  # noqa: FBT001
    end: bytes,
) -> None:
    fast, slow = both(json.dumps(value).encode() + end, endpoint, is_stream=is_stream)
    assert fast == slow
