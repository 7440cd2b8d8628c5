"""What the router understands of a body that it accepts."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import ApiError, render
from ollama_herd.api.parse import ParsedBody, read_request
from tests.api.parsing import (
    CHAT,
    EMBED,
    ENDPOINTS,
    GENERATE,
    MESSAGES,
    RESPONSES,
    V1_CHAT,
    parsed,
    refusal,
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
