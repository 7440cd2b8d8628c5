"""The fake llama.cpp server against the recorded one, for the routes it claims."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.raw import exchange
from tests.fakes.recordings import LLAMACPP, Recording, read_all
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape

OTHER_WORDS = {"024_v1_chat_bad_json", "025_v1_chat_no_messages", "026_v1_chat_empty"}
OTHER_FIELDS = {"002_get_v1_models", "085_embeddings_pooling"}
NOT_CLAIMED = {"039_v1_messages", "047_ctx_overflow", "070_key_missing", "085_embeddings_pooling"}
RECORDINGS = [r for r in read_all(LLAMACPP) if r.name not in NOT_CLAIMED]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI("tiny").in_thread() as running:
        yield running


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
def test_answers_as_recorded(fake: FakeOpenAI, recording: Recording) -> None:
    said = exchange(fake.port, recording.request)
    real = parse_response(recording.response, recording.method)
    assert said.status == real.status
    assert said.framing == real.framing
    assert said.header("content-type") == real.header("content-type")
    content_type = real.header("content-type")
    if real.status < 400 and recording.name not in OTHER_FIELDS:
        ours = _without_extras(body_shape(content_type, said.body))
        theirs = _without_extras(body_shape(content_type, real.body))
        assert ours == theirs
    elif recording.name not in OTHER_WORDS | OTHER_FIELDS:
        assert said.json() == real.json()


def _without_extras(value: Any) -> Any:
    """Key order and sets of chunks differ between llama.cpp's routes; keys do not."""
    if isinstance(value, list):
        parts = [_without_extras(v) for v in value]
        return sorted({repr(p) for p in parts if "per_token_ms" not in repr(p)})
    if isinstance(value, tuple):
        return tuple(_without_extras(v) for v in value)
    return value
