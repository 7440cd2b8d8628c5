"""What is put is what comes back, whatever the texts in it; and never more than may be kept."""

from array import array

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ollama_herd.core.node import Node
from ollama_herd.core.request import Attempt, OutcomeKind, Refusal, RefusalKind
from ollama_herd.core.routing import Cost, Eliminated, Rejected, RouteDecision
from ollama_herd.core.trace import Trace
from ollama_herd.store.database import Database
from ollama_herd.store.labels import LABEL_CHARS, stored_text, tags_of, tags_text
from ollama_herd.store.record import Record
from ollama_herd.store.rows import KEPT_CANDIDATES, LARGEST_JSON_BYTES, row_of
from ollama_herd.store.stored import StoredTrace
from ollama_herd.store.traces import TraceStore
from tests.store import samples
from tests.store.waiting import wait_until


def stored(store: TraceStore, *put: Trace) -> list[StoredTrace]:
    done = store.health().written + len(put)
    for trace in put:
        store.put(trace)
    wait_until(lambda: store.health().written == done)
    found = [store.get(trace.request.request_id) for trace in put]
    return [trace for trace in found if trace is not None]


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate],  # each example waits for the writer; shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(put=st.lists(samples.traces, min_size=1, max_size=8))
def test_a_trace_comes_back_as_it_was_put(store: TraceStore, put: list[Trace]) -> None:
    found = stored(store, *put)
    assert [trace.request_id for trace in found] == [trace.request.request_id for trace in put]
    for trace, kept in zip(put, found, strict=True):
        assert_columns(trace, kept)
        assert_record(trace, kept)


def assert_columns(trace: Trace, kept: StoredTrace) -> None:
    request = trace.request
    assert kept.started_s == trace.started_s
    assert (kept.client, kept.path) == (stored_text(request.client), stored_text(request.path))
    assert kept.model == stored_text(trace.model_served or request.model_key)
    assert kept.model_served == stored_text(trace.model_served)
    assert (kept.node_id, kept.error) == (stored_text(trace.node_id), stored_text(trace.error))
    assert kept.status == trace.status
    assert kept.tags == tags_of(tags_text(trace.tags))
    assert (kept.queue_ms, kept.ttft_ms, kept.total_ms) == (
        trace.queue_ms,
        trace.ttft_ms,
        trace.total_ms,
    )
    assert kept.attempt_count == len(trace.attempts)
    for name in ("prompt_tokens", "output_tokens", "load_ms", "prefill_ms", "decode_ms"):
        assert getattr(kept, name) == (getattr(trace.usage, name) if trace.usage else None)


def assert_record(trace: Trace, kept: StoredTrace) -> None:
    request = trace.request
    assert (kept.kind, kept.dialect) == (request.kind.value, request.dialect.value)
    assert kept.model_asked == request.model
    assert kept.prompt_tokens_estimate == request.prompt_tokens
    for name in ("stream", "max_tokens", "load_options", "fallback_models", "is_load_only"):
        assert getattr(kept, name) == getattr(request, name)
    assert kept.done_reason == (trace.usage.done_reason if trace.usage else "")
    assert kept.attempts == trace.attempts
    assert (kept.hedged, kept.continued) == (trace.hedged, trace.continued)
    assert len(kept.earlier) == len(trace.earlier)
    if trace.refusal is None:
        assert kept.refusal is None
    else:
        assert kept.refusal is not None
        assert msgspec.structs.astuple(kept.refusal) == msgspec.structs.astuple(trace.refusal)
    if trace.decision is None:
        assert kept.decision is None
        return
    assert kept.decision is not None
    assert kept.decision.model_key == trace.decision.model_key
    assert kept.decision.candidate_count == len(trace.decision.candidates)
    assert len(kept.decision.candidates) == min(len(trace.decision.candidates), KEPT_CANDIDATES)
    for offered, candidate in zip(
        trace.decision.candidates, kept.decision.candidates, strict=False
    ):
        assert candidate.node_id == offered.replica.node_id
        assert candidate.model == offered.replica.model.name
        for name in Cost.__struct_fields__:
            assert getattr(candidate.cost, name) == as_float32(getattr(offered.cost, name))
    for left_out, rejected in zip(trace.decision.eliminated, kept.decision.eliminated, strict=True):
        assert rejected.reason == left_out.reason.value
        assert rejected.detail == left_out.detail


def as_float32(term: float) -> float:
    return array("f", [term])[0]


def decided(node_id: str, first_token_ms: float, answer_ms: float) -> RouteDecision:
    offered = samples.candidate("m", node_id)
    return RouteDecision("m", (offered,), first_token_ms=first_token_ms, answer_ms=answer_ms)


