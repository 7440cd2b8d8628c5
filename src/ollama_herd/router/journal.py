"""What one request leaves behind while it is served; becomes its Trace."""

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.request import (
    Attempt,
    InferenceRequest,
    OutcomeKind,
    Refusal,
    Usage,
)
from ollama_herd.core.routing import Candidate, RouteDecision
from ollama_herd.core.trace import Trace
from ollama_herd.router.dispatcher import Refused

CLIENT_LEFT = 499
"""Status of a request whose client left before it got one, as nginx and Ollama log it."""


class Journal(msgspec.Struct, eq=False):
    """Written by the request path only. Times are ms since the request had arrived whole."""

    request_id: str
    arrived_s: float
    request: InferenceRequest | None = None  # until its body has been read
    decision: RouteDecision | None = None  # of the attempt under way, else the last one
    earlier: tuple[RouteDecision, ...] = ()  # of the other attempts
    attempts: tuple[Attempt, ...] = ()
    queue_ms: float = 0.0
    ttft_ms: float = -1.0  # of the answer
    first_byte_ms: float = -1.0  # of the attempt under way
    status: int = CLIENT_LEFT
    error: str = ""
    usage: Usage | None = None
    refusal: Refusal | None = None
    tags: tuple[str, ...] = ()
    hedged: bool = False
    continued: bool = False
    trace_parent: str = ""  # of the client's own span
    key_name: str = ""  # of the client's API key
    attempt_ms: float = 0.0  # when the attempt under way began
    _candidate: Candidate | None = None

    def since_ms(self) -> float:
        return (monotonic_s() - self.arrived_s) * 1000.0

    def begin(self, decision: RouteDecision, candidate: Candidate) -> None:
        """An attempt starts on the decision's winner."""
        if self.decision is not None:
            self.earlier = (*self.earlier, self.decision)
        self.decision = decision
        self._candidate = candidate
        self.attempt_ms = (monotonic_s() - self.arrived_s) * 1000.0
        self.first_byte_ms = -1.0
        if not self.attempts:
            self.queue_ms = self.attempt_ms

    def go_on_with(self, decision: RouteDecision, candidate: Candidate, started_ms: float) -> None:
        """Of two attempts at once this one is left: it is the one under way from now on."""
        before = self.decision
        if before is not None and before is not decision:
            self.earlier = (*(d for d in self.earlier if d is not decision), before)
        self.decision = decision
        self._candidate = candidate
        self.attempt_ms = started_ms

    def begin_beside(self, decision: RouteDecision) -> None:
        """A second attempt starts beside the one under way."""
        self.hedged = True
        self.earlier = (*self.earlier, decision)

    def refused(self, refuse: Refused) -> None:
        """No attempt is made: which places there were, and why others cannot take the request."""
        self.refusal = refuse.refusal
        known = refuse.candidates or refuse.rejected
        if self.decision is None and self.request is not None and known:
            key = self.request.model_key
            self.decision = RouteDecision(key, refuse.candidates, refuse.rejected)

    def first_byte(self) -> None:
        """The attempt under way brought its first byte."""
        self.first_byte_ms = first_byte_ms = (monotonic_s() - self.arrived_s) * 1000.0
        if self.ttft_ms < 0:
            self.ttft_ms = first_byte_ms

    def no_byte(self) -> None:
        """What it brought did not reach the client: the answer is still to begin."""
        self.ttft_ms = self.first_byte_ms = -1.0

    def end(self, outcome: OutcomeKind, *, status: int = 0, detail: str = "") -> None:
        """The attempt under way has ended; without one this does nothing."""
        candidate = self._candidate
        if candidate is None:
            return
        self._candidate = None
        self.note(candidate, outcome, self.attempt_ms, status=status, detail=detail)

    def note(
        self,
        candidate: Candidate,
        outcome: OutcomeKind,
        started_ms: float,
        *,
        status: int = 0,
        detail: str = "",
    ) -> None:
        """An attempt has ended: the one under way, or one that was made beside it."""
        replica = candidate.replica
        attempt = Attempt(
            replica.node_id,
            replica.engine_id,
            replica.model.name,
            outcome,
            status,
            started_ms,
            self.first_byte_ms if self._candidate is None else -1.0,
            (monotonic_s() - self.arrived_s) * 1000.0,  # its end
            detail,
        )
        self.attempts = (*self.attempts, attempt) if self.attempts else (attempt,)

    @property
    def node_id(self) -> str:
        """The node of the attempt under way, else of the last one."""
        if self._candidate is not None:
            return self._candidate.replica.node_id
        return self.attempts[-1].node_id if self.attempts else ""

    def reason(self) -> bytes:
        """Why this node, in one line for `X-Herd-Reason`."""
        candidate = self._candidate
        if candidate is None or self.decision is None:
            return b"every attempt failed: " + b", ".join(
                attempt.outcome.value.encode() for attempt in self.attempts
            )
        cost = candidate.cost
        state = b"loaded" if cost.loaded_state_ms <= 0 else b"cold"
        return b"%s; expected %d ms; candidates %d" % (
            state,
            cost.total_ms,
            len(self.decision.candidates),
        )

    @property
    def model(self) -> str:
        """As asked; "" when the body could not be read."""
        return self.request.model if self.request is not None else ""

    def trace(self, endpoint: Endpoint, client: str) -> Trace:
        """The row for the store. `endpoint` and `client` tell of a request that was not read.

        Values by position: by name they would take three times as long, for every request.
        """
        total_ms = (monotonic_s() - self.arrived_s) * 1000.0
        request = self.request or InferenceRequest(
            request_id=self.request_id,
            model="",
            model_key="",
            kind=endpoint.kind,
            dialect=endpoint.dialect,
            path=endpoint.path,
            arrived_s=self.arrived_s,
            client=client,
        )
        last = self.attempts[-1] if self.attempts else None
        return Trace(
            request,
            now_s() - total_ms / 1000.0,
            total_ms,
            self.queue_ms,
            self.ttft_ms,
            self.status,
            self.error,
            self.decision,
            self.attempts,
            self.usage,
            self.refusal,
            last.model if last is not None else "",
            last.node_id if last is not None else "",
            self.tags,
            self.key_name,
            self.earlier,
            self.trace_parent,
            self.hedged,
            self.continued,
        )
