import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.translate import Translation
from tests.api.exchanges import llamacpp
from tests.api.translations import JSON, NOW_S, SSE, answered, chat, delta, events, translation

CUTS = st.lists(st.integers(min_value=0), max_size=20)
STREAMS = ["021", "022", "045", "067", "117"]
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ANYTHING = st.recursive(
    LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
KNOWN = [
    "choices",
    "delta",
    "message",
    "content",
    "reasoning_content",
    "tool_calls",
    "function",
    "arguments",
    "name",
    "index",
    "finish_reason",
    "logprobs",
    "token",
    "top_logprobs",
    "bytes",
    "usage",
    "prompt_tokens",
    "timings",
    "prompt_ms",
    "predicted_ms",
    "data",
    "embedding",
]
LIKE_AN_ANSWER = st.recursive(
    LEAF,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KNOWN), inner),
    max_leaves=20,
)


def in_pieces(made: Translation, body: bytes, cuts: list[int]) -> bytes:
    places = sorted(cut % (len(body) + 1) for cut in cuts)
    made.head(200, SSE)
    output = b""
    for start, end in zip([0, *places], [*places, len(body)], strict=True):
        output += made.feed(body[start:end], NOW_S)
    return output + made.end(NOW_S)


@pytest.mark.parametrize("recording", STREAMS)
@given(cuts=CUTS)
def test_a_recorded_stream_may_be_cut_anywhere(recording: str, cuts: list[int]) -> None:
    body = llamacpp(recording).body
    whole, cut = chat(), chat()
    assert in_pieces(cut, body, cuts) == in_pieces(whole, body, [])
    assert (cut.failed, cut.usage, cut.status) == (whole.failed, whole.usage, whole.status)


def test_a_recorded_stream_may_come_byte_by_byte() -> None:
    body = llamacpp("022").body.replace(b" hi", " é😀".encode())
    assert in_pieces(chat(), body, list(range(len(body)))) == in_pieces(chat(), body, [])


@given(st.lists(st.text()), st.booleans())
def test_any_text_reaches_the_client(pieces: list[str], escaped: bool) -> None:  # noqa: FBT001 - drawn
    chunks = [delta(content=piece) for piece in pieces]
    stream = b"".join(
        b"data: " + json.dumps(chunk, ensure_ascii=escaped).encode() + b"\n\n" for chunk in chunks
    )
    output = answered(chat(), stream + events(delta("stop")))
    found = [json.loads(line) for line in output.split(b"\n")[:-1]]
    assert [line["message"]["content"] for line in found[:-1]] == [p for p in pieces if p]
    assert found[-1]["done"] is True
    for raw in (b"<", b">", b"&", "\u2028".encode(), "\u2029".encode()):
        assert raw not in output


@given(st.text(), st.text())
def test_any_text_reaches_the_client_whole(content: str, thinking: str) -> None:
    message = {"content": content, "reasoning_content": thinking}
    body = {"choices": [{"finish_reason": "stop", "message": message}]}
    found = json.loads(answered(chat(stream=False), json.dumps(body).encode(), JSON))
    assert found["message"]["content"] == content
    assert found["message"].get("thinking", "") == thinking


@given(st.dictionaries(st.text(), ANYTHING))
def test_unknown_fields_change_nothing(more: dict[str, Any]) -> None:
    unknown = {f"x-{key}": value for key, value in more.items()}
    plain = events(delta(content="x"), delta("stop"))
    first = {**delta(content="x"), **unknown}
    first["choices"] = [{**unknown, **first["choices"][0], "delta": {"content": "x", **unknown}}]
    assert answered(chat(), events(first, delta("stop"))) == answered(chat(), plain)


@given(LIKE_AN_ANSWER, st.sampled_from([SSE, JSON, ""]), st.sampled_from([200, 400, 500]))
@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "logprobs": True}),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "stream": False}),
        ("/api/generate", {"prompt": "x", "raw": True}),
        ("/api/embed", {"input": "x"}),
        ("/api/embeddings", {"prompt": "x"}),
    ],
)
def test_no_answer_raises(
    path: str, request_: dict[str, Any], value: Any, content_type: str, status: int
) -> None:
    made = translation(path, {"model": "asked", **request_})
    text = json.dumps(value).encode()
    body = events(value) if content_type == SSE else text
    output = answered(made, body, content_type, status)
    if made.failed:
        assert list(json.loads(output.splitlines()[-1])) == ["error"]
    else:
        for line in output.splitlines():
            json.loads(line)


@given(st.binary(), st.sampled_from([SSE, JSON]), st.sampled_from([True, False]))
def test_no_bytes_raise(body: bytes, content_type: str, stream: bool) -> None:  # noqa: FBT001 - drawn
    made = chat(stream=stream)
    output = answered(made, body, content_type)
    assert made.failed is not None
    assert list(json.loads(output)) == ["error"]
