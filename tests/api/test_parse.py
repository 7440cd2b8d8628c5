"""What the router understands of request bodies, held to what a real Ollama answered."""

import json
import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import ApiError, render, unknown_model
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.core.request import Dialect

from .recorded import Exchange, every_ollama, ollama

ENDPOINTS = sorted(INFERENCE.values(), key=lambda endpoint: endpoint.path)
CHAT = INFERENCE[b"/api/chat"]
GENERATE = INFERENCE[b"/api/generate"]
EMBED = INFERENCE[b"/api/embed"]
V1_CHAT = INFERENCE[b"/v1/chat/completions"]
RESPONSES = INFERENCE[b"/v1/responses"]
MESSAGES = INFERENCE[b"/v1/messages"]

CANNOT = "json: cannot unmarshal"
GO_MAP = "map[string]interface {}"

REFUSED_BEFORE_THE_MODEL = [
    "027",
    "028",
    "029",
    "031",
    "035",
    "056",
    "057",
    "058",
    "060",
    "075",
    "094",
    "148",
    "149",
    "150",
    "151",
    "177",
    "178",
    "212",
    "221",
]
"""Recordings in which a real Ollama refused a body without looking for its model."""


def parsed(endpoint: Endpoint, body: dict[str, Any] | bytes | str) -> ParsedBody:
    if isinstance(body, dict):
        body = json.dumps(body)
    result = read_request(endpoint, body.encode() if isinstance(body, str) else body)
    assert isinstance(result, ParsedBody), result
    return result


def refusal(endpoint: Endpoint, body: bytes | str) -> ApiError:
    result = read_request(endpoint, body.encode() if isinstance(body, str) else body)
    assert isinstance(result, ApiError), result
    return result


def without_request_id(body: bytes) -> bytes:
    return re.sub(rb"req_[0-9a-f]{24}", b"req_", body)


def _is_inference(exchange: Exchange) -> bool:
    if not exchange.recording.request.startswith(b"POST ") or not exchange.recording.response:
        return False
    return exchange.path.encode() in INFERENCE and exchange.is_whole


RECORDED = [exchange for exchange in every_ollama() if _is_inference(exchange)]


def _number(exchange: Exchange) -> str:
    return exchange.name.partition("_")[0]


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
        if _number(x) not in REFUSED_BEFORE_THE_MODEL and b"chunked" not in x.recording.request
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


# --- what is in it -----------------------------------------------------------------------------


def test_what_a_chat_asks_for() -> None:
    request = parsed(
        CHAT,
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function"}],
            "format": "json",
            "think": "high",
            "logprobs": True,
            "stream": False,
            "options": {"num_predict": -1},
        },
    )
    assert request.has_tools
    assert request.has_format
    assert request.think == "high"
    assert request.logprobs
    assert not request.stream
    assert request.max_tokens is None
    plain = parsed(
        CHAT, {"model": "m", "messages": [{}], "tools": [], "format": "", "stream": None}
    )
    assert not any((plain.has_tools, plain.has_format, plain.logprobs, plain.has_images))
    assert plain.stream


def test_what_an_openai_chat_asks_for() -> None:
    request = parsed(
        V1_CHAT,
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "max_completion_tokens": 5,
            "response_format": {"type": "json_object"},
            "reasoning_effort": "low",
            "logprobs": True,
        },
    )
    assert (request.stream, request.max_tokens, request.think) == (True, 5, "low")
    assert request.has_format
    assert request.logprobs
    text = parsed(
        V1_CHAT,
        {"model": "m", "messages": [{}], "response_format": {"type": "text"}, "max_tokens": 3.0},
    )
    assert not text.has_format
    assert text.max_tokens == 3


