"""`/v1/messages` for an engine that speaks only OpenAI's dialect."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody
from ollama_herd.api.translate import ENGINE_LACKS_FEATURE, Translation, translate
from ollama_herd.core.request import OutcomeKind
from tests.api.anthropic_stream import read_events, read_message
from tests.api.exchanges import llamacpp
from tests.api.recorded import ollama
from tests.api.shapes import shape
from tests.api.test_translate_properties import CUTS, LIKE_AN_ANSWER, STREAMS, in_pieces
from tests.api.translations import (
    JSON,
    SSE,
    answered,
    delta,
    engine_body,
    events,
    refusal,
    translation,
)

PATH = "/v1/messages"
HELLO = {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
PNG = "iVBORw0KGgo="
WEATHER = {
    "name": "weather",
    "description": "Tells it.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def asked(**fields: Any) -> dict[str, Any]:
    return engine_body(PATH, {**HELLO, **fields})


def messages(*given_: Any) -> list[Any]:
    found = asked(messages=list(given_))["messages"]
    assert isinstance(found, list)
    return found


def made(*, stream: bool = True, **fields: Any) -> Translation:
    return translation(PATH, {**HELLO, "stream": stream, **fields})


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


def test_documents_of_text_are_read() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Once upon"}
    (message,) = messages({"role": "user", "content": [{"type": "document", "source": source}]})
    assert message["content"] == "Once upon"


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


# --- the answer --------------------------------------------------------------------------------


def test_stream_has_the_shape_of_a_recorded_one() -> None:
    recorded = {event["type"]: event for event in read_events(_single_gaps(ollama("175").answer))}
    output = answered(made(), llamacpp("022").body)
    for event in read_events(output):
        assert shape(json.dumps(event).encode()) == shape(
            json.dumps(recorded[event["type"]]).encode()
        )
    message = read_message(output)
    assert message["model"] == "asked"
    assert message["id"].startswith("msg_")
    assert message["usage"]["output_tokens"] > 0


def _single_gaps(stream: bytes) -> bytes:
    """Events of the recording, however many blank lines are between them."""
    return (
        b"\n\n".join(part.strip(b"\n") for part in stream.split(b"\n\n") if part.strip()) + b"\n\n"
    )


def test_answer_has_the_shape_of_a_recorded_one() -> None:
    whole = made(stream=False)
    output = answered(whole, llamacpp("020").body, JSON)
    assert shape(output) == shape(ollama("174").answer)
    assert whole.content_type == ollama("174").content_type.decode()
    assert output.endswith(b"}\n")


def test_thought_text_and_tools_are_blocks() -> None:
    pieces = [
        {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"ci'}},
        {"index": 0, "function": {"arguments": 'ty":"<Graz>"}'}},
        {"index": 1, "function": {"name": "now", "arguments": ""}},
    ]
    stream = events(
        delta(reasoning_content="Hm"),
        delta(reasoning_content="."),
        delta(content="Let "),
        delta(content="me."),
        *(delta(tool_calls=[piece]) for piece in pieces),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 20}},
    )
    output = answered(made(), stream)
    message = read_message(output)
    thought, text, weather, now = message["content"]
    assert thought == {"type": "thinking", "thinking": "Hm."}
    assert text == {"type": "text", "text": "Let me."}
    assert weather == {
        "type": "tool_use",
        "id": "c1",
        "name": "weather",
        "input": {"city": "<Graz>"},
    }
    assert (now["name"], now["input"]) == ("now", {})
    assert now["id"]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {"input_tokens": 7, "output_tokens": 20}
    assert b"<" not in output


def test_the_same_as_a_whole() -> None:
    call = {"id": "c1", "function": {"name": "now", "arguments": "{}"}}
    said = {"content": "Hi", "reasoning_content": "Hm", "tool_calls": [call]}
    choice = {"finish_reason": "tool_calls", "message": said}
    body = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    found = json.loads(answered(made(stream=False), json.dumps(body).encode(), JSON))
    assert found["content"] == [
        {"type": "thinking", "thinking": "Hm"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "c1", "name": "now", "input": {}},
    ]
    assert found["stop_reason"] == "tool_use"
    assert found["usage"] == {"input_tokens": 7, "output_tokens": 3}
    # An engine that does not stream although it was asked to.
    streamed = read_message(answered(made(), json.dumps(body).encode(), JSON))
    assert streamed["content"] == found["content"]


@pytest.mark.parametrize(("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens")])
def test_why_it_ended(finish: str, reason: str) -> None:
    message = read_message(answered(made(), events(delta(content="x"), delta(finish))))
    assert message["stop_reason"] == reason


def test_an_answer_without_a_word() -> None:
    message = read_message(answered(made(), events(delta("stop"))))
    assert message["content"] == []
    assert message["stop_reason"] == "end_turn"


def test_two_answers_have_two_ids() -> None:
    first = read_message(answered(made(), events(delta("stop"))))["id"]
    second = read_message(answered(made(system="x"), events(delta("stop"))))["id"]
    assert first != second
    assert len(first) == len("msg_f887da132ad82db7fa71debb")


def test_a_stream_that_breaks_ends_with_an_error() -> None:
    broken = made()
    message = read_message(answered(broken, events(delta(content="x"), done=False)))
    assert message["error"]["type"] == "api_error"
    assert "before its answer was complete" in message["error"]["message"]
    assert "stop_reason" not in message
    assert broken.failed is OutcomeKind.TRUNCATED


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (400, {"error": {"message": "too long"}}, "invalid_request_error", "too long"),
        (404, {"error": {"message": "model not found"}}, "not_found_error", "'asked' not found"),
        (503, {"error": {"message": "Loading model"}}, "overloaded_error", "Loading model"),
        (500, {"error": {"message": "boom"}}, "api_error", "boom"),
    ],
)
def test_errors_are_anthropics(status: int, body: Any, kind: str, text: str) -> None:
    for stream in (True, False):
        failed = made(stream=stream)
        found = json.loads(answered(failed, json.dumps(body).encode(), JSON, status))
        assert found["type"] == "error"
        assert found["error"]["type"] == kind
        assert text in found["error"]["message"]
        assert found["request_id"].startswith("req_")
        assert (failed.status, failed.content_type) == (status, "application/json")


@pytest.mark.parametrize("recording", STREAMS)
@given(cuts=CUTS)
def test_a_recorded_stream_may_be_cut_anywhere(recording: str, cuts: list[int]) -> None:
    body = llamacpp(recording).body
    whole, cut = made(), made()
    output = in_pieces(cut, body, cuts)
    assert output == in_pieces(whole, body, [])
    assert (cut.failed, cut.usage, cut.status) == (whole.failed, whole.usage, whole.status)
    read_message(output)


PIECE = (
    st.builds(lambda text: delta(content=text), st.text())
    | st.builds(lambda text: delta(reasoning_content=text), st.text())
    | st.builds(
        lambda index, name: delta(
            tool_calls=[{"index": index, "id": f"c{index}", "function": {"name": name}}]
        ),
        st.integers(0, 2),
        st.text(max_size=3),
    )
)


@given(st.lists(PIECE, max_size=12), CUTS, st.sampled_from(["stop", "length", None]))
def test_any_answer_is_one_message_however_it_is_cut(
    said: list[dict[str, Any]], cuts: list[int], finish: str | None
) -> None:
    body = events(*said, *([delta(finish)] if finish else []), done=finish is not None)
    output = in_pieces(made(), body, cuts)
    assert output == in_pieces(made(), body, [])
    if not output.startswith(b"event:"):  # broken before anything was said
        assert json.loads(output)["type"] == "error"
        return
    message = read_message(output)
    told = [piece["choices"][0]["delta"].get("content", "") for piece in said]
    blocks = message["content"]
    assert "".join(b["text"] for b in blocks if b["type"] == "text") == "".join(told)
    assert ("error" in message) is (finish is None)


@given(LIKE_AN_ANSWER, st.sampled_from([SSE, JSON, ""]), st.sampled_from([200, 400, 500]))
def test_no_answer_raises(value: Any, content_type: str, status: int) -> None:
    for stream in (True, False):
        tried = made(stream=stream)
        body = events(value) if content_type == SSE else json.dumps(value).encode()
        output = answered(tried, body, content_type, status)
        if output.startswith(b"event:"):
            read_message(output)
        else:
            assert json.loads(output)["type"] == ("error" if tried.failed else "message")


@given(st.binary(), st.sampled_from([SSE, JSON]), st.booleans())
def test_no_bytes_raise(body: bytes, content_type: str, stream: bool) -> None:  # noqa: FBT001 - drawn
    tried = made(stream=stream)
    assert json.loads(answered(tried, body, content_type))["type"] == "error"
    assert tried.failed is not None
