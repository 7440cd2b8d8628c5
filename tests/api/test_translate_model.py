import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.translate import replace_model

LEAF = st.none() | st.booleans() | st.integers() | st.text()
KEYS = st.sampled_from(["model", "a", 'mo"del', "Model", "x\\"])
VALUES = st.recursive(
    LEAF, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20
)


@given(st.dictionaries(KEYS, VALUES), st.text(), st.booleans(), st.none() | st.integers(0, 2))
def test_only_the_model_changes(
    request: dict[str, Any],
    name: str,
    ascii_only: bool,  # noqa: FBT001 - drawn by Hypothesis
    indent: int | None,
) -> None:
    body = json.dumps(request, ensure_ascii=ascii_only, indent=indent).encode()
    replaced = replace_model(body, name)
    if isinstance(request.get("model"), str):
        assert json.loads(replaced) == {**request, "model": name}
    else:
        assert replaced == body


@given(st.text(), st.text(), st.binary(max_size=30))
def test_every_other_byte_stays(name: str, content: str, behind: bytes) -> None:
    head = b'{ "messages": [{"content": ' + json.dumps(content).encode() + b', "model": "in"}],'
    model = json.dumps(name).encode()
    tail = b',"x":1.0}' + behind
    body = head + b'"model" : ' + model + tail
    expected = head + b'"model" : "engine"' + tail
    assert replace_model(body, "engine") == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b'{"model":"a","model":"c"}', b'{"model":"b","model":"b"}'),
        (b'{"\\u006dodel":"a"}', b'{"\\u006dodel":"b"}'),
        (b'{"model":"a","\\u006dodel":"c"}', b'{"model":"b","\\u006dodel":"b"}'),
        (b'{"model":"a\\"}\\\\","n":1}', b'{"model":"b","n":1}'),
        (b'{"x":"\\\\","model":"a"}', b'{"x":"\\\\","model":"b"}'),
        (b'{"x":{"model":"a"},"y":["model"]}', None),
        (b'{"x":"model","y":"a"}', None),
        (b'{"model":5}', None),
        (b'{"model":null}', None),
        (b'{"model":{"model":"a"}}', None),
        (b'["model",{"model":"a"}]', None),
        (b'"model"', None),
        (b'{"model"', None),
        (b'{"model":', None),
        (b'{"\\x":"a"}', None),
        (b"", None),
        (b"nonsense", None),
        (b'{} {"model":"a"}', None),
    ],
)
def test_bodies(body: bytes, expected: bytes | None) -> None:
    assert replace_model(body, "b") == (body if expected is None else expected)


@given(st.binary())
def test_any_bytes_are_taken(body: bytes) -> None:
    assert isinstance(replace_model(body, "b"), bytes)


def test_large_bodies_are_searched_quickly() -> None:
    # 20 MB of base64 in front of the name: some 20 ms.
    image = b"A" * 20_000_000
    body = b'{"messages":[{"content":"' + image + b'"}],"model":"a"}'
    assert replace_model(body, "b") == body[:-3] + b'b"}'
