"""Trends against the same sums made from the traces themselves."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.trace import Trace
from ollama_herd.store.rows import row_of
from ollama_herd.store.traces import TraceStore
from ollama_herd.store.trends import SLOTS_PER_OCTAVE, Step, Tally, percentile
from tests.store import samples
from tests.store.waiting import wait_until

HOUR_S = samples.START_S // 3600 * 3600


def written(store: TraceStore, *traces: Trace) -> None:
    for trace in traces:
        store.put(trace)
    wait_until(lambda: sum(p.requests for p in store.trend(0, 9e9)) == len(traces))


def test_requests_are_counted_where_they_began(store: TraceStore) -> None:
    starts = (0, 59.9, 60, 3599, 3600, 7300)
    written(store, *(samples.trace(started_s=HOUR_S + start) for start in starts))
    hours = store.trend(HOUR_S, HOUR_S + 10 * 3600)
    assert [(point.bucket_s - HOUR_S, point.requests) for point in hours] == [
        (0, 4),
        (3600, 1),
        (7200, 1),
    ]
    minutes = store.trend(HOUR_S, HOUR_S + 3600, Step.MINUTE)
    assert [(point.bucket_s - HOUR_S, point.requests) for point in minutes] == [
        (0, 2),
        (60, 1),
        (3540, 1),
    ]
    assert store.trend(HOUR_S + 1, HOUR_S + 3600) == []


def test_outcomes_tokens_and_times(store: TraceStore) -> None:
    cancelled = samples.attempt(OutcomeKind.CANCELLED)
    retried = (samples.attempt(OutcomeKind.UNREACHABLE), samples.attempt())
    written(
        store,
        samples.trace(queue_ms=10.0, total_ms=100.0),
        samples.trace(queue_ms=30.0, total_ms=300.0, attempts=retried),
        samples.trace(status=500, error="engine_error", usage=None, ttft_ms=-1.0),
        samples.trace(status=200, error="truncated"),
        samples.trace(status=499, attempts=(), usage=None, ttft_ms=-1.0),
        samples.trace(status=200, error="client_left", attempts=(cancelled,)),
        samples.trace(status=200, attempts=(cancelled,)),
    )
    point = store.trend(0, 9e9)[0]
    assert (point.requests, point.failed, point.cancelled, point.retried) == (7, 2, 3, 1)
    assert (point.prompt_tokens, point.output_tokens) == (5 * 11, 5 * 7)
    assert point.mean_queue_ms == pytest.approx((10 + 30 + 5 * 0.25) / 7)
    assert point.mean_total_ms == pytest.approx((100 + 300 + 5 * 900) / 7)
    assert point.ttft_p50_ms == pytest.approx(80.5, rel=0.05)


def test_by_model_and_by_node(store: TraceStore) -> None:
    written(
        store,
        samples.trace(model="a:1", node_id="n1"),
        samples.trace(model="a:1", node_id="n2"),
        samples.trace(model="b:1", node_id="n2"),
        samples.trace(model="gone:1", model_served="", node_id="", attempts=()),
    )

    def count(**who: str) -> int:
        return sum(point.requests for point in store.trend(0, 9e9, **who))

    assert (count(), count(model="a:1"), count(model="b:1"), count(model="gone:1")) == (4, 2, 1, 1)
    assert (count(node_id="n1"), count(node_id="n2"), count(node_id="n3")) == (1, 2, 0)
    with pytest.raises(ValueError, match="by model or by node"):
        store.trend(0, 9e9, model="a:1", node_id="n1")


def test_sums_grow_over_several_writes(store: TraceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_herd.store.thread.TREND_INTERVAL_S", 0.0)
    for n in range(1, 4):
        store.put(samples.trace())
        wait_until(lambda n=n: sum(p.requests for p in store.trend(0, 9e9)) == n)
    assert store.trend(0, 9e9)[0].output_tokens == 21


def test_claims_of_an_engine_do_not_break_the_sums(store: TraceStore) -> None:
    written(
        store,
        samples.trace(usage=samples.Usage(prompt_tokens=2**80, output_tokens=-5)),
        samples.trace(total_ms=float("nan"), started_s=HOUR_S + 7200),
    )
    store.put(samples.trace(started_s=float("nan")))
    wait_until(lambda: store.health().pending == 0)
    assert store.trend(0, 9e9)[0].prompt_tokens == 10**15
    assert store.health().last_error == ""


@given(
    times=st.lists(st.floats(1.0, 3e6), min_size=1, max_size=300),
    share=st.sampled_from([0.5, 0.9, 0.99]),
)
def test_percentiles_are_within_half_a_slot(times: list[float], share: float) -> None:
    tally = Tally()
    tally.add(row_of(samples.trace(ttft_ms=time)) for time in times)
    _, values = tally.rows(lambda_numbers())
    rows = [values[i : i + 6] for i in range(0, len(values), 6)]
    fleet = {row[4]: row[5] for row in rows if row[:3] == [60, 0, 0]}
    found = percentile(fleet, share)
    exact = sorted(times)[math.ceil(share * len(times)) - 1]
    assert found is not None
    assert found == pytest.approx(exact, rel=2 ** (0.5 / SLOTS_PER_OCTAVE) - 1 + 1e-9)


def lambda_numbers() -> dict[str, int]:
    return {"llama3.2:latest": 1, "node-a": 2}


def test_no_times_no_percentile() -> None:
    assert percentile({}, 0.5) is None
    assert percentile({0: 1}, 0.5) is not None
    assert statistics.fmean([percentile({8: 1}, 0.5) or 0.0]) == pytest.approx(2.09, abs=0.01)