def test_what_the_other_endpoints_ask_for() -> None:
    responses = parsed(
        RESPONSES,
        {
            "model": "m",
            "input": "hi",
            "max_output_tokens": 9,
            "text": {"format": {"type": "json_schema"}},
            "reasoning": {"effort": "high"},
        },
    )
    assert (responses.max_tokens, responses.has_format, responses.think) == (9, True, "high")
    messages = parsed(
        MESSAGES,
        {
            "model": "m",
            "max_tokens": 4,
            "messages": [{"role": "user", "content": "hi"}],
            "system": "x" * 400,
            "thinking": {"type": "enabled", "budget_tokens": 5},
            "stream": True,
        },
    )
    assert (messages.max_tokens, messages.stream, messages.think) == (4, True, True)
    assert messages.prompt_tokens > 100
    embed = parsed(EMBED, {"model": "m", "input": ["a", "b"], "stream": True})
    assert not embed.stream
    assert not embed.is_load_only
    assert parsed(EMBED, {"model": "m", "input": ""}).is_load_only


PICTURE = "iVBORw0KGgo" * 4000


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "what is this", "images": [PICTURE]}]}),
        (GENERATE, {"prompt": "what is this", "images": [PICTURE]}),
        (
            V1_CHAT,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "what is this"},
                            {
                                "type": "image_url",
                                "image_url": {"url": "data:image/png;base64," + PICTURE},
                            },
                        ],
                    }
                ]
            },
        ),
        (
            RESPONSES,
            {
                "input": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_text", "text": "what is this"},
                            {"type": "input_image", "image_url": PICTURE},
                        ],
                    }
                ]
            },
        ),
        (
            MESSAGES,
            {
                "max_tokens": 9,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "source": {"type": "base64", "data": PICTURE}},
                            {"type": "text", "text": "what is this"},
                        ],
                    }
                ],
            },
        ),
    ],
    ids=lambda value: value.path if isinstance(value, Endpoint) else "",
)
def test_pictures_are_no_text(endpoint: Endpoint, body: dict[str, Any]) -> None:
    request = parsed(endpoint, {"model": "m", **body})
    assert request.has_images
    assert 2 <= request.prompt_tokens < 40


def test_text_about_pictures_is_text() -> None:
    text = 'the key "images" and "image_url" ' * 10
    for endpoint in (CHAT, V1_CHAT):
        request = parsed(endpoint, {"model": "m", "messages": [{"role": "user", "content": text}]})
        assert not request.has_images
        assert request.prompt_tokens > 60


# --- our extension -----------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_fallback_models_do_not_reach_the_engine(endpoint: Endpoint) -> None:
    rest = (
        '"messages": [{"role":"user","content":"caf\\u00e9 1.0"}], "max_tokens": 5,'
        ' "prompt": "x", "input": "y", "weird": 1.50'
    )
    body = f'{{"model": "a", "fallback_models": ["b", "c", "b"], {rest}}}'
    request = parsed(endpoint, body)
    assert request.fallback_models == ("b", "c")
    assert json.loads(request.body) == json.loads(f'{{"model": "a", {rest}}}')
    assert b"1.50" in request.body
    assert b"caf\\u00e9" in request.body


@pytest.mark.parametrize(
    "value", ['"b"', "[5]", '[""]', str(["m"] * 0 + [str(i) for i in range(17)])]
)
def test_bad_fallback_models(value: str) -> None:
    body = f'{{"model":"a","messages":[{{}}],"fallback_models":{value.replace(chr(39), chr(34))}}}'
    assert "fallback_models must be" in refusal(CHAT, body).message


# --- properties --------------------------------------------------------------------------------

_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_keys = st.sampled_from(
    [
        "model", "Model", "messages", "prompt", "input", "stream", "options", "keep_alive",
        "think", "tools", "format", "images", "max_tokens", "fallback_models", "system",
        "response_format", "text", "reasoning", "thinking", "logprobs",
    ]
) | st.text(max_size=5)  # fmt: skip
_endpoints = st.sampled_from(ENDPOINTS)


@given(_endpoints, st.binary(max_size=80), st.sampled_from(["", "gzip", "zstd"]))
def test_byte_soup_is_refused_or_read(endpoint: Endpoint, body: bytes, encoding: str) -> None:
    result = read_request(endpoint, body, encoding)
    if isinstance(result, ApiError):
        status, _, text = render(result, endpoint.dialect, endpoint.path)
        assert 400 <= status < 500
        assert json.loads(text)


