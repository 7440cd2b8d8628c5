import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.ollama_lines import error_body, go_json, nanoseconds, timestamp


@pytest.mark.parametrize(
    ("now_s", "text"),
    [
        (0.0, b"1970-01-01T00:00:00Z"),
        (1_795_343_320.5, b"2026-11-22T10:28:40.5Z"),
        (1_795_343_320.0625, b"2026-11-22T10:28:40.0625Z"),
        (1_795_343_359.75, b"2026-11-22T10:29:19.75Z"),
    ],
)
def test_timestamp(now_s: float, text: bytes) -> None:
    assert timestamp(now_s) == text


@given(st.floats(0, 4_000_000_000))
def test_timestamp_is_that_moment(now_s: float) -> None:
    text = timestamp(now_s).decode()
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    assert moment + float(f"0.{fraction or 0}") == pytest.approx(now_s, abs=1e-6, rel=0)
    assert len(fraction) <= 9
    assert not fraction.endswith("0")


@given(st.text())
def test_text_is_written_as_go_writes_it(text: str) -> None:
    written = go_json(text)
    assert json.loads(written) == text
    for raw in ("<", ">", "&", "\u2028", "\u2029"):
        assert raw.encode() not in written


def test_error() -> None:
    assert error_body('model "<x>"') == b'{"error":"model \\"\\u003cx\\u003e\\""}'


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_nanoseconds_fit_into_int64(amount_s: float) -> None:
    assert 0 <= nanoseconds(amount_s) < 2**63
