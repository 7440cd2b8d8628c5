"""What the database knows of a request: the values that queries answer with. Pure.

A record is JSON arrays by position, which is a third of the size of objects; new fields are only
ever appended (a test holds the order), so that rows of older versions stay readable.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from ollama_herd.core.request import Attempt, OutcomeKind
from ollama_herd.core.routing import Cost
from ollama_herd.store.labels import tags_of


class StoredCandidate(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a candidate; `terms` are those of `Cost` in its order, in whole ms."""

    node_id: str
    engine_id: str
    model: str
    is_loaded: bool
    starts_now: bool
    terms: tuple[int, ...]

    @property
    def cost(self) -> Cost:
        """Terms that this version does not know are left out of it, but not of `total_ms`."""
        known = len(Cost.__struct_fields__)
        return Cost(*map(float, self.terms[:known]))


class StoredRejected(msgspec.Struct, frozen=True, array_like=True):
    """`core.routing.Rejected` with its reason as text, so that a retired reason stays readable."""

    node_id: str
    engine_id: str
    reason: str
    detail: str = ""


class StoredDecision(msgspec.Struct, frozen=True, array_like=True):
    """Why a request went where it went: candidates by rising cost, and who was left out.

    The counts are those of the whole decision, of which the first few of each are kept.
    """

    model_key: str
    candidates: tuple[StoredCandidate, ...]
    eliminated: tuple[StoredRejected, ...]
    candidate_count: int
    eliminated_count: int


class StoredRefusal(msgspec.Struct, frozen=True, array_like=True):
    """`core.request.Refusal` with its kind as text."""

    kind: str
    message: str
    retry_after_s: int


class _StoredAttempt(msgspec.Struct, frozen=True, array_like=True):
    node_id: str
    engine_id: str
    model: str
    outcome: OutcomeKind
    status: int
    started_ms: float
    first_byte_ms: float
    ended_ms: float
    detail: str


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """The JSON column: all that nobody filters on."""

    dialect: str
    kind: str
    model_asked: str
    was_served: bool
    stream: bool
    prompt_tokens_estimate: int
    max_tokens: int | None
    load_options: tuple[tuple[str, int | bool], ...]
    priority: int
    fallback_models: tuple[str, ...]
    is_load_only: bool
    done_reason: str
    decision: StoredDecision | None
    attempts: tuple[_StoredAttempt, ...]
    refusal: StoredRefusal | None


_UNREADABLE = _Record(
    dialect="",
    kind="",
    model_asked="",
    was_served=False,
    stream=False,
    prompt_tokens_estimate=0,
    max_tokens=None,
    load_options=(),
    priority=0,
    fallback_models=(),
    is_load_only=False,
    done_reason="",
    decision=None,
    attempts=(),
    refusal=None,
)
"""Instead of a record that a program of another version wrote: the columns still stand."""


class StoredTrace(msgspec.Struct, frozen=True):
    """A trace as the database knows it. Durations are ms, None where nothing told them.

    `model` is what one filters by: the served model, else the one asked for. `ttft_ms` is -1 when
    no byte was sent. `prompt_tokens` is the engine's count, the estimate was made before routing.
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

    @property
    def cursor(self) -> str:
        """Give it to `recent(before=...)` for the traces that are older than this one."""
        return f"{self.started_s!r}:{self.id}"


def position_of(cursor: str) -> tuple[float, int]:
    """Start time and row of a trace's `cursor`. Raises ValueError for any other text."""
    started, colon, row = cursor.partition(":")
    try:
        if colon:
            return float(started), int(row)
    except ValueError:
        pass
    raise ValueError(f"{cursor!r} is no cursor: use the one that came with the last page.")


_PLAIN = (
    "id",
    "request_id",
    "status",
    "reason",
    "queue_ms",
    "ttft_ms",
    "total_ms",
    "prefill_ms",
    "decode_ms",
    "load_ms",
    "predicted_ttft_ms",
    "predicted_total_ms",
    "prompt_tokens",
    "output_tokens",
    "attempt_count",
)

_AS_RECORDED = tuple(
    name for name in _Record.__struct_fields__ if name not in {"was_served", "attempts"}
)


def trace_of(row: Mapping[str, Any], texts: Mapping[int, str]) -> StoredTrace:
    """The trace of a row of `schema.traces`, its labels spelt out."""

    def text(column: str) -> str:
        return texts.get(row[column], "")

    record = _record(row["record"])
    model = text("model_label")
    return StoredTrace(
        started_s=row["started_at"],
        client=text("client_label"),
        key_name=text("key_label"),
        path=text("path_label"),
        model=model,
        model_served=model if record.was_served else "",
        node_id=text("node_label"),
        error=text("error_label"),
        tags=tags_of(text("tags_label")),
        attempts=tuple(Attempt(*msgspec.structs.astuple(kept)) for kept in record.attempts),
        **{column: row[column] for column in _PLAIN},
        **{name: getattr(record, name) for name in _AS_RECORDED},
    )


def _record(encoded: str) -> _Record:
    try:
        return msgspec.json.decode(encoded, type=_Record)
    except msgspec.DecodeError:
        return _UNREADABLE
