"""`/v1/messages` for an engine that speaks only OpenAI's dialect: what the engine is asked."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody
from ollama_herd.api.translate import ENGINE_LACKS_FEATURE, translate
from tests.api.anthropic_requests import HELLO, PATH, PNG, WEATHER, asked, made, messages
from tests.api.translations import (
    refusal,
)

# --- the request -------------------------------------------------------------------------------


def test_a_plain_request() -> None:
    assert asked() == {
        "model": "engine-name",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "stream": False,
    }
    assert asked(stream=True)["stream_options"] == {"include_usage": True}
    assert made().path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "system",
    [
        "Be brief.",
        [
            {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "brief."},
        ],
    ],
)
def test_system_is_the_first_message(system: Any) -> None:
    first, second = asked(system=system)["messages"]
    assert first == {"role": "system", "content": "Be brief."}
    assert second["role"] == "user"
    assert len(asked(system="")["messages"]) == 1


def test_sampling_goes_on_and_the_rest_does_not() -> None:
    body = asked(
        temperature=0.5,
        top_p=1,
        top_k=40,
        stop_sequences=["END"],
        metadata={"user_id": "x"},
        service_tier="auto",
    )
    assert {key: body[key] for key in ("temperature", "top_p", "top_k", "stop")} == {
        "temperature": 0.5,
        "top_p": 1,
        "top_k": 40,
        "stop": ["END"],
    }
    assert not {"metadata", "service_tier", "stop_sequences"} & set(body)


def test_a_conversation_with_a_tool() -> None:
    found = messages(
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Ask.", "signature": "s"},
                {"type": "text", "text": "Let me "},
                {"type": "text", "text": "look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Graz"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And?"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "sun"}],
                },
            ],
        },
    )
    arguments = found[1]["tool_calls"][0]["function"].pop("arguments")
    assert json.loads(arguments) == {"city": "Graz"}
    assert found == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "Ask.",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather"}}],
        },
        {"role": "tool", "content": "sun", "tool_call_id": "t1"},
        {"role": "user", "content": "And?"},
    ]


def test_pictures_become_data_uris() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    block = {"type": "image", "source": source}
    (message,) = messages({"role": "user", "content": [block, {"type": "text", "text": "What?"}]})
    assert message["content"] == [{"type": "text", "text": "What?"}, picture]
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    tool, behind = messages({"role": "user", "content": [result]})
    assert tool == {"role": "tool", "content": "", "tool_call_id": "t"}
    assert behind == {"role": "user", "content": [picture]}


def test_blocks_that_no_ollama_knows_are_left_out() -> None:
    block = {"type": "redacted_thinking", "data": "x"}
    (message,) = messages({"role": "user", "content": [block, {"type": "text", "text": "hi"}]})
    assert message == {"role": "user", "content": "hi"}


def test_what_a_search_found_is_read() -> None:
    found = {
        "type": "search_result",
        "source": "https://example.org",
        "title": "Moons",
        "content": [{"type": "text", "text": "Mars has two."}],
    }
    (message,) = messages({"role": "user", "content": [found]})
    assert message["content"] == "Mars has two."
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [found]}
    (message,) = messages({"role": "user", "content": [result]})
    assert message == {"role": "tool", "content": "Mars has two.", "tool_call_id": "t1"}


def test_documents_of_text_are_read() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Once upon"}
    (message,) = messages({"role": "user", "content": [{"type": "document", "source": source}]})
    assert message["content"] == "Once upon"


@pytest.mark.parametrize(
    "source",
    [
        {"type": "text", "media_type": "text/plain", "data": "B"},
        {"type": "content", "content": "B"},
        {"type": "content", "content": [{"type": "text", "text": "B"}]},
    ],
)
def test_documents_of_text_in_the_result_of_a_tool_are_read(source: dict[str, Any]) -> None:
    content = [
        {"type": "text", "text": "A"},
        {"type": "document", "source": source},
        {"type": "text", "text": "C"},
    ]
    block = {"type": "tool_result", "tool_use_id": "t", "content": content}
    (tool,) = messages({"role": "user", "content": [block]})
    assert tool == {"role": "tool", "content": "ABC", "tool_call_id": "t"}


def test_tools_and_which_of_them_to_take() -> None:
    body = asked(tools=[WEATHER, {"type": "custom", "name": "now"}])
    weather, now = body["tools"]
    assert weather == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells it.",
            "parameters": WEATHER["input_schema"],
        },
    }
    assert now["function"]["parameters"] == {"type": "object", "properties": {}}
    assert "tool_choice" not in body
    for given_, wanted in [
        ({"type": "auto"}, "auto"),
        ({"type": "any", "disable_parallel_tool_use": True}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "now"}, {"type": "function", "function": {"name": "now"}}),
    ]:
        body = asked(tools=[WEATHER], tool_choice=given_)
        assert body["tool_choice"] == wanted
        assert body.get("parallel_tool_calls", True) is not (given_.get("type") == "any")
    assert "tool_choice" not in asked(tool_choice={"type": "auto"})


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"enable_thinking": True}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "adaptive"}}, {"enable_thinking": True}),
        ({"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "high"}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            {"reasoning_effort": "low"},
        ),
    ],
)
def test_thinking(fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert wanted.items() <= asked(**fields)["chat_template_kwargs"].items()


def test_a_schema_for_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = asked(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert body["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"temperature": "hot"},
            "into Go struct field MessagesRequest.temperature of type float64",
        ),
        ({"stop_sequences": [1]}, "stop_sequences must be a list of strings"),
    ],
)
def test_values_of_the_wrong_type(fields: dict[str, Any], text: str) -> None:
    refused = refusal(PATH, {**HELLO, **fields})
    assert refused.status == 400
    assert text in refused.message


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "image"}, "invalid image source"),
        (
            {"type": "image", "source": {"type": "url", "url": "http://x"}},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        ({"type": "tool_use", "name": "n", "input": {}}, "missing required 'id' field"),
        ({"type": "tool_use", "id": "i", "input": {}}, "missing required 'name' field"),
        (
            {"type": "document", "source": {"type": "base64", "data": "x"}},
            "no documents but plain text",
        ),
        (
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [{"type": "document", "source": {"type": "base64", "data": "x"}}],
            },
            "no documents but plain text",
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}},
            "no documents but plain text",
        ),
    ],
)
def test_blocks_that_cannot_go_on(block: dict[str, Any], text: str) -> None:
    refused = refusal(PATH, {**HELLO, "messages": [{"role": "user", "content": [block]}]})
    assert refused.status == 400
    assert text in refused.message
    assert refused.code != ENGINE_LACKS_FEATURE


def test_a_tool_that_the_server_runs_needs_an_ollama() -> None:
    tool = {"type": "web_search_20250305", "name": "web_search"}
    refused = refusal(PATH, {**HELLO, "tools": [tool]})
    assert refused.code == ENGINE_LACKS_FEATURE


BLOCK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "text",
                    "source",
                    "data",
                    "media_type",
                    "id",
                    "name",
                    "input",
                    "tool_use_id",
                    "content",
                    "role",
                    "thinking",
                    "input_schema",
                    "effort",
                    "format",
                    "schema",
                ]
            ),
            inner
            | st.sampled_from(
                [
                    "text",
                    "image",
                    "tool_use",
                    "tool_result",
                    "thinking",
                    "document",
                    "base64",
                    "json_schema",
                ]
            ),
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "system",
                "tools",
                "tool_choice",
                "thinking",
                "output_config",
                "temperature",
                "top_k",
                "stop_sequences",
                "metadata",
            ]
        ),
        BLOCK,
    ),
    st.lists(BLOCK, min_size=1, max_size=3),
)
def test_any_request_is_translated_or_refused(fields: dict[str, Any], given_: list[Any]) -> None:

    body = json.dumps({**fields, **HELLO, "messages": given_}).encode()
    parsed = ParsedBody(model="asked", body=body)
    outcome = translate(INFERENCE[b"/v1/messages"], parsed, "engine-name", 1.0)
    if isinstance(outcome, ApiError):
        assert outcome.status == 400
    else:
        assert json.loads(outcome.body)["model"] == "engine-name"
