"""`num_ctx` put into a body: nothing else in it changes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError
from ollama_herd.api.lenient import with_num_ctx
from ollama_herd.api.parse import read_request

CHAT = INFERENCE[b"/api/chat"]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda k: k.lower() != "options"), values, max_size=5))
def test_a_body_without_options_gets_some(fields):
    body = json.dumps(fields).encode()
    assert json.loads(with_num_ctx(CHAT, body, 8192)) == {**fields, "options": {"num_ctx": 8192}}


@given(st.dictionaries(st.text(), values, max_size=4), st.booleans())
def test_options_stay_as_they_are(options, spaced):
    body = json.dumps({"model": "m", "options": options}, indent=2 if spaced else None).encode()
    told = json.loads(with_num_ctx(CHAT, body, 4096))
    assert told == {"model": "m", "options": {**options, "num_ctx": 4096}}


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[]}',
        b'{"model":"m","messages":[],"options":null}',
        b'{"model":"m","messages":[],"options":{ }}',
        b'{"model":"m","messages":[],"Options":{"seed":1}}',
        b'{"model":"m","messages":[],"options":{"num_ctx":null,"seed":1}}',
        b'{"model":"m","messages":[],"options":{"seed":1}} behind it',
        '{"model":"m","messages":[{"content":"ü\\ud800"}]}'.encode(),
    ],
)
def test_every_form_ollama_takes_is_read_with_it(body):
    parsed = read_request(CHAT, with_num_ctx(CHAT, body, 2048))
    assert not isinstance(parsed, ApiError)
    assert parsed.load_options == (("num_ctx", 2048),)


@pytest.mark.parametrize("value", [b'"big"', b"0", b"-1", b"2.5", b"[]", b"true"])
def test_a_window_that_is_none_is_left_to_the_engine(value):
    for key in (b"num_ctx", b"num\\u005fctx"):
        body = b'{"model":"m","options":{"%s": %s, "seed": 1}}' % (key, value)
        assert with_num_ctx(CHAT, body, 2048) == body


@pytest.mark.parametrize("body", [b'{"options":[1]}', b'{"options":"x"}', b"", b"[]", b"{"])
def test_what_makes_no_sense_is_left_to_the_engine(body):
    assert with_num_ctx(CHAT, body, 2048) == body


def test_options_that_are_no_utf8_count_as_far_as_they_are():
    told = with_num_ctx(CHAT, b'{"model":"m","options":{"\xff":1,"seed":"\xff"}}', 2048)
    assert json.loads(told)["options"] == {"\ufffd": 1, "seed": "\ufffd", "num_ctx": 2048}


def test_numbers_keep_their_spelling():
    body = b'{"model":"m","options":{"temperature":1.50,"seed":12345678901234567890}}'
    told = with_num_ctx(CHAT, body, 2048)
    assert b'"temperature":1.50,"seed":12345678901234567890,"num_ctx":2048' in told