def test_what_is_not_streamed_is_predicted_to_begin_when_it_is_whole(store: TraceStore) -> None:
    streamed = samples.trace(decision=decided("node-a", 90.0, 812.5))
    whole = msgspec.structs.replace(
        streamed,
        request=msgspec.structs.replace(streamed.request, request_id="whole", stream=False),
    )
    (kept,) = stored(store, whole)
    assert kept.predicted_ttft_ms == kept.predicted_total_ms == 812.75


def test_the_reason_and_the_prediction_are_those_of_the_decision(store: TraceStore) -> None:
    put = samples.trace(key_name="laptop", decision=decided("node-a", 90.0, 812.5))
    refused = samples.trace(
        decision=RouteDecision("m", (), (Rejected("node-a", "ollama", Eliminated.OFFLINE),)),
        attempts=(),
        refusal=Refusal(RefusalKind.NO_NODE, "m is on node-a, which is offline"),
    )
    unknown = samples.trace(
        decision=None, attempts=(), refusal=Refusal(RefusalKind.UNKNOWN_MODEL, "nope")
    )
    kept, nowhere, nothing = stored(store, put, refused, unknown)
    assert nothing.reason == "unknown model nope"
    assert (kept.key_name, kept.reason) == ("laptop", "loaded; expected 813 ms; candidates 1")
    assert (kept.predicted_ttft_ms, kept.predicted_total_ms) == (90.25, 812.75)
    assert nowhere.reason == "m is on node-a, which is offline"
    assert nowhere.decision is not None
    assert [one.reason for one in nowhere.decision.eliminated] == ["offline"]
    assert nowhere.predicted_ttft_ms is None


def test_each_attempt_keeps_its_decision(store: TraceStore) -> None:
    """The prediction is that of the attempt whose first byte the client got."""
    put = samples.trace(
        earlier=(decided("node-a", 10.0, 20.0), decided("node-b", 30.0, 40.0)),
        decision=decided("node-c", 50.0, 60.0),
        attempts=(
            samples.attempt(OutcomeKind.UNREACHABLE, first_byte_ms=-1.0, started_ms=1.0),
            samples.attempt(OutcomeKind.TRUNCATED, node_id="node-b", started_ms=100.0),
            samples.attempt(node_id="node-c", started_ms=1000.0),
        ),
    )
    none_answered = samples.trace(
        earlier=(decided("node-a", 10.0, 20.0),),
        decision=decided("node-b", 30.0, 40.0),
        attempts=(
            samples.attempt(OutcomeKind.UNREACHABLE, first_byte_ms=-1.0, started_ms=1.0),
            samples.attempt(
                OutcomeKind.UNREACHABLE, node_id="node-b", first_byte_ms=-1.0, started_ms=5.0
            ),
        ),
    )
    kept, failed = stored(store, put, none_answered)
    assert [d.candidates[0].node_id for d in kept.earlier] == ["node-a", "node-b"]
    assert kept.decision is not None
    assert kept.decision.candidates[0].node_id == "node-c"
    assert (kept.predicted_ttft_ms, kept.predicted_total_ms) == (130.0, 140.0)
    assert (failed.predicted_ttft_ms, failed.predicted_total_ms) == (35.0, 45.0)


@pytest.mark.parametrize(
    "text", ["lone \ud800 surrogate", "nul \0 byte", "x" * 10_000, "\0" * 10_000]
)
def test_text_a_database_refuses_costs_no_trace(store: TraceStore, text: str) -> None:
    before, hostile, after = (
        samples.trace(),
        samples.trace(client=text, model=text, error=text, node_id=text, tags=(text,)),
        samples.trace(),
    )
    odd_id = samples.trace(request_id=f"odd-{text[:20]}")
    odd_detail = samples.trace(attempts=(samples.attempt(detail=text),))
    put = (before, hostile, odd_id, odd_detail, after)
    for trace in put:
        store.put(trace)
    wait_until(lambda: store.health().written == len(put))
    assert store.health().dropped == 0
    kept = store.get(hostile.request.request_id)
    assert kept is not None
    assert len(kept.client) <= LABEL_CHARS
    assert_columns(
        before, next(t for t in store.recent() if t.request_id == before.request.request_id)
    )


