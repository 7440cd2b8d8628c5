"""The trace store as the dashboard asks it: questions in its words, answers as JSON.

Everything blocks and belongs in a worker thread.
"""

from collections.abc import Callable

import msgspec

from ollama_herd.core.decision import Cost
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.health.values import Transition
from ollama_herd.core.request import Attempt
from ollama_herd.dashboard.answers import RecordsUnavailable
from ollama_herd.dashboard.queries import BadField, TraceQuery, TrendQuery
from ollama_herd.router.fresh import FreshAnswers
from ollama_herd.router.trace_csv import csv_head, csv_lines
from ollama_herd.router.watch import Watch
from ollama_herd.store.errors import StoreError
from ollama_herd.store.queries import StatusClass, TraceFilter
from ollama_herd.store.stored import (
    StoredDecision,
    StoredRefusal,
    StoredRejected,
    StoredTrace,
)
from ollama_herd.store.traces import TraceHealth, TraceStore
from ollama_herd.store.trends import Step, TrendPoint

SWITCHED_OFF = (
    "traces are switched off on this router: start it with HERD_TRACES=true to keep "
    "(without any text) what becomes of each request"
)


class TraceRow(msgspec.Struct, frozen=True):
    """A request in a list; names and units as in StoredTrace."""

    request_id: str
    started_s: float
    model: str
    model_asked: str
    node_id: str
    client: str
    key_name: str
    path: str
    kind: str
    dialect: str
    status: int
    error: str
    outcome: str
    tags: tuple[str, ...]
    queue_ms: float
    ttft_ms: float
    total_ms: float
    decode_ms: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    attempt_count: int
    hedged: bool
    continued: bool
    predicted_ttft_ms: float | None
    predicted_total_ms: float | None


class CandidateView(msgspec.Struct, frozen=True):
    """A place that could have taken the request, and what it would have cost."""

    node_id: str
    engine_id: str
    model: str
    is_loaded: bool
    starts_now: bool
    cost: Cost


class RejectedView(msgspec.Struct, frozen=True):
    """A place that could not, and why."""

    node_id: str
    engine_id: str
    reason: str
    detail: str


class DecisionView(msgspec.Struct, frozen=True):
    """Candidates by rising cost; the counts are of all, of which the first few are kept."""

    model_key: str
    candidates: tuple[CandidateView, ...]
    eliminated: tuple[RejectedView, ...]
    candidate_count: int
    eliminated_count: int


class RefusalView(msgspec.Struct, frozen=True):
    """Why the request went nowhere."""

    kind: str
    message: str
    retry_after_s: int


class TraceView(msgspec.Struct, frozen=True):
    """All that is kept of one request."""

    row: TraceRow
    reason: str
    stream: bool
    prefill_ms: float | None
    load_ms: float | None
    predicted_ttft_ms: float | None
    predicted_total_ms: float | None
    prompt_tokens_estimate: int
    max_tokens: int | None
    load_options: tuple[tuple[str, int | bool], ...]
    priority: int
    fallback_models: tuple[str, ...]
    is_load_only: bool
    done_reason: str
    decision: DecisionView | None
    attempts: tuple[Attempt, ...]
    refusal: RefusalView | None
    earlier: tuple[DecisionView, ...]  # of the attempts before the last one


class TracePage(msgspec.Struct, frozen=True):
    """`next` is the cursor of the page behind this one, "" when there is none."""

    traces: list[TraceRow]
    next: str


class TrendAnswer(msgspec.Struct, frozen=True):
    """Quiet buckets are left out; times are seconds since 1970."""

    from_s: float
    until_s: float
    step_s: int
    points: list[TrendPoint]


