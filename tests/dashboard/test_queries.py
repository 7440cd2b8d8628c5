"""Filters of the dashboard's URLs: what is taken, and that each mistake names its field."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.dashboard.queries import (
    LARGEST_LIMIT,
    LARGEST_TREND,
    BadField,
    TraceQuery,
    trace_query,
    trend_query,
)

NOW_S = 1_800_000_000.0


def test_nothing_asked_for() -> None:
    assert trace_query({}) == TraceQuery()
    trend = trend_query({}, NOW_S)
    assert (trend.from_s, trend.until_s, trend.step_s) == (NOW_S - 86400, NOW_S, 3600)


def test_everything_asked_for() -> None:
    query = trace_query(
        {
            "from": "2026-01-31T12:00:00Z",
            "until": "1800000000.5",
            "model": "qwen3:8b",
            "node": "studio",
            "client": "10.0.0.2",
            "key": "ci",
            "status": "failed",
            "tag": "nightly",
            "error": "busy",
            "limit": "5",
            "before": "1.5:7",
        }
    )
    assert query == TraceQuery(
        from_s=1769860800.0,
        until_s=1800000000.5,
        model="qwen3:8b",
        node="studio",
        client="10.0.0.2",
        key_name="ci",
        status="failed",
        tag="nightly",
        error="busy",
        limit=5,
        before="1.5:7",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("from", "yesterday"),
        ("from", "nan"),
        ("from", "-1"),
        ("until", "1800000000000"),  # milliseconds
        ("until", "2026-01-31T12:00:00"),  # whose noon?
        ("until", "9" * 100),
        ("limit", "0"),
        ("limit", "-5"),
        ("limit", "ten"),
        ("limit", "²"),
        ("limit", str(LARGEST_LIMIT + 1)),
        ("status", "sad"),
        ("status", "4040"),
        ("status", "٤٠٤"),
        ("model", "x" * 10_000),
        ("colour", "red"),
    ],
)
def test_a_mistake_names_its_field(field: str, value: str) -> None:
    with pytest.raises(BadField) as caught:
        trace_query({field: value})
    assert caught.value.field == field
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("given_fields", "field"),
    [
        ({"step": "week"}, "step"),
        ({"model": "m", "node": "n"}, "node"),
        ({"from": str(NOW_S - 60 * (LARGEST_TREND + 1)), "step": "minute"}, "from"),
        ({"from": str(NOW_S + 1)}, "from"),
        ({"limit": "5"}, "limit"),
    ],
)
def test_a_mistake_in_a_trend_names_its_field(given_fields: dict[str, str], field: str) -> None:
    with pytest.raises(BadField) as caught:
        trend_query(given_fields, NOW_S)
    assert caught.value.field == field


@given(st.dictionaries(st.sampled_from(["from", "until", "limit", "step", "model"]), st.text()))
def test_any_text_is_taken_or_refused(fields: dict[str, str]) -> None:
    for ask in (trace_query, lambda asked: trend_query(asked, NOW_S)):
        with suppress(BadField):
            ask(fields)
