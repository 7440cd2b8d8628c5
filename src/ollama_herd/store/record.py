"""The JSON column of a trace: all that nobody filters on. Pure; written by `rows.py`.

Arrays by position are a third of the size of objects. New fields are only ever appended (a test
holds the order), so that rows of older versions stay readable.
"""

from struct import unpack

import msgspec

from ollama_herd.core.request import Attempt, OutcomeKind
from ollama_herd.core.routing import Cost
from ollama_herd.store.stored import (
    StoredCandidate,
    StoredDecision,
    StoredRefusal,
    StoredRejected,
)


class KeptCandidate(msgspec.Struct, frozen=True, array_like=True):
    """`model` is "" where it is the decision's own name. `terms` are those of `Cost` in its order,
    each four bytes (IEEE 754, little-endian).
    """

    node_id: str
    engine_id: str
    model: str
    is_loaded: bool
    starts_now: bool
    terms: bytes

    def spelt_out(self, model_key: str) -> StoredCandidate:
        """Raises ValueError for terms that are no numbers."""
        if len(self.terms) % 4 or not self.terms:
            raise ValueError("terms are cut off")
        terms = unpack(f"<{len(self.terms) // 4}f", self.terms)
        return StoredCandidate(
            node_id=self.node_id,
            engine_id=self.engine_id,
            model=self.model or model_key,
            is_loaded=self.is_loaded,
            starts_now=self.starts_now,
            cost=Cost(*terms[: len(Cost.__struct_fields__)]),
        )


class KeptRejected(msgspec.Struct, frozen=True, array_like=True):
    """See StoredRejected."""

    node_id: str
    engine_id: str
    reason: str
    detail: str = ""


class KeptDecision(msgspec.Struct, frozen=True, array_like=True):
    """See StoredDecision."""

    model_key: str
    candidates: tuple[KeptCandidate, ...]
    eliminated: tuple[KeptRejected, ...]
    candidate_count: int
    eliminated_count: int

    def spelt_out(self) -> StoredDecision:
        """Raises ValueError."""
        return StoredDecision(
            model_key=self.model_key,
            candidates=tuple(candidate.spelt_out(self.model_key) for candidate in self.candidates),
            eliminated=tuple(
                StoredRejected(*msgspec.structs.astuple(rejected)) for rejected in self.eliminated
            ),
            candidate_count=self.candidate_count,
            eliminated_count=self.eliminated_count,
        )


class KeptAttempt(msgspec.Struct, frozen=True, array_like=True):
    """See `core.request.Attempt`."""

    node_id: str
    engine_id: str
    model: str
    outcome: OutcomeKind
    status: int
    started_ms: float
    first_byte_ms: float
    ended_ms: float
    detail: str


class KeptRefusal(msgspec.Struct, frozen=True, array_like=True):
    """See `core.request.Refusal`."""

    kind: str
    message: str
    retry_after_s: int


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One JSON column."""

    dialect: str = ""
    kind: str = ""
    model_asked: str = ""
    was_served: bool = False
    stream: bool = False
    prompt_tokens_estimate: int = 0
    max_tokens: int | None = None
    load_options: tuple[tuple[str, int | bool], ...] = ()
    priority: int = 0
    fallback_models: tuple[str, ...] = ()
    is_load_only: bool = False
    done_reason: str = ""
    decision: KeptDecision | None = None
    attempts: tuple[KeptAttempt, ...] = ()
    refusal: KeptRefusal | None = None
    earlier: tuple[KeptDecision, ...] = ()
    hedged: bool = False
    continued: bool = False

    def decided(self) -> StoredDecision | None:
        """The decision, None also when it cannot be read."""
        return _spelt_out(self.decision)

    def decided_before(self) -> tuple[StoredDecision, ...]:
        """The decisions of earlier attempts, without those that cannot be read."""
        found = (_spelt_out(decision) for decision in self.earlier)
        return tuple(decision for decision in found if decision is not None)

    def tried(self) -> tuple[Attempt, ...]:
        return tuple(Attempt(*msgspec.structs.astuple(attempt)) for attempt in self.attempts)

    def refused(self) -> StoredRefusal | None:
        if self.refusal is None:
            return None
        return StoredRefusal(*msgspec.structs.astuple(self.refusal))


def _spelt_out(decision: KeptDecision | None) -> StoredDecision | None:
    try:
        return None if decision is None else decision.spelt_out()
    except ValueError:
        return None


_decoder = msgspec.json.Decoder(Record)

_UNREADABLE = Record()
"""Instead of what a program of another version wrote: the columns still stand."""


def read_record(encoded: str) -> Record:
    """Never fails."""
    try:
        return _decoder.decode(encoded)
    except msgspec.DecodeError:
        return _UNREADABLE
