"""What the router understands of request bodies, held to what a real Ollama answered."""

import gc
import json
import math
import weakref

import pytest

from ollama_herd.api.bodies import keep_alive_s
from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import ApiError, render, unknown_model
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.core.request import Dialect
from tests.api.parsing import (
    CANNOT,
    CHAT,
    EMBED,
    ENDPOINTS,
    GENERATE,
    GO_MAP,
    MESSAGES,
    RECORDED,
    REFUSED_BEFORE_THE_MODEL,
    V1_CHAT,
    number_of,
    parsed,
    refusal,
    without_request_id,
)

from .recorded import Exchange, ollama


@pytest.mark.parametrize("number", REFUSED_BEFORE_THE_MODEL)
def test_refuses_as_the_recorded_server(number: str) -> None:
    exchange = ollama(number)
    endpoint = INFERENCE[exchange.path.encode()]
    error = read_request(endpoint, exchange.asked, exchange.request_encoding)
    assert isinstance(error, ApiError)
    status, content_type, body = render(error, endpoint.dialect, endpoint.path)
    assert (status, content_type) == (exchange.status, exchange.content_type)
    assert without_request_id(body) == without_request_id(exchange.answer)


@pytest.mark.parametrize(
    "exchange",
    [
        x
        for x in RECORDED
        if number_of(x) not in REFUSED_BEFORE_THE_MODEL and b"chunked" not in x.recording.request
    ],
    ids=lambda exchange: exchange.name,
)
def test_passes_on_everything_else_untouched(exchange: Exchange) -> None:
    endpoint = INFERENCE[exchange.path.encode()]
    result = read_request(endpoint, exchange.asked, exchange.request_encoding)
    assert isinstance(result, ParsedBody), result
    assert result.body == exchange.asked
    if exchange.status == 200 and endpoint.kind != "embed" and not result.is_load_only:
        assert result.stream == exchange.is_stream


def test_recorded_loads_and_unloads() -> None:
    for number in ("020", "042"):
        exchange = ollama(number)
        request = parsed(INFERENCE[exchange.path.encode()], exchange.asked)
        assert (request.is_load_only, request.is_unload) == (True, False)
        assert b'"done_reason":"load"' in exchange.answer
    for number in ("010", "063"):
        exchange = ollama(number)
        request = parsed(INFERENCE[exchange.path.encode()], exchange.asked)
        assert (request.is_load_only, request.is_unload) == (True, True)
        assert b'"done_reason":"unload"' in exchange.answer


def test_prompt_tokens_are_near_the_recorded_counts() -> None:
    for number in ("022", "040", "045"):
        exchange = ollama(number)
        last = exchange.answer.strip().rpartition(b"\n")[2]
        counted = json.loads(last)["prompt_eval_count"]
        estimate = parsed(INFERENCE[exchange.path.encode()], exchange.asked).prompt_tokens
        assert counted / 4 <= estimate <= counted * 2


# --- keys, values, bytes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '{"Model":"tiny","messages":[{}]}',
        '{"MODEL":"tiny","Messages":[{}]}',
        '{"mod\\u0065l":"tiny","messages":[{}]}',
        '{"model":"other","model":"tiny","messages":[{}]}',
        '{"model":"other","Model":"tiny","messages":[{}]}',
        '{"Model":"tiny","model":null,"messages":[{}]}',
        '{"model":"tiny","me\u017fsages":[{}]}',
        '{"model":"tiny","messages":[{}]}{"model":"behind"}',
        '{"model":"tiny","messages":[{}]}  nonsense',
        ' \n{"model":"tiny","messages":[{}],"unknown":{"model":"inner"}}',
        '{"model":"tiny","messages":[{"content":"\\ud800 \\\\ud800"}]}',
        '{"model":"tiny","messages":[{}],"options":{"num_ctx":"many"}}',
        b'{"model":"tiny","messages":[{"content":"\xff"}],"x":1}',
        b'{"model":"tiny","\xff":1,"messages":[{}]}',
    ],
)
@pytest.mark.parametrize("endpoint", [CHAT, V1_CHAT], ids=lambda endpoint: endpoint.path)
def test_reads_what_ollama_reads(endpoint: Endpoint, body: str | bytes) -> None:
    assert parsed(endpoint, body).model == "tiny"


def test_two_spellings_of_a_key_leave_the_engine_no_choice() -> None:
    request = parsed(CHAT, '{"model":"a","Model":"b","messages":[{"x": 1.0}],"extra":[1, 2]}')
    assert json.loads(request.body) == {"model": "b", "messages": [{"x": 1.0}], "extra": [1, 2]}
    assert b"[1, 2]" in request.body


def test_load_options_are_sorted_and_only_those() -> None:
    options = {"temperature": 0.5, "num_ctx": 8192, "use_mmap": False, "main_gpu": 0, "stop": ["x"]}
    request = parsed(GENERATE, {"model": "m", "prompt": "x", "options": options})
    assert request.load_options == (("main_gpu", 0), ("num_ctx", 8192), ("use_mmap", False))


