"""Traces as rows. Runs for every request; see `bench/bench_store.py`.

A row is made where the request ends, while its values are in the processor's cache: traces that
waited for the writer thread as they are would be hundreds of objects a request, cold by then.
`record.py` reads what is written here.
Of a decision is kept what explains it; addresses and relay keys of nodes are not.
"""

import math
from struct import Struct
from typing import Any

import msgspec

from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.routing import Cost, RouteDecision
from ollama_herd.core.trace import Trace
from ollama_herd.store.labels import LABEL_CHARS, LabelNumbers, stored_text
from ollama_herd.store.schema import traces

KEPT_CANDIDATES = 16
"""Candidates (and as many eliminated replicas) kept of a decision, cheapest first: on a fleet of
fifty nodes the rest would make up nine tenths of the database. Their number is kept."""

KEPT_PLACES = 5000
"""What requests have in common is remembered for so many; some 2 MB, and clients may vary it."""

LARGEST_JSON_BYTES = 32 * 1024
"""A record beyond this has its texts and lists cut: someone is playing tricks, one with
KEPT_CANDIDATES has 3 KB."""

MADE_UP_CHARS = LABEL_CHARS + 1
"""Of a name that no node has: it waits for the writer, and one more tells that it was cut."""

ROW_COLUMNS = tuple(column.name for column in traces.columns if column.name != "id")

_LARGEST_INT = 2**63 - 1
_LARGEST_MS = 1e30

_pack_terms = Struct(f"<{len(Cost.__struct_fields__)}f").pack
"""Seven digits of each term in four bytes: a third of the time and half the size of JSON floats,
which were the largest part of a trace's cost."""

_encode = msgspec.json.Encoder().encode
_astuple = msgspec.structs.astuple


Place = tuple[str, str, str, str, str, int, str, tuple[str, ...], str]
"""Client, key, path, model, node, status, error, tags and reason: what most requests share."""

Row = tuple[tuple[str, float], Place, tuple[Any, ...], bool]
"""The values of ROW_COLUMNS in three parts with texts where labels have their numbers, and whether
the client left during the last attempt. Plain tuples are made in no time."""


def row_of(trace: Trace) -> Row:
    """The row of a trace."""
    request, attempts, usage = trace.request, trace.attempts, trace.usage
    prompt_tokens, output_tokens, load_ms, prefill_ms, decode_ms, done_reason = (
        (None, None, None, None, None, "") if usage is None else _astuple(usage)
    )
    decision, started_ms = trace.decision, attempts[-1].started_ms if attempts else -1.0
    if trace.earlier:
        decision, started_ms = _first_to_answer(trace)
    predicted_ttft_ms = predicted_total_ms = None
    if decision is not None and decision.answer_ms >= 0 and started_ms >= 0:
        predicted_total_ms = started_ms + decision.answer_ms
        # What is not streamed begins when it is whole.
        predicted_ttft_ms = (
            started_ms + decision.first_token_ms if request.stream else predicted_total_ms
        )
    place = (
        request.client,
        trace.key_name,
        request.path,
        trace.model_served or request.model_key[:MADE_UP_CHARS],
        trace.node_id,
        trace.status,
        trace.error,
        trace.tags,
        "",  # the reason of the route is told by its decision, see `queries.py`
    )
    rest = (
        trace.queue_ms,
        trace.ttft_ms,
        trace.total_ms,
        prefill_ms,
        decode_ms,
        load_ms,
        predicted_ttft_ms,
        predicted_total_ms,
        prompt_tokens,
        output_tokens,
        len(attempts),
        _json(_record(trace, done_reason)),
    )
    was_cancelled = bool(attempts) and attempts[-1].outcome is OutcomeKind.CANCELLED
    return (request.request_id, trace.started_s), place, rest, was_cancelled


