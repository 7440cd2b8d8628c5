"""Filters and pages, held against the same questions asked of plain lists."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_herd.core.trace import Trace
from ollama_herd.store.database import Database
from ollama_herd.store.queries import LARGEST_PAGE, StatusClass, TraceFilter
from ollama_herd.store.traces import TraceStore, open_traces
from tests.store import samples
from tests.store.conftest import KEEP_ALL
from tests.store.waiting import wait_until

MODELS = ("llama3.2:latest", "qwen3:8b", "")
NODES = ("node-a", "node-b", "")
CLIENTS = ("10.0.0.1", "10.0.0.2")
ERRORS = ("", "engine_error", "queue_timeout", "100%_sure")
TAGS: tuple[tuple[str, ...], ...] = ((), ("nightly",), ("nightly", "a b"), ("nightly-2",))
STATUSES = (200, 200, 201, 400, 404, 499, 500, 503)
KEYS = ("", "laptop")
COUNT = 400


def some_traces() -> Iterator[Trace]:
    """Every combination turns up; four traces begin in the same instant."""
    for n in range(COUNT):
        model = MODELS[n % 3]
        yield samples.trace(
            request_id=f"q-{n}",
            started_s=samples.START_S + (n * 37 % COUNT) // 4,
            client=CLIENTS[n % 2],
            model=model or "asked:latest",
            model_served=model,
            node_id=NODES[n // 3 % 3],
            status=STATUSES[n // 2 % 8],
            error=ERRORS[n // 5 % 4],
            tags=TAGS[n // 7 % 4],
            key_name=KEYS[n // 11 % 2],
        )


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TraceStore]:
    if request.param == "sqlite":
        database = Database(tmp_path_factory.mktemp("filled"))
    else:
        database = Database(request.getfixturevalue("postgres_server").new_database())
    store = open_traces(database, KEEP_ALL)
    for trace in some_traces():
        store.put(trace)
    wait_until(lambda: store.health().written == COUNT)
    yield store
    store.close()
    database.close()


def matches(trace: Trace, wanted: TraceFilter) -> bool:
    checks = (
        wanted.from_s is None or trace.started_s >= wanted.from_s,
        wanted.until_s is None or trace.started_s < wanted.until_s,
        wanted.model in {"", trace.model_served or trace.request.model_key},
        wanted.node_id in {"", trace.node_id},
        wanted.client in {"", trace.request.client},
        wanted.key_name in {"", trace.key_name},
        wanted.status is None or is_of(trace, wanted.status),
        not wanted.tag or wanted.tag in trace.tags,
        wanted.error.lower() in trace.error,
    )
    return all(checks)


def is_of(trace: Trace, wanted: StatusClass | int) -> bool:
    match wanted:
        case int():
            return trace.status == wanted
        case StatusClass.OK:
            return trace.status < 400 and not trace.error
        case StatusClass.CLIENT_ERROR:
            return 400 <= trace.status < 500 and trace.status != 499
        case StatusClass.SERVER_ERROR:
            return trace.status >= 500
        case StatusClass.CANCELLED:
            return trace.status == 499
        case StatusClass.FAILED:
            return (trace.status >= 400 or bool(trace.error)) and trace.status != 499


_instants = st.none() | st.integers(-1, COUNT // 4 + 1).map(lambda n: samples.START_S + n)
filters = st.builds(
    TraceFilter,
    from_s=_instants,
    until_s=_instants,
    model=st.sampled_from(("", *MODELS, "asked:latest", "never-seen")),
    node_id=st.sampled_from(("", *NODES, "node-z")),
    client=st.sampled_from(("", *CLIENTS)),
    key_name=st.sampled_from(KEYS),
    status=st.none() | st.sampled_from(StatusClass) | st.sampled_from((*STATUSES, 418)),
    tag=st.sampled_from(("", "nightly", "night", "a b", "%")),
    error=st.sampled_from(("", "engine", "ENGINE", "_", "%", "timeout", "zzz")),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wanted=filters, page=st.integers(1, 150))
def test_pages_hold_what_matches_newest_first(
    filled: TraceStore, wanted: TraceFilter, page: int
) -> None:
    put = list(enumerate(some_traces()))
    newest_first = sorted(put, key=lambda item: (item[1].started_s, item[0]), reverse=True)
    expected = [trace.request.request_id for _, trace in newest_first if matches(trace, wanted)]
    found: list[str] = []
    before = ""
    while True:
        traces = filled.recent(wanted, page, before)
        found += [trace.request_id for trace in traces]
        if len(traces) < page:
            break
        before = traces[-1].cursor
    assert found == expected


def test_a_page_is_bounded(filled: TraceStore) -> None:
    assert len(filled.recent(limit=10**9)) == min(COUNT, LARGEST_PAGE)
    assert filled.recent(limit=0) == []
    assert filled.recent(limit=-5) == []


@pytest.mark.parametrize("cursor", ["x", "1", ":", "1.5:", "nan", "1:2:3", "' OR 1=1 --:1"])
def test_a_false_cursor_is_refused(filled: TraceStore, cursor: str) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        filled.recent(before=cursor)


def test_get_finds_one_or_none(filled: TraceStore) -> None:
    found = filled.get("q-17")
    assert found is not None
    assert found.request_id == "q-17"
    assert filled.get("never") is None
    assert filled.get("' OR 1=1 --") is None


def test_every_filter_walks_an_index(tmp_path: Path) -> None:
    """A table scan would read a gigabyte where the index has thirty megabytes."""
    database = Database(tmp_path)
    store = open_traces(database, KEEP_ALL)
    store.put(samples.trace(error="engine_error", tags=("t",), key_name="k"))
    wait_until(lambda: store.health().written == 1)
    plans: list[Any] = []
    with database.transaction() as connection:
        for where in (
            "model_label = 1",
            "model_label = 1 AND node_label = 2 AND started_at > 5",
            "status >= 500",
            "error_label IN (1, 2)",
            "(started_at, id) < (5.0, 5) AND client_label = 3",
        ):
            query = "EXPLAIN QUERY PLAN SELECT * FROM traces WHERE " + where  # noqa: S608 - from above
            order = " ORDER BY started_at DESC, id DESC LIMIT 100"
            plan = connection.exec_driver_sql(query + order).all()
            plans += [row[-1] for row in plan]
    store.close()
    database.close()
    assert all("traces_filter" in plan for plan in plans), plans
