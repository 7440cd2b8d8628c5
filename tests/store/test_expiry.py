"""Old traces go as configured, in small steps, and it is said so."""

from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from ollama_herd.clock import now_s
from ollama_herd.store import expiry
from ollama_herd.store.database import Database
from ollama_herd.store.expiry import Retention
from ollama_herd.store.schema import labels, traces, trends
from ollama_herd.store.traces import TraceStore, open_traces
from tests.store import samples
from tests.store.conftest import KEEP_ALL
from tests.store.waiting import wait_until

DAY_S = 86400.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_herd.store.thread.GATHER_S", 0.01)
    monkeypatch.setattr("ollama_herd.store.thread.EXPIRY_INTERVAL_S", 0.2)
    monkeypatch.setattr(expiry, "STEP_ROWS", 20)


def fill(database: Database, ages_s: Iterator[float] | list[float]) -> int:
    store = open_traces(database, KEEP_ALL)
    count = 0
    for age_s in ages_s:
        store.put(samples.trace(started_s=now_s() - age_s, request_id=f"old-{age_s}"))
        count += 1
    assert store.close(timeout_s=60)
    return count


def count(database: Database, table=traces) -> int:
    with database.transaction() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_traces_beyond_their_days_are_deleted(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(database, [*(DAY_S * 3 + n for n in range(150)), *(DAY_S + n for n in range(30))])
    store = open_traces(database, Retention(days=2, max_rows=0))
    wait_until(lambda: count(database) == 30)
    oldest = store.recent(limit=100)[-1]
    store.close(timeout_s=60)
    assert oldest.started_s > now_s() - DAY_S * 2
    said = capsys.readouterr().out
    assert "deleting old traces" in said
    assert "too_old=150" in said
    assert "deleted old traces" in said


def test_the_newest_rows_are_kept(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, [float(n) for n in range(100, 0, -1)])
    store = open_traces(database, Retention(days=0, max_rows=40))
    wait_until(lambda: count(database) == 40)
    kept = [trace.request_id for trace in store.recent(limit=100)]
    store.close(timeout_s=60)
    assert kept == [f"old-{float(n)}" for n in range(1, 41)]
    assert "too_many=60" in capsys.readouterr().out


def test_the_newest_rows_that_take_so_many_bytes_are_kept(database: Database) -> None:
    """About: the whole file is shared out among the traces."""
    fill(database, [float(n) for n in range(1000, 0, -1)])
    store = open_traces(database, Retention(days=0, max_rows=0, max_bytes=350_000))
    wait_until(lambda: 0 < count(database) < 1000)
    newest = store.recent(limit=1)[0].request_id
    store.close(timeout_s=60)
    left = count(database)
    assert newest == "old-1.0"
    assert 100 < left < 1000
    again = open_traces(database, Retention(days=0, max_rows=0, max_bytes=1_000_000))
    again.put(samples.trace(started_s=now_s()))
    wait_until(lambda: again.health().written == 1)
    again.close(timeout_s=60)
    assert count(database) == left + 1


def test_both_limits_together(database: Database) -> None:
    fill(database, [*(DAY_S * 3 + n for n in range(50)), *(float(n) for n in range(1, 61))])
    store = open_traces(database, Retention(days=2, max_rows=45))
    wait_until(lambda: count(database) == 45)
    store.close(timeout_s=60)
    assert count(database) == 45


def test_zero_keeps_everything(database: Database) -> None:
    total = fill(database, [DAY_S * 4000 + n for n in range(30)])
    store = open_traces(database, Retention(days=0, max_rows=0))
    store.put(samples.trace(started_s=now_s()))
    wait_until(lambda: store.health().written == 1)
    store.close(timeout_s=60)
    assert count(database) == total + 1


def test_new_traces_are_written_while_old_ones_go(store: TraceStore, database: Database) -> None:
    store.close(timeout_s=60)
    fill(database, [DAY_S * 3 + n / 100 for n in range(3000)])
    expiring = open_traces(database, Retention(days=2, max_rows=0))
    for _ in range(100):
        expiring.put(samples.trace(started_s=now_s()))
    wait_until(lambda: expiring.health().written == 100)
    wait_until(lambda: count(database) == 100)
    expiring.close(timeout_s=60)


def test_trends_outlive_their_traces(database: Database) -> None:
    fill(database, [DAY_S * 3 + n for n in range(10)] + [expiry.HOUR_TRENDS_S + DAY_S])
    store = open_traces(database, Retention(days=2, max_rows=0))
    wait_until(lambda: count(database) == 0)
    hours = store.trend(0, now_s())
    store.close(timeout_s=60)
    assert sum(point.requests for point in hours) == 10
    with database.transaction() as connection:
        minutes = select(func.count()).where(trends.c.step_s == 60)
        assert connection.execute(minutes).scalar_one() == 0


def test_texts_without_traces_go_too(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PRUNED_LABELS", 5)
    store = open_traces(database, KEEP_ALL)
    for n in range(30):
        trace = samples.trace(client=f"10.0.0.{n}", started_s=now_s() - DAY_S * (3 if n else 0))
        store.put(trace)
    assert store.close(timeout_s=60)
    store = open_traces(database, Retention(days=2, max_rows=0))
    wait_until(lambda: count(database) == 1)
    if database.path is not None:  # on a server another router may be about to use one
        wait_until(lambda: count(database, labels) < 10)
    store.put(samples.trace(client="10.0.0.7", started_s=now_s()))
    wait_until(lambda: store.health().written == 1)
    assert {trace.client for trace in store.recent()} == {"10.0.0.0", "10.0.0.7"}
    assert {trace.model for trace in store.recent()} == {"llama3.2:latest"}
    store.close(timeout_s=60)