def _record(trace: Trace, done_reason: str) -> tuple[Any, ...]:
    """As `record.Record` has it; what is at its end and at its default is left out."""
    request = trace.request
    record: tuple[Any, ...] = (
        request.dialect,
        request.kind,
        request.model,
        trace.model_served != "",
        request.stream,
        request.prompt_tokens,
        request.max_tokens,
        request.load_options,
        request.priority,
        request.fallback_models,
        request.is_load_only,
        done_reason,
        None if trace.decision is None else _kept(trace.decision),
        [_astuple(attempt) for attempt in trace.attempts],
        None if trace.refusal is None else _astuple(trace.refusal),
    )
    if trace.earlier or trace.hedged or trace.continued:
        record += ([_kept(earlier) for earlier in trace.earlier], trace.hedged, trace.continued)
    return record


class PlaceNumbers(dict[Place, tuple[Any, ...]]):
    """The values of a place's columns: seven look-ups as one for what was seen before.

    Unknown labels are stored, which may raise SQLAlchemyError.
    """

    def __init__(self, numbers: LabelNumbers) -> None:
        super().__init__()
        self._numbers = numbers

    def __missing__(self, place: Place) -> tuple[Any, ...]:
        client, key, path, model, node, status, error, tags, reason = place
        texts = (client, key, path, model, node)
        numbers = self._numbers
        values = (*map(numbers.__getitem__, texts), status, numbers[error], numbers[tags], reason)
        self[place] = values
        return values

    def bound(self) -> None:
        """Forget everything when there is too much of it; called between batches."""
        if len(self) > KEPT_PLACES:
            self.clear()


def _first_to_answer(trace: Trace) -> tuple[RouteDecision | None, float]:
    """Of several attempts the decision and the start (ms) of the one whose first byte the client
    got, of the last one when there was none: a prediction is about one attempt.
    """
    attempts = trace.attempts
    if not attempts:
        return None, -1.0
    answering = next((attempt for attempt in attempts if attempt.first_byte_ms >= 0), attempts[-1])
    place = (answering.node_id, answering.engine_id)
    for decision in (trace.decision, *trace.earlier):
        winner = None if decision is None else decision.winner
        if winner is not None and (winner.replica.node_id, winner.replica.engine_id) == place:
            return decision, answering.started_ms
    return None, -1.0


def _kept(decision: RouteDecision) -> tuple[Any, ...]:
    model_key = decision.model_key
    candidates = []
    for candidate in decision.candidates[:KEPT_CANDIDATES]:
        replica = candidate.replica
        terms = _astuple(candidate.cost)
        try:
            packed = _pack_terms(*terms)
        except OverflowError:
            packed = _pack_terms(*(max(-_LARGEST_MS, min(term, _LARGEST_MS)) for term in terms))
        candidates.append(
            (
                replica.node_id,
                replica.engine_id,
                "" if replica.model.name == model_key else replica.model.name,
                replica.loaded is not None,
                candidate.starts_now,
                packed,
            )
        )
    return (
        model_key,
        candidates,
        [_astuple(rejected) for rejected in decision.eliminated[:KEPT_CANDIDATES]],
        len(decision.candidates),
        len(decision.eliminated),
    )


def _json(value: Any) -> str:
    try:
        encoded = _encode(value)
    except (UnicodeEncodeError, OverflowError):
        encoded = _encode(_cut(value))
    if len(encoded) > LARGEST_JSON_BYTES:
        encoded = _encode(_cut(value))
    return encoded.decode()


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return stored_text(value)
    if isinstance(value, (list, tuple)):
        return [_cut(item) for item in value[:KEPT_CANDIDATES]]
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        return _LARGEST_INT
    return value


def cleaned(row: tuple[Any, ...]) -> list[Any]:
    """The row with what a database refuses replaced; for a batch that was refused."""
    return [_clean(value) for value in row]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) <= LABEL_CHARS:
            return stored_text(value)
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int):
        return max(-_LARGEST_INT, min(value, _LARGEST_INT))
    if isinstance(value, float) and not math.isfinite(value):
        return -1.0
    return value