def test_impossible_numbers_cost_no_trace(store: TraceStore) -> None:
    usage = samples.Usage(prompt_tokens=2**70, output_tokens=-(2**70))
    odd = samples.trace(usage=usage, total_ms=float("nan"), queue_ms=float("inf"))
    lost_cost = samples.trace(
        decision=samples.RouteDecision(
            "m", (samples.candidate("m", cost=Cost(float("inf"), 1e300)),)
        )
    )
    found = stored(store, samples.trace(), odd, lost_cost)
    assert found[1].prompt_tokens == 2**63 - 1
    assert found[1].total_ms == -1.0
    assert found[2].decision is not None
    assert found[2].decision.candidates[0].cost.total_ms > 1e29
    assert store.health().last_error == ""


def test_a_giant_record_is_cut(store: TraceStore, database: Database) -> None:
    many = tuple(samples.attempt(detail="<b>" * 5000) for _ in range(50))
    kept = stored(store, samples.trace(attempts=many))[0]
    assert kept.attempt_count == 50
    assert len(kept.attempts) == KEPT_CANDIDATES
    with database.transaction() as connection:
        size = connection.exec_driver_sql("SELECT length(record) FROM traces").scalar_one()
    assert size <= LARGEST_JSON_BYTES


def test_keys_and_addresses_of_nodes_are_not_kept(store: TraceStore, database: Database) -> None:
    stored(store, samples.trace())
    with database.transaction() as connection:
        record = connection.exec_driver_sql("SELECT record FROM traces").scalar_one()
    assert "RELAY-KEY" not in record
    assert "10.0.0.9" not in record


def test_rows_of_an_unknown_version_keep_their_columns(
    store: TraceStore, database: Database
) -> None:
    put = samples.trace()
    stored(store, put)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE traces SET record = '[1,2,{}]'")
    kept = store.get(put.request.request_id)
    assert kept is not None
    assert (kept.node_id, kept.attempts, kept.decision) == ("node-a", (), None)


def test_other_programs_can_read_the_view(store: TraceStore, database: Database) -> None:
    stored(store, samples.trace(tags=("nightly",)))
    with database.transaction() as connection:
        row = connection.exec_driver_sql("SELECT * FROM requests").mappings().one()
    assert (row["model"], row["node_id"], row["client"], row["tags"], row["error"]) == (
        "llama3.2:latest",
        "node-a",
        "192.168.1.7",
        "nightly",
        "",
    )


def test_fields_are_only_appended() -> None:
    """Values are kept by position: a field put in between would change what old rows say."""
    assert Cost.__struct_fields__[:9] == (
        "total_ms",
        "loaded_state_ms",
        "memory_fit_ms",
        "queue_depth_ms",
        "latency_history_ms",
        "role_affinity_ms",
        "availability_trend_ms",
        "context_fit_ms",
        "prefix_affinity_ms",
    )
    assert Rejected.__struct_fields__[:4] == ("node_id", "engine_id", "reason", "detail")
    assert Attempt.__struct_fields__ == (
        "node_id",
        "engine_id",
        "model",
        "outcome",
        "status",
        "started_ms",
        "first_byte_ms",
        "ended_ms",
        "detail",
    )
    assert samples.Usage.__struct_fields__ == (
        "prompt_tokens",
        "output_tokens",
        "load_ms",
        "prefill_ms",
        "decode_ms",
        "done_reason",
    )
    assert Record.__struct_fields__[-4:] == ("refusal", "earlier", "hedged", "continued")
    assert samples.Refusal.__struct_fields__ == ("kind", "message", "retry_after_s")
    assert "relay_key" in Node.__struct_fields__  # what must never be in a trace


@given(st.lists(samples.texts, max_size=5))
def test_tags_are_kept_whole(tags: list[str]) -> None:
    kept = tags_of(tags_text(tags))
    assert len(tags_text(tags)) <= LABEL_CHARS
    assert (
        list(kept)
        == [stored_text(tag).replace("\x1f", "\ufffd") for tag in tags if tag][: len(kept)]
    )


@given(samples.texts)
def test_stored_text_is_stable(text: str) -> None:
    kept = stored_text(text)
    assert stored_text(kept) == kept
    assert len(kept) <= LABEL_CHARS
    if len(text) <= LABEL_CHARS and "\0" not in text:
        assert kept == text


@pytest.mark.parametrize("length", [LABEL_CHARS - 1, LABEL_CHARS, LABEL_CHARS + 1, 10**6])
def test_a_name_that_a_client_made_up_waits_as_it_will_be_kept(length: int) -> None:
    sent = samples.trace(model="x" * length, model_served="", attempts=(), decision=None)
    row = row_of(sent)
    assert len(repr(row)) < 20 * LABEL_CHARS
    _, place, _, _ = row
    assert stored_text(place[3]) == stored_text(sent.request.model_key)
