"""Our words held to those of Go 1.26: `go_decoder.json` is what encoding/json and
time.ParseDuration really answered. Bodies stand there as Latin-1 text, a character a byte.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.gojson import encode_string, escape_html, parse_duration, syntax_error

GO: dict[str, list[list[Any]]] = json.loads(
    (Path(__file__).parent / "golden" / "go_decoder.json").read_text()
)


@pytest.mark.parametrize(("body", "error"), GO["syntax"])
def test_syntax_errors(body: str, error: str) -> None:
    assert syntax_error(body.encode("latin-1")) == error


@pytest.mark.parametrize(("text", "result"), GO["durations"])
def test_durations(text: str, result: int | str) -> None:
    assert parse_duration(text) == result


@given(st.binary(max_size=60))
def test_never_raises(body: bytes) -> None:
    assert isinstance(syntax_error(body), str)


@given(st.text(max_size=30))
def test_a_duration_is_a_number_or_an_error_that_names_it(text: str) -> None:
    result = parse_duration(text)
    assert isinstance(result, int) or result.startswith("time: ")


_json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(_json_values)
def test_accepts_what_json_writes(value: object) -> None:
    assert syntax_error(json.dumps(value).encode()) == ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_strings_survive(text: str) -> None:
    encoded = encode_string(text)
    assert json.loads(encoded) == text
    assert not set("<>&\u2028\u2029") & set(encoded)
    assert escape_html(json.dumps(text, ensure_ascii=False).encode()) == encoded.encode()
