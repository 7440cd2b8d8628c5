"""Whole frames pass as they came; an unfinished one and an error wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.request import Dialect
from ollama_herd.router.frames import HELD_BYTES, FrameGate

LINES = [b'{"model":"m","response":"a\\"error\\""}\n', b'{"model":"m","response":"\xc3\xbc"}\n']
EVENTS = [b'data: {"id":"1","model":"m"}\n\n', b": comment\n\n", b"event: ping\ndata: {}\n\n"]
ERRORS = {
    Dialect.OLLAMA: [b'{"error":"boom"}\n', b'{"error":"boom"}'],
    Dialect.OPENAI: [
        b'data: {"error":{"message":"x"}}\n\n',
        b"proxy error: Failed to read connection",
        b'data: {"id":"1","model":"","choices":[]}\n\n',
    ],
    Dialect.ANTHROPIC: [b'event: error\ndata: {"type":"error","error":{}}\n\n'],
}
DIALECTS = st.sampled_from(Dialect)


def frames(dialect):
    return st.lists(st.sampled_from(LINES if dialect is Dialect.OLLAMA else EVENTS), max_size=8)


def fed(dialect, data, places):
    passed = []
    gate = FrameGate(dialect, passed.append)
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        gate.feed(data[start:end])
    return gate, passed


@given(DIALECTS, st.data())
def test_bytes_go_on_as_they_came(dialect, data):
    whole = b"".join(data.draw(frames(dialect)))
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    gate, passed = fed(dialect, whole, places)
    assert b"".join(passed) == whole
    assert gate.close() == b""
    assert not gate.error


@given(DIALECTS, st.data())
def test_an_unfinished_frame_waits(dialect, data):
    ends = (b"\n",) if dialect is Dialect.OLLAMA else (b"\n\n",)
    whole = b"".join(data.draw(frames(dialect)))
    cut = data.draw(st.integers(0, len(whole)))
    gate, passed = fed(dialect, whole[:cut], [])
    sent = b"".join(passed)
    assert not sent or sent.endswith(ends)
    assert sent + gate.close() == whole[:cut]


@pytest.mark.parametrize(("dialect", "error"), [(d, e) for d in Dialect for e in ERRORS[d]])
@given(data=st.data())
def test_an_error_waits_with_all_behind_it(dialect, error, data):
    before = b"".join(data.draw(frames(dialect)))
    whole = before + error
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    gate, passed = fed(dialect, whole, places)
    if error.endswith(b"\n"):
        gate.feed(LINES[0] if dialect is Dialect.OLLAMA else EVENTS[0])
    gate.close()
    assert b"".join(passed) == before
    assert gate.error == error


def test_a_huge_frame_is_not_held():
    passed = []
    gate = FrameGate(Dialect.OLLAMA, passed.append)
    gate.feed(b"x" * (HELD_BYTES + 1))
    assert gate.is_torn
    gate.feed(b"y")
    gate.feed(b"\n")
    assert not gate.is_torn
    assert b"".join(passed) == b"x" * (HELD_BYTES + 1) + b"y\n"
