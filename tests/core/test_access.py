"""What a key may do, and how much of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.access import MINUTE_S, ApiKey, Bucket, Excess, Spending
from ollama_herd.core.request import Priority


def key(**limits) -> ApiKey:
    return ApiKey(key_id="0", name="k", key_hash="", **limits)


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        ((), "anything", True),
        (("llama3.2",), "llama3.2", True),
        (("llama3.2",), "Llama3.2:1b", True),
        (("llama3.2:1b",), "llama3.2", False),
        (("llama3.2:latest",), "registry.ollama.ai/library/llama3.2", True),
        (("llama3*",), "llama3.2:70b", True),
        (("llama3*",), "hf.co/x/llama3", False),
        (("qwen*", "hf.co/*"), "hf.co/x/llama3:q4", True),
        (("llama3.2",), "llama3.2-evil", False),
        (("llama",), "", False),
    ],
)
def test_models(patterns: tuple[str, ...], model: str, *, may: bool) -> None:
    assert key(models=patterns).may_use(model) is may


def test_batch_keys_are_never_interactive() -> None:
    assert key(is_batch=True).priority(Priority.INTERACTIVE) is Priority.BATCH
    assert key().priority(Priority.BATCH) is Priority.BATCH
    assert key().priority(Priority.INTERACTIVE) is Priority.INTERACTIVE


@given(
    per_minute=st.integers(1, 10_000),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_no_minute_gives_more_than_twice_its_worth(per_minute: int, gaps: list[float]) -> None:
    """A full bucket and what it gains meanwhile: never more, however requests are spaced."""
    bucket, now_s, taken = Bucket(per_minute, 0.0), 0.0, []
    for gap_s in gaps:
        now_s += gap_s
        if not bucket.wait_s(1, now_s):
            bucket.take(1)
            taken.append(now_s)
    for start_s in taken:
        within = sum(start_s <= at_s <= start_s + MINUTE_S for at_s in taken)
        assert within <= 2 * per_minute + 1


@given(per_minute=st.integers(1, 1000), amount=st.integers(1, 5000))
def test_who_waits_as_told_gets_it(per_minute: int, amount: int) -> None:
    bucket = Bucket(per_minute, 0.0)
    bucket.take(per_minute)
    wait_s = bucket.wait_s(amount, 0.0)
    assert wait_s > 0
    assert bucket.wait_s(amount, wait_s + 0.001) == pytest.approx(0, abs=1e-3)


def test_concurrency_frees_with_each_end() -> None:
    spending = Spending(key(concurrency=2), 0.0)
    assert spending.begin(1, 0.0) is None
    assert spending.begin(1, 0.0) is None
    assert spending.begin(1, 0.0) == Excess("concurrency", 2, 1)
    spending.end(1, None)
    assert spending.begin(1, 0.0) is None


def test_requests_a_minute() -> None:
    spending = Spending(key(requests_per_minute=2), 0.0)
    assert [spending.begin(1, 0.0) for _ in range(2)] == [None, None]
    assert spending.begin(1, 0.0) == Excess("requests_per_minute", 2, 30)
    assert spending.begin(1, 30.1) is None


def test_tokens_are_counted_as_used_not_as_guessed() -> None:
    spending = Spending(key(tokens_per_minute=600), 0.0)
    assert spending.begin(100, 0.0) is None
    spending.end(100, 900)  # 300 more than a minute's worth: a debt
    over = spending.begin(1, 0.0)
    assert over is not None
    assert (over.limit, over.retry_after_s) == ("tokens_per_minute", 31)
    assert spending.begin(1, 31.0) is None


def test_refused_requests_cost_nothing() -> None:
    spending = Spending(key(requests_per_minute=1, tokens_per_minute=10), 0.0)
    assert spending.begin(10, 0.0) is None
    for _ in range(100):
        assert spending.begin(10, 0.0) is not None
    spending.end(10, None)
    assert spending.begin(10, 60.1) is None


def test_changed_limits_count_from_now_on() -> None:
    spending = Spending(key(concurrency=1), 0.0)
    spending.begin(1, 0.0)
    spending.change(key(concurrency=2), 1.0)
    assert spending.begin(1, 1.0) is None
    assert spending.begin(1, 1.0) is not None
