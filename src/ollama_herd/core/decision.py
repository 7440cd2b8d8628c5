"""A routing decision as a value: who could take a request, at what cost, and who could not.

Values made for every request say `gc=False`: they cannot form cycles, and thousands of them wait
for the trace store, where the garbage collector would go through them again and again.
"""

import enum

import msgspec

from ollama_herd.core.node import Replica


class Eliminated(enum.StrEnum):
    """Why a replica cannot take a request; also a metric label. Comments are shown to people."""

    OFFLINE = "offline"  # its node is silent or said goodbye
    DRAINING = "draining"  # its node takes no new requests
    QUIET_HOURS = "quiet_hours"  # by its own settings it takes no requests at this time of the week
    ENGINE_ERROR = "engine_error"  # its agent cannot use the engine now
    DOES_NOT_FIT = "does_not_fit"  # the model is larger than the machine's whole memory
    MISSING_CAPABILITY = "missing_capability"  # the model there does something else than was asked
    DIGEST_CONFLICT = "digest_conflict"  # another model under the same name
    CLOUD_MODEL = "cloud_model"  # its engine would send the prompt out of the network
    ALREADY_TRIED = "already_tried"  # an attempt of this request failed there
    UNREACHABLE = "unreachable"  # a connection failed since the node's last report
    FAILING = "failing"  # failed in a row what others answered


class Cost(msgspec.Struct, frozen=True, gc=False):
    """Expected cost of one candidate in ms, by signal; `total_ms` is their sum.

    The seven signals of the product and the eighth, in the order people read them. The comments are
    shown as they stand: in the docs, and in the dashboard as what each term means.
    """

    total_ms: float
    loaded_state_ms: float = 0.0  # the model is not in memory there: its load
    memory_fit_ms: float = 0.0  # other models would have to leave
    queue_depth_ms: float = 0.0  # work that is ahead of the request
    latency_history_ms: float = 0.0  # prompt and answer at the learned rates
    role_affinity_ms: float = 0.0  # delay for others, a scarce machine kept free
    availability_trend_ms: float = 0.0  # slower or faster than learned, or its user may be back
    context_fit_ms: float = 0.0  # a reload for another context length
    prefix_affinity_ms: float = 0.0  # prompt already cached there (less), or a cache lost


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A replica that could take the request. `starts_now` is False when it would have to wait.

    `num_ctx` is what it has to ask for there so as to use the window that is loaded, 0 nothing.
    """

    replica: Replica
    cost: Cost
    starts_now: bool
    num_ctx: int = 0


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A replica that could not, and why."""

    node_id: str
    engine_id: str
    reason: Eliminated
    detail: str = ""


class RouteDecision(msgspec.Struct, frozen=True, gc=False):
    """Candidates by rising cost, and everything that was left out with its reason.

    Log, trace, header and dashboard render this value. `more` counts candidates that were not
    priced in full, because a rough estimate put 64 others before them. `first_token_ms` and
    `answer_ms` are what the winner's first token and whole answer are predicted to take from the
    decision on; -1 without a winner. `evicts` are to be unloaded before the request is sent, ()
    where the engine is to choose or nothing has to go.
    """

    model_key: str
    candidates: tuple[Candidate, ...]
    eliminated: tuple[Rejected, ...] = ()
    more: int = 0
    first_token_ms: float = -1.0
    answer_ms: float = -1.0
    evicts: tuple[Replica, ...] = ()

    @property
    def winner(self) -> Candidate | None:
        """The cheapest candidate, None when there is none."""
        return self.candidates[0] if self.candidates else None
