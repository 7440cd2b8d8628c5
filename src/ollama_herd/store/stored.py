"""What the database knows of a request: the values that queries answer with. Pure."""

import msgspec

from ollama_herd.core.request import Attempt, RefusalKind
from ollama_herd.core.routing import Cost

_ROWS_END = 2**63
"""Rows are numbered in 64 bits, with a sign."""


class StoredCandidate(msgspec.Struct, frozen=True):
    """What is kept of a candidate; its cost has seven digits. Terms a version lacks are 0."""

    node_id: str
    engine_id: str
    model: str
    is_loaded: bool
    starts_now: bool
    cost: Cost


class StoredRejected(msgspec.Struct, frozen=True):
    """`core.routing.Rejected` with its reason as text, so that a retired reason stays readable."""

    node_id: str
    engine_id: str
    reason: str
    detail: str = ""


class StoredDecision(msgspec.Struct, frozen=True):
    """Why a request went where it went: candidates by rising cost, and who was left out.

    The counts are those of the whole decision, of which the first few of each are kept.
    """

    model_key: str
    candidates: tuple[StoredCandidate, ...]
    eliminated: tuple[StoredRejected, ...]
    candidate_count: int
    eliminated_count: int


class StoredRefusal(msgspec.Struct, frozen=True):
    """`core.request.Refusal` with its kind as text."""

    kind: str
    message: str
    retry_after_s: int


class StoredTrace(msgspec.Struct, frozen=True):
    """A trace as the database knows it. Durations are ms, None where nothing told them.

    `model` is what one filters by: the served model, else the one asked for. `ttft_ms` is -1 when
    no byte was sent. `prompt_tokens` is the engine's count, the estimate was made before routing.
    What was predicted is of the attempt that answered, counted from the request's arrival; of what
    is not streamed the first byte is predicted to come with the whole answer.

    `decision` is that of the last attempt, `earlier` are those of the others.
    """

    id: int
    request_id: str
    started_s: float
    client: str
    key_name: str
    path: str
    model: str
    node_id: str
    status: int
    error: str
    tags: tuple[str, ...]
    reason: str
    queue_ms: float
    ttft_ms: float
    total_ms: float
    prefill_ms: float | None
    decode_ms: float | None
    load_ms: float | None
    predicted_ttft_ms: float | None
    predicted_total_ms: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    attempt_count: int
    dialect: str
    kind: str
    model_asked: str
    model_served: str
    stream: bool
    prompt_tokens_estimate: int
    max_tokens: int | None
    load_options: tuple[tuple[str, int | bool], ...]
    priority: int
    fallback_models: tuple[str, ...]
    is_load_only: bool
    done_reason: str
    decision: StoredDecision | None
    attempts: tuple[Attempt, ...]
    refusal: StoredRefusal | None
    earlier: tuple[StoredDecision, ...] = ()
    hedged: bool = False  # as in `core.trace.Trace`; False for what older versions wrote
    continued: bool = False

    @property
    def cursor(self) -> str:
        """Give it to `recent(before=...)` for the traces that are older than this one."""
        return f"{self.started_s!r}:{self.id}"


def reason_of(decision: StoredDecision | None, refusal: StoredRefusal | None) -> str:
    """Why a request went where it went, or nowhere, in one line; the words of `X-Herd-Reason`."""
    if refusal is not None:
        # Of an unknown model the message is the name alone: each dialect has its own words for it.
        is_name = refusal.kind == RefusalKind.UNKNOWN_MODEL
        return f"unknown model {refusal.message}" if is_name else refusal.message
    if decision is None or not decision.candidates:
        return ""
    cost = decision.candidates[0].cost
    state = "loaded" if cost.loaded_state_ms <= 0 else "cold"
    return f"{state}; expected {cost.total_ms:.0f} ms; candidates {decision.candidate_count}"


def position_of(cursor: str) -> tuple[float, int]:
    """Start time and row of a trace's `cursor`. Raises ValueError for any other text."""
    started, colon, row = cursor.partition(":")
    try:
        if colon:
            found = float(started), int(row)
            if 0 <= found[1] < _ROWS_END:
                return found
    except ValueError:
        pass
    raise ValueError(f"{cursor!r} is no cursor: use the one that came with the last page.")