class StoreRecords:
    """`traces` gives the store, None when no traces are kept."""

    def __init__(self, traces: Callable[[], TraceStore | None], fleet: Callable[[], Fleet]) -> None:
        self._traces = traces
        self._fleet = fleet
        self._fresh = FreshAnswers()

    def health(self) -> TraceHealth | None:
        """How the store does, None when no traces are kept; safe on the event loop."""
        store = self._traces()
        return None if store is None else store.health()

    def _written(self) -> int:
        health = self.health()
        return 0 if health is None else health.written

    def page(self, query: TraceQuery) -> bytes:
        """Requests, newest first. Raises RecordsUnavailable and BadField."""
        return self._fresh.get((query, self._written()), lambda: self._page(query))

    def _page(self, query: TraceQuery) -> bytes:
        found = self._found(query)
        shown = found[: query.limit]
        cursor = shown[-1].cursor if len(found) > query.limit else ""
        return msgspec.json.encode(TracePage([_row(trace) for trace in shown], cursor))

    def _found(self, query: TraceQuery) -> list[StoredTrace]:
        """One more than asked for tells whether there is another page."""
        wanted = TraceFilter(
            from_s=query.from_s,
            until_s=query.until_s,
            model=query.model,
            node_id=self._node_id(query.node),
            client=query.client,
            key_name=query.key_name,
            status=_status(query.status),
            tag=query.tag,
            error=query.error,
        )
        try:
            return self._store().recent(wanted, query.limit + 1, query.before)
        except StoreError as error:
            raise RecordsUnavailable(str(error)) from error
        except ValueError as error:
            raise BadField("before", str(error)) from error

    def export(self, query: TraceQuery, format_: str, count: int) -> tuple[bytes, str, int]:
        """Up to `count` lines of one page, the cursor behind them, and how many they are. Raises
        RecordsUnavailable, BadField for a cursor that is none.
        """
        found = self._found(query)
        cursor = found[query.limit - 1].cursor if len(found) > query.limit else ""
        shown = found[: min(query.limit, count)]
        if format_ == "csv":
            return csv_lines(shown), cursor, len(shown)
        lines = b"".join(msgspec.json.encode(_view(trace)) + b"\n" for trace in shown)
        return lines, cursor, len(shown)

    def export_head(self, format_: str) -> bytes:
        """What comes before all lines."""
        return csv_head() if format_ == "csv" else b""

    def one(self, request_id: str) -> bytes | None:
        """All of one request, None when it is not known. Raises RecordsUnavailable."""
        try:
            found = self._store().get(request_id)
        except StoreError as error:
            raise RecordsUnavailable(str(error)) from error
        return None if found is None else msgspec.json.encode(_view(found))

    def trend(self, query: TrendQuery) -> bytes:
        """Counts and times by bucket. Raises RecordsUnavailable."""
        return self._fresh.get((query, self._written()), lambda: self._trend(query))

    def _trend(self, query: TrendQuery) -> bytes:
        try:
            points = self._store().trend(
                query.from_s,
                query.until_s,
                Step(query.step_s),
                model=query.model,
                node_id=self._node_id(query.node),
            )
        except StoreError as error:
            raise RecordsUnavailable(str(error)) from error
        return msgspec.json.encode(TrendAnswer(query.from_s, query.until_s, query.step_s, points))

    def _store(self) -> TraceStore:
        store = self._traces()
        if store is None:
            raise RecordsUnavailable(SWITCHED_OFF)
        return store

    def _node_id(self, node: str) -> str:
        """Traces know nodes by their ids; people say names."""
        nodes = self._fleet().nodes
        if not node or node in nodes:
            return node
        return next((known.node_id for known in nodes.values() if known.name == node), node)


class ChangesAnswer(msgspec.Struct, frozen=True):
    """Changes of health, the newest first."""

    changes: list[Transition]


class HealthRecords:
    """Health as the dashboard asks for it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def now(self) -> bytes:
        """The state of the last look; safe on the event loop, nowhere else."""
        return msgspec.json.encode(self._watch.health)

    def changes(self, limit: int) -> bytes:
        """What changed lately. Blocks. Raises RecordsUnavailable."""
        try:
            return msgspec.json.encode(ChangesAnswer(self._watch.changes(limit)))
        except StoreError as error:
            raise RecordsUnavailable(str(error)) from error


def _status(asked: str) -> StatusClass | int | None:
    if asked.isdecimal():
        return int(asked)
    return StatusClass(asked) if asked else None


def _row(trace: StoredTrace) -> TraceRow:
    return TraceRow(
        outcome=trace.attempts[-1].outcome.value if trace.attempts else "",
        **{name: getattr(trace, name) for name in TraceRow.__struct_fields__ if name != "outcome"},
    )


def _view(trace: StoredTrace) -> TraceView:
    return TraceView(
        row=_row(trace),
        decision=None if trace.decision is None else _decision(trace.decision),
        refusal=_refusal(trace.refusal),
        earlier=tuple(map(_decision, trace.earlier)),
        **{name: getattr(trace, name) for name in _SAME},
    )


_SAME = tuple(
    name
    for name in TraceView.__struct_fields__
    if name not in {"row", "decision", "refusal", "earlier"}
)


def _decision(decision: StoredDecision) -> DecisionView:
    return DecisionView(
        model_key=decision.model_key,
        candidates=tuple(
            CandidateView(
                node_id=one.node_id,
                engine_id=one.engine_id,
                model=one.model,
                is_loaded=one.is_loaded,
                starts_now=one.starts_now,
                cost=one.cost,
            )
            for one in decision.candidates
        ),
        eliminated=tuple(map(_rejected, decision.eliminated)),
        candidate_count=decision.candidate_count,
        eliminated_count=decision.eliminated_count,
    )


def _rejected(one: StoredRejected) -> RejectedView:
    return RejectedView(one.node_id, one.engine_id, one.reason, one.detail)


def _refusal(refusal: StoredRefusal | None) -> RefusalView | None:
    if refusal is None:
        return None
    return RefusalView(refusal.kind, refusal.message, refusal.retry_after_s)
