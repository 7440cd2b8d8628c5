"""Answers of `/v1/messages` made from those of an engine that speaks only OpenAI's dialect."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.request import OutcomeKind
from tests.api.anthropic_requests import made
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
    events,
)

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
