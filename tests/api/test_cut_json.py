"""An answer of one JSON value whose length nobody told: whether it stops in its middle."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.tail import is_cut_json

from .recorded import Exchange, every_ollama

ANSWERS = [
    x
    for x in every_ollama()
    if x.recording.request.startswith(b"POST ")
    and x.recording.response
    and x.path.encode() in INFERENCE
    and x.status == 200
    and not x.is_stream
    and x.name != "209_expect_100"  # its "answer" begins with a second head
]
VALUES = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=6,
    ),
    min_size=1,
)


@pytest.mark.parametrize("exchange", ANSWERS, ids=lambda exchange: exchange.name)
def test_recorded_answers_are_not_cut(exchange: Exchange) -> None:
    assert not is_cut_json(exchange.answer, is_all=True)
    assert not is_cut_json(exchange.answer[-100:], is_all=False)
    assert is_cut_json(exchange.answer[: len(exchange.answer) // 2], is_all=True)


@given(VALUES, st.sampled_from([b"", b"\n", b" \r\n"]), st.data())
def test_every_beginning_is_cut(value: dict[str, Any], space: bytes, data: st.DataObject) -> None:
    whole = json.dumps(value).encode()
    assert not is_cut_json(whole + space, is_all=True)
    end = data.draw(st.integers(0, len(whole) - 1))
    assert is_cut_json(whole[:end], is_all=True)


def test_odd_json_is_the_engines_own_matter() -> None:
    assert not is_cut_json(b'{"logprob": NaN, "other": -Infinity}', is_all=True)
    assert not is_cut_json(b'{"a": 1} {"b": 2}', is_all=True)


@given(st.binary(max_size=40), st.booleans())
def test_never_raises(answer: bytes, is_all: bool) -> None:  # noqa: FBT001
    assert is_cut_json(answer, is_all=is_all) in (True, False)