@given(_endpoints, st.dictionaries(_keys, _json_values, max_size=6), st.booleans())
def test_any_object_is_refused_or_read(
    endpoint: Endpoint,
    body: dict[str, Any],
    is_ascii: bool,  # noqa: FBT001
) -> None:
    sent = json.dumps(body, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    result = read_request(endpoint, sent)
    if isinstance(result, ParsedBody):
        assert result.model.strip()
        assert result.prompt_tokens >= 0
        if not any(key.lower() in {"model", "fallback_models"} for key in body if key != "model"):
            assert result.model == body["model"]
            assert result.body == sent


@given(
    model=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    texts=st.lists(st.text(), min_size=1, max_size=4),
    stream=st.none() | st.booleans(),
    num_ctx=st.none() | st.integers(1, 1 << 20),
    extra=st.dictionaries(st.text().map("x_{}".format), _json_values, max_size=2),
    spelling=st.sampled_from([str.lower, str.upper, str.title]),
)
def test_agrees_with_json_on_well_formed_bodies(  # noqa: PLR0917 - drawn, not called
    model: str,
    texts: list[str],
    stream: bool | None,  # noqa: FBT001
    num_ctx: int | None,
    extra: dict[str, Any],
    spelling: Any,
) -> None:
    body: dict[str, Any] = {
        spelling("model"): model,
        spelling("messages"): [{"role": "user", "content": text} for text in texts],
        spelling("stream"): stream,
        spelling("options"): {"num_ctx": num_ctx, "seed": 1},
        **extra,
    }
    request = parsed(CHAT, body)
    assert request.model == model
    assert request.stream == (stream is not False)
    assert request.load_options == ((("num_ctx", num_ctx),) if num_ctx is not None else ())
    assert not request.is_load_only
    assert request.body == json.dumps(body).encode()


@given(st.dictionaries(st.text(), _json_values, max_size=4), st.binary(max_size=5), st.data())
def test_what_stands_behind_a_body_does_not_matter(
    body: dict[str, Any], behind: bytes, data: st.DataObject
) -> None:
    sent = json.dumps({**body, "model": "m", "messages": [{}]}).encode()
    request = read_request(CHAT, sent + behind)
    alone = read_request(CHAT, sent)
    if isinstance(request, ParsedBody):
        assert isinstance(alone, ParsedBody)
        assert msgspec.structs.replace(request, body=b"") == msgspec.structs.replace(
            alone, body=b""
        )
    else:
        assert request == alone
    cut = sent[: data.draw(st.integers(0, len(sent) - 1))]
    assert isinstance(read_request(CHAT, cut), ApiError)


def _talk(endpoint: Endpoint, turns: int, more: dict[str, Any]) -> ParsedBody:
    said = [{"role": "user", "content": f"turn {i}: " + "word " * 300} for i in range(turns)]
    return parsed(endpoint, {"model": "m", "max_tokens": 9, "messages": said, **more})


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_the_next_turn_extends_the_prefix(path: str) -> None:
    endpoint = INFERENCE[path.encode()]
    first, second = (_talk(endpoint, turns, {}).prefix for turns in (3, 4))
    assert len(first) == 4
    assert len(second) > len(first)
    assert second[: len(first)] == first
    other = _talk(endpoint, 4, {"tools": [{"type": "function", "n": 1}]}).prefix
    assert not set(other) & set(second)


def test_short_prompts_pictures_and_embeddings_have_no_prefix() -> None:
    text = "word " * 1000
    picture = {"role": "user", "content": text, "images": ["aGk="]}
    assert _talk(INFERENCE[b"/api/chat"], 1, {}).prefix
    assert not parsed(INFERENCE[b"/api/generate"], {"model": "m", "prompt": text[:900]}).prefix
    assert not parsed(INFERENCE[b"/api/chat"], {"model": "m", "messages": [picture]}).prefix
    assert not parsed(INFERENCE[b"/v1/embeddings"], {"model": "m", "input": text}).prefix


def test_the_prefix_of_a_huge_prompt_is_bounded() -> None:
    body = {"model": "m", "prompt": "x" * 8_000_000}
    assert len(parsed(INFERENCE[b"/api/generate"], body).prefix) == 1024
