"""An error whose status can no longer be sent is one event of its dialect."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.errors import ApiError, late_error, render
from ollama_herd.core.request import Dialect

PATHS = {
    "/v1/chat/completions": Dialect.OPENAI,
    "/v1/completions": Dialect.OPENAI,
    "/v1/responses": Dialect.OPENAI,
    "/v1/messages": Dialect.ANTHROPIC,
}


def data_of(event: bytes) -> dict[str, object]:
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1
    (line,) = [line for line in event.split(b"\n") if line.startswith(b"data: ")]
    data = json.loads(line.removeprefix(b"data: "))
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize("path", PATHS)
@given(st.text())
def test_our_own_errors_keep_their_words(path: str, text: str) -> None:
    dialect = PATHS[path]
    _, _, body = render(ApiError(503, text or "x", "queue_full"), dialect, path)
    data = data_of(late_error(body, dialect, path))
    if path == "/v1/responses":
        assert data["message"] == json.loads(body)["error"]["message"]
        assert data["type"] == "error"
    else:
        assert data == json.loads(body)


@pytest.mark.parametrize("path", PATHS)
@given(st.binary(max_size=400))
def test_whatever_an_engine_says_becomes_one_event(path: str, body: bytes) -> None:
    data = data_of(late_error(body, PATHS[path], path))
    assert "error" in data or data["type"] == "error"


def test_the_event_has_its_name() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
    event = late_error(body, Dialect.ANTHROPIC, "/v1/messages")
    assert event == b"event: error\ndata: " + body + b"\n\n"
    assert late_error(body, Dialect.OPENAI, "/v1/completions").startswith(b"data: ")
