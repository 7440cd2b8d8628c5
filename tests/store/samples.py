"""Traces, decisions and nodes to store: one plain maker, and strategies for strange ones."""

import itertools
from typing import Any

import msgspec
from hypothesis import strategies as st

from ollama_herd.clock import now_s
from ollama_herd.core.node import Endpoint, EngineKind, LoadedModel, Model, Replica
from ollama_herd.core.request import (
    Attempt,
    Dialect,
    InferenceRequest,
    Kind,
    OutcomeKind,
    Priority,
    Refusal,
    RefusalKind,
    Usage,
)
from ollama_herd.core.routing import Candidate, Cost, Eliminated, Rejected, RouteDecision
from ollama_herd.core.trace import Trace

START_S = now_s() // 3600 * 3600 - 86400.0
"""Yesterday: trends by minute are not kept for longer than two days."""

_numbers = itertools.count()


def unused_id() -> str:
    return f"run-{next(_numbers)}"


def attempt(outcome: OutcomeKind = OutcomeKind.COMPLETED, **changes: Any) -> Attempt:
    sample = Attempt(
        node_id="node-a",
        engine_id="ollama-11434",
        model="llama3.2:latest",
        outcome=outcome,
        status=200,
        started_ms=0.25,
        first_byte_ms=80.5,
        ended_ms=900.0,
    )
    return msgspec.structs.replace(sample, **changes)


def trace(
    *,
    request_id: str = "",
    model: str = "llama3.2:latest",
    client: str = "192.168.1.7",
    started_s: float = START_S,
    **changes: Any,
) -> Trace:
    """A completed chat on node-a; `changes` are fields of Trace."""
    sample = Trace(
        request=InferenceRequest(
            request_id=request_id or unused_id(),
            model=model.removesuffix(":latest"),
            model_key=model,
            kind=Kind.CHAT,
            dialect=Dialect.OLLAMA,
            path="/api/chat",
            arrived_s=0.0,
            stream=True,
            client=client,
        ),
        started_s=started_s,
        total_ms=900.0,
        queue_ms=0.25,
        ttft_ms=80.5,
        status=200,
        error="",
        decision=RouteDecision(model, (candidate(model),)),
        attempts=(attempt(),),
        usage=Usage(prompt_tokens=11, output_tokens=7, prefill_ms=60.0, decode_ms=800.0),
        model_served=model,
        node_id="node-a",
    )
    return msgspec.structs.replace(sample, **changes)


def candidate(model: str, node_id: str = "node-a", cost: Cost | None = None) -> Candidate:
    return Candidate(
        replica=Replica(
            node_id=node_id,
            engine_id="ollama-11434",
            kind=EngineKind.OLLAMA,
            model=Model(name=model),
            runner=model,
            loaded=LoadedModel(name=model),
            slots=4,
            max_loaded=3,
            endpoint=Endpoint("10.0.0.9", 11436, tunnel="ollama-11434", key="RELAY-KEY"),
        ),
        cost=cost or Cost(total_ms=812.75, latency_history_ms=800.0, queue_depth_ms=12.75),
        starts_now=True,
    )


HOSTILE = (
    "<script>alert('&\"')</script>",
    "\x00\x01\x1b[31m\x7f\r\n\t",
    "'; DROP TABLE traces; --",
    "%_\\%",
    "\u202egnp.exe \U0001f999 \uffff",
)

texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
_times_ms = st.floats(min_value=-1, max_value=1e9, allow_nan=False)
_tokens = st.none() | st.integers(0, 2**63 - 1)

costs = st.builds(Cost, *[st.floats(-1e9, 1e9)] * len(Cost.__struct_fields__))
_candidates = st.builds(candidate, st.text(min_size=1, max_size=20), st.text(max_size=20), costs)
_rejected = st.builds(
    Rejected, st.text(max_size=20), st.text(max_size=20), st.sampled_from(Eliminated), texts
)
decisions = st.builds(
    RouteDecision,
    st.text(max_size=20),
    st.lists(_candidates, max_size=20).map(tuple),
    st.lists(_rejected, max_size=2).map(tuple),
)
_attempts = st.builds(
    Attempt,
    node_id=st.text(max_size=20),
    engine_id=st.text(max_size=20),
    model=st.text(max_size=20),
    outcome=st.sampled_from(OutcomeKind),
    status=st.integers(0, 599),
    started_ms=_times_ms,
    first_byte_ms=_times_ms,
    ended_ms=_times_ms,
    detail=st.text(max_size=200),
)
_requests = st.builds(
    InferenceRequest,
    request_id=st.builds(unused_id),
    model=st.text(max_size=50),
    model_key=texts,
    kind=st.sampled_from(Kind),
    dialect=st.sampled_from(Dialect),
    path=texts,
    arrived_s=st.just(0.0),
    stream=st.booleans(),
    prompt_tokens=st.integers(0, 2**40),
    max_tokens=st.none() | st.integers(0, 2**40),
    load_options=st.lists(
        st.tuples(st.text(max_size=10), st.integers(-(2**40), 2**40) | st.booleans()), max_size=3
    ).map(tuple),
    client=texts,
    priority=st.sampled_from(Priority),
    fallback_models=st.lists(st.text(max_size=30), max_size=3).map(tuple),
    is_load_only=st.booleans(),
)
traces = st.builds(
    Trace,
    request=_requests,
    started_s=st.floats(0, 4e9),
    total_ms=_times_ms,
    queue_ms=_times_ms,
    ttft_ms=_times_ms,
    status=st.integers(0, 599),
    error=texts,
    decision=st.none() | decisions,
    attempts=st.lists(_attempts, max_size=3).map(tuple),
    usage=st.none()
    | st.builds(
        Usage,
        prompt_tokens=_tokens,
        output_tokens=_tokens,
        load_ms=st.none() | _times_ms,
        prefill_ms=st.none() | _times_ms,
        decode_ms=st.none() | _times_ms,
        done_reason=st.text(max_size=20),
    ),
    refusal=st.none()
    | st.builds(Refusal, st.sampled_from(RefusalKind), st.text(max_size=50), st.integers(0, 3600)),
    model_served=texts,
    node_id=texts,
    tags=st.lists(st.text(max_size=20), max_size=4).map(tuple),
    earlier=st.lists(decisions, max_size=2).map(tuple),
    hedged=st.booleans(),
    continued=st.booleans(),
)
