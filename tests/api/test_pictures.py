"""Requests for pictures, and engines' answers to them in the form that clients asked for."""

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import MEDIA
from ollama_herd.api.errors import ApiError
from ollama_herd.api.picture_reply import MAX_ANSWER_BYTES, PictureReply, picture_type
from ollama_herd.api.pictures import Delivery, PictureAsk, openai_body, read_pictures
from ollama_herd.core.node import EngineKind
from ollama_herd.core.request import Dialect, OutcomeKind
from tests.core.fleets import engine, fleet_of, model, report
from tests.fakes.media import png

OPENAI, OWN = MEDIA[b"/v1/images/generations"], MEDIA[b"/api/generate-image"]
ASKED = {"model": "flux", "prompt": "a barn"}


def read(endpoint=OPENAI, **more) -> PictureAsk:
    ask = read_pictures(endpoint, json.dumps({**ASKED, **more}).encode())
    assert isinstance(ask, PictureAsk), ask
    return ask


def replica(kind=EngineKind.OPENAI):
    fleet = fleet_of([report("a", [engine([model("flux:q4")], kind=kind)])], 0.0)
    return fleet.replicas["flux:q4"][0]


def reply(ask=None, kind=EngineKind.OPENAI, dialect=Dialect.OPENAI):
    kept = []

    def keep(data, content_type):
        kept.append((data, content_type))
        return f"http://herd/{len(kept)}"

    return PictureReply(ask or read(), replica(kind), dialect, keep), kept


def told(made, *bodies, status=200):
    made.head(status, "application/json")
    assert [made.feed(body, 0.0) for body in bodies] == [b""] * len(bodies)
    return made.end(1700.5)


def answer(*pictures) -> bytes:
    return json.dumps({"data": [{"b64_json": b64encode(p).decode()} for p in pictures]}).encode()


def test_work_grows_with_pictures_steps_and_pixels():
    assert read().work == 20
    assert read(n=3, steps=4).work == 12
    assert read(size="512x512", steps=8).work == 2
    assert read(size="64x64", steps=1).work == 1


def test_what_is_not_ours_reaches_the_engine():
    body = json.loads(openai_body(read(style="vivid", size="64x128", user="u"), "flux:q4"))
    assert body == {
        **ASKED,
        "model": "flux:q4",
        "style": "vivid",
        "size": "64x128",
        "user": "u",
        "response_format": "b64_json",
    }


def test_fallback_models_stay_here():
    ask = read(fallback_models=["a", "b", "a"])
    assert ask.fallback_models == ("a", "b")
    assert "fallback_models" not in json.loads(openai_body(ask, "m"))


@given(st.binary(max_size=200))
def test_any_body_is_an_answer(body):
    for endpoint in (OPENAI, OWN):
        assert isinstance(read_pictures(endpoint, body), ApiError | PictureAsk)


@given(
    st.dictionaries(
        st.sampled_from(["n", "size", "steps", "seed", "width", "height", "response_format"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.integers()),
    )
)
def test_any_member_is_taken_or_refused(members):
    for endpoint in (OPENAI, OWN):
        ask = read_pictures(endpoint, json.dumps({**ASKED, **members}).encode())
        if isinstance(ask, PictureAsk):
            assert 1 <= ask.n <= 10
            assert ask.work >= 1
        else:
            assert ask.status == 400


def test_one_side_alone_is_a_square():
    assert read(OWN, width=128).size == (128, 128)
    assert read(OWN, width=128, height=64).size == (128, 64)


def test_base64_is_given_on():
    made, kept = reply()
    whole = answer(png(), png(16, 16))
    given_on = json.loads(told(made, whole[:100], whole[100:]))
    assert given_on == {"created": 1700, **json.loads(whole)}
    assert (made.failed, kept) == (None, [])


def test_a_url_is_kept_here():
    made, kept = reply(read(response_format="url"))
    assert json.loads(told(made, answer(png())))["data"] == [{"url": "http://herd/1"}]
    assert kept == [(png(), "image/png")]


def test_the_picture_itself():
    made, _ = reply(read(OWN), dialect=Dialect.OLLAMA)
    assert made._ask.delivery is Delivery.PLAIN
    assert told(made, answer(png())) == png()
    assert made.content_type == "image/png"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"url": "http://else"}]}',
        b'{"data": [{"b64_json": "!"}]}',
        answer(b"GIF89a"),
        answer(png(), b"no picture"),
    ],
)
def test_without_a_picture_it_has_failed(body):
    made, _ = reply()
    said = json.loads(told(made, body))
    assert (made.failed, made.status) == (OutcomeKind.GARBAGE, 502)
    assert said["error"]["message"]


def test_an_answer_without_end_is_given_up():
    made, _ = reply()
    piece = b"x" * 2**20
    told(made, *[piece] * (MAX_ANSWER_BYTES // len(piece) + 1))
    assert made.failed is OutcomeKind.GARBAGE


def test_an_engine_s_refusal_passes():
    refusal = b'{"error": {"message": "no such size"}}'
    made, _ = reply()
    assert told(made, refusal, status=400) == refusal
    assert (made.status, made.failed) == (400, None)
    made, _ = reply(read(OWN), dialect=Dialect.OLLAMA)
    assert json.loads(told(made, refusal, status=400)) == {"error": "no such size"}


def test_types_by_first_bytes():
    assert picture_type(png()) == "image/png"
    assert picture_type(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert picture_type(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp"
    assert picture_type(b"<svg>") == ""
