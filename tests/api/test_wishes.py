"""What clients tell the herd beside a request."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.api.wishes import (
    MAX_TAG_CHARS,
    MAX_TAGS,
    TAGS_HEADER,
    body_tags,
    priority_of,
    tags_of,
)
from ollama_herd.core.request import Priority

NOTHING = msgspec.Raw()


def test_tags_of_headers() -> None:
    headers = [
        (b"host", b"x"),
        (TAGS_HEADER, b" nightly ,, team=search"),
        (TAGS_HEADER, b"nightly"),
    ]
    assert tags_of(headers) == ("nightly", "team=search")
    assert tags_of([(b"x-tags", b"no")]) == ()


@pytest.mark.parametrize(
    ("user", "metadata", "tags"),
    [
        ('"ann"', "", ("user=ann",)),
        ("null", '{"a": "b", "n": 3, "yes": true, "deep": {"x": 1}, "none": null}',
         ("a=b", "n=3", "yes=true")),
        ("", '{"user_id": "u1"}', ("user=u1",)),
        ("7", '["a"]', ()),
        ('"ann"', '{"user_id": "ann"}', ("user=ann",)),
    ],
)  # fmt: skip
def test_tags_of_bodies(user: str, metadata: str, tags: tuple[str, ...]) -> None:
    assert body_tags(msgspec.Raw(user.encode()), msgspec.Raw(metadata.encode())) == tags


@given(value=st.binary(max_size=3000))
def test_no_header_is_too_strange(value: bytes) -> None:
    found = tags_of([(TAGS_HEADER, value)])
    assert len(found) <= MAX_TAGS
    assert all(0 < len(tag) <= MAX_TAG_CHARS for tag in found)
    assert priority_of([(b"x-herd-priority", value)]) in Priority


@given(raw=st.binary(max_size=300))
def test_no_body_is_too_strange(raw: bytes) -> None:
    assert len(body_tags(msgspec.Raw(raw), msgspec.Raw(raw))) <= MAX_TAGS


@pytest.mark.parametrize(
    ("path", "body", "tags"),
    [
        ("/v1/chat/completions", b'{"model":"m","messages":[{}],"user":"ann"}', ("user=ann",)),
        ("/v1/responses", b'{"model":"m","input":"x","metadata":{"a":"b"}}', ("a=b",)),
        (
            "/v1/messages",
            b'{"model":"m","max_tokens":5,"messages":[{}],"metadata":{"user_id":"ann"}}',
            ("user=ann",),
        ),
        ("/v1/chat/completions", b'{"model":"m","messages":[{}]}', ()),
        ("/v1/chat/completions", b'{"Model":"m","messages":[{}],"User":"ann"}', ("user=ann",)),
    ],
)
def test_requests_bring_their_tags(path: str, body: bytes, tags: tuple[str, ...]) -> None:
    parsed = read_request(INFERENCE[path.encode()], body)
    assert isinstance(parsed, ParsedBody)
    assert parsed.tags == tags