def test_options_of_odd_types_are_left_to_the_engine() -> None:
    options = '{"num_ctx":4096.0,"num_batch":"x","num_gpu":1.5,"use_mmap":1,"num_predict":7.0}'
    request = parsed(GENERATE, f'{{"model":"m","prompt":"x","options":{options}}}')
    assert request.load_options == (("num_ctx", 4096),)
    assert request.max_tokens == 7


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        ("0", 0),
        ("0s", 0),
        (90, 90),
        (1.5, 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (-1, math.inf),
        ("-1m", math.inf),
        (None, None),
        (1e-12, 0),
        (9e9, 9e9),
        (1e10, math.inf),
        (1e300, math.inf),
        (10**300, math.inf),
    ],
)
def test_keep_alive(value: object, seconds: float | None) -> None:
    request = parsed(GENERATE, {"model": "m", "keep_alive": value})
    assert request.keep_alive_s == seconds
    assert request.is_unload == (seconds == 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"300"', 'time: missing unit in duration "300"'),
        ('""', 'time: invalid duration ""'),
        ('"5 m"', 'time: unknown unit " m" in duration "5 m"'),
        ('"\u00e9"', 'time: invalid duration "\\xc3\\xa9"'),
        ('"99999999999h"', 'time: invalid duration "99999999999h"'),
        ("true", "Unsupported type: 'bool'"),
        ("[5]", "Unsupported type: '[]interface {}'"),
        ("{}", "Unsupported type: 'map[string]interface {}'"),
        ("1e400", "json: cannot unmarshal number 1e400 into Go value of type float64"),
    ],
)
@pytest.mark.parametrize("endpoint", [CHAT, EMBED], ids=lambda endpoint: endpoint.path)
def test_bad_keep_alive(endpoint: Endpoint, value: str, message: str) -> None:
    assert refusal(endpoint, f'{{"model":"m","keep_alive":{value}}}').message == message


@pytest.mark.parametrize(
    ("endpoint", "body", "message"),
    [
        (CHAT, "[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (CHAT, "5 ", "json: cannot unmarshal number into Go value of type api.ChatRequest"),
        (
            V1_CHAT,
            '"x"',
            "json: cannot unmarshal string into Go value of type openai.ChatCompletionRequest",
        ),
        (
            CHAT,
            '{"model":"m","stream":"yes"}',
            "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool",
        ),
        (
            V1_CHAT,
            '{"model":5,"messages":[{}]}',
            f"{CANNOT} number into Go struct field ChatCompletionRequest.model of type string",
        ),
        (
            MESSAGES,
            '{"model":"m","max_tokens":"x","messages":[{}]}',
            f"{CANNOT} string into Go struct field MessagesRequest.max_tokens of type int",
        ),
        (
            GENERATE,
            '{"model":"m","options":[]}',
            f"{CANNOT} array into Go struct field GenerateRequest.options of type {GO_MAP}",
        ),
        # What Ollama's own types refuse ends the decoding; a wrong type before it is forgotten.
        (GENERATE, '{"prompt":5,"keep_alive":"soon"}', 'time: invalid duration "soon"'),
        (CHAT, "null", "model is required"),
        (CHAT, " \n", "missing request body"),
        (V1_CHAT, " ", "EOF"),
        (CHAT, '{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (CHAT, '{"a" 1}', "invalid character '1' after object key"),
        (CHAT, '{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (CHAT, '{"a":[1 2]}', "invalid character '2' after array element"),
        (CHAT, '{"a":"\n"}', "invalid character '\\n' in string literal"),
        (CHAT, '{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (CHAT, '{"a":"\\u12g4"}', "invalid character 'g' in \\u hexadecimal character escape"),
        (CHAT, '{"a":-x}', "invalid character 'x' in numeric literal"),
        (CHAT, '{"a":1.x}', "invalid character 'x' after decimal point in numeric literal"),
        (CHAT, '{"a":1e+}', "invalid character '}' in exponent of numeric literal"),
        (CHAT, '{"a":01}', "invalid character '1' after object key:value pair"),
        (CHAT, '{"a":trux}', "invalid character 'x' in literal true (expecting 'e')"),
        (CHAT, "\u00ff", "invalid character '\u00c3' looking for beginning of value"),
        (CHAT, '{"a":' + "[" * 20000, "exceeded max depth"),
        (EMBED, '{"model":"m","input":{}}', "invalid input type"),
        (INFERENCE[b"/v1/embeddings"], '{"model":"m","input":[]}', "invalid input"),
        (MESSAGES, '{"model":"m","max_tokens":1}', "messages is required"),
    ],
)
def test_refuses_in_go_s_words(endpoint: Endpoint, body: str, message: str) -> None:
    error = refusal(endpoint, body)
    assert (error.status, error.message) == (400, message)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
@pytest.mark.parametrize("body", [b"3", b'{"model": 3}', b'{"model": "m", "stream": "x"'])
def test_every_endpoint_has_go_s_words(endpoint: Endpoint, body: bytes) -> None:
    refused = read_request(endpoint, body)
    assert isinstance(refused, ApiError)
    assert refused.status == 400


def test_a_huge_bad_body_is_refused_in_bounded_time() -> None:
    assert refusal(CHAT, b'{"a":[' + b"1," * 2_000_000 + b"x]}").message == "invalid JSON"


def test_a_large_list_is_no_reason_to_refuse() -> None:
    context = ",".join("12345" for _ in range(150_000))
    body = f'{{"model":"m","prompt":"x","Context":[{context}]}} behind'
    assert parsed(GENERATE, body).model == "m"


def test_the_name_of_an_unknown_model_is_judged_by_the_fleet() -> None:
    # A model of another engine may be called what no Ollama model can be called.
    exchange = ollama("059")
    name = parsed(CHAT, exchange.asked).model
    status, content_type, body = render(unknown_model(name, CHAT), Dialect.OLLAMA, CHAT.path)
    assert (status, content_type, body) == (
        exchange.status,
        exchange.content_type,
        exchange.answer,
    )


def test_a_long_keep_alive_is_not_kept():
    class Text(str):
        __slots__ = ("__weakref__",)

    text = Text("9" * 100_000)
    assert keep_alive_s(text) == f'time: invalid duration "{text}"'
    seen = weakref.ref(text)
    del text
    gc.collect()
    assert seen() is None
