"""What the database knows of a request: the values that queries answer with. Pure.

JSON columns are arrays by position, which is a third of the size of objects; new fields are only
ever appended (a test holds the order), so that rows of older versions stay readable.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ollama_herd.core.request import Attempt, OutcomeKind
from ollama_herd.core.routing import Cost
from ollama_herd.store.labels import tags_of

_Kept = TypeVar("_Kept")


class StoredCandidate(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a candidate; `terms` are the values of `Cost` in its order."""

    node_id: str
    engine_id: str
    model: str
    is_loaded: bool
    starts_now: bool
    terms: tuple[float | None, ...]

    @property
    def cost(self) -> Cost:
        """Terms that this version does not know are left out of it, but not of `total_ms`."""
        known = len(Cost.__struct_fields__)
        return Cost(*(term if term is not None else 0.0 for term in self.terms[:known]))


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


class StoredDetail(msgspec.Struct, frozen=True, array_like=True):
    """What nobody filters on: the rest of the request, and the refusal if there was one."""

    stream: bool
    prompt_tokens_estimate: int
    max_tokens: int | None
    load_options: tuple[tuple[str, int | bool], ...]
    priority: int
    fallback_models: tuple[str, ...]
    is_load_only: bool
    done_reason: str
    refusal: StoredRefusal | None


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


class StoredTrace(msgspec.Struct, frozen=True):
    """A trace as the database knows it. Durations are ms, None where nothing told them.

    `model` is what one filters by: the served model, else the one asked for. `ttft_ms` is -1 when
    no byte was sent. `decision` and `detail` are None when there was none, or when a program of
    another version wrote what cannot be read here.
    """

    id: int
    request_id: str
    started_s: float
    client: str
    key_name: str
    dialect: str
    path: str
    kind: str
    model_asked: str
    model: str
    model_served: str
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
    detail: StoredDetail | None
    decision: StoredDecision | None
    attempts: tuple[Attempt, ...]

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


def trace_of(row: Mapping[str, Any], texts: Mapping[int, str]) -> StoredTrace:
    """The trace of a row of `schema.traces`, its labels spelt out."""

    def text(column: str) -> str:
        return texts.get(row[column], "")

    return StoredTrace(
        id=row["id"],
        request_id=row["request_id"],
        started_s=row["started_at"],
        client=text("client_label"),
        key_name=text("key_label"),
        dialect=text("dialect_label"),
        path=text("path_label"),
        kind=text("kind_label"),
        model_asked=text("asked_label"),
        model=text("model_label"),
        model_served=text("served_label"),
        node_id=text("node_label"),
        error=text("error_label"),
        tags=tags_of(text("tags_label")),
        detail=_kept(row["detail"], StoredDetail),
        decision=_kept(row["decision"], StoredDecision),
        attempts=_attempts(row["attempts"]),
        **{column: row[column] for column in _PLAIN},
    )


_PLAIN = (
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


def _attempts(encoded: str) -> tuple[Attempt, ...]:
    kept = _kept(encoded, tuple[_StoredAttempt, ...]) or ()
    return tuple(Attempt(*msgspec.structs.astuple(attempt)) for attempt in kept)


def _kept(encoded: str | None, kind: type[_Kept]) -> _Kept | None:
    if encoded is None:
        return None
    try:
        return msgspec.json.decode(encoded, type=kind)
    except msgspec.DecodeError:  # a newer or foreign program wrote it: the columns still stand
        return None
