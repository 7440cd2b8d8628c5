"""What became of requests in some time, added up: the parts of `tally.Tally`."""

from bisect import bisect_left

from ollama_herd.core.request import Attempt, OutcomeKind, RefusalKind, Usage
from ollama_herd.core.routing import Candidate, RouteDecision
from ollama_herd.core.trace import Trace

LOAD_MS = 500.0
"""Ollama reports some 10 to 100 ms of loading for a model that is loaded; more is a real load."""

SLOW_LOAD_MS = 10_000.0
SLOW_LOAD_BYTES_S = 200e6
"""A load is slow when it takes longer than SLOW_LOAD_MS and reads less than this: an old hard
disk's rate."""

PROMPT_CUT_SHARE = 1.25
"""The estimate (four characters a token) is seldom a quarter too high; a prompt estimated so much
longer than what the engine evaluated as its full context was cut."""

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
WAIT_BUCKETS_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOTAL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ERROR_BUCKETS = (0.25, 0.33, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
"""Actual by predicted time: 1 is a perfect prediction."""

_BROKEN = frozenset(
    {OutcomeKind.SILENT, OutcomeKind.TRUNCATED, OutcomeKind.ENGINE_ERROR, OutcomeKind.CLOSED_EARLY}
)


class Histogram:
    """Values by upper bound; the last slot is for what is above all bounds."""

    __slots__ = ("bounds", "slots", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.slots = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        return sum(self.slots)

    def add(self, value: float) -> None:
        self.slots[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: "Histogram") -> None:
        """Add another histogram with the same bounds."""
        self.slots = [a + b for a, b in zip(self.slots, other.slots, strict=True)]
        self.total += other.total


class Counts:
    """What became of the requests of one key in some time."""

    __slots__ = (
        "attempts",
        "broken",
        "cancelled",
        "client_errors",
        "completed",
        "context_cut",
        "continued",
        "decode_s",
        "error",
        "failed",
        "hedged",
        "largest_tokens",
        "load_s",
        "loads",
        "output_tokens",
        "prompt_cut",
        "prompt_tokens",
        "queue_s",
        "refused",
        "requests",
        "retried",
        "slow_loads",
        "slowest_load_s",
        "total_s",
        "ttft_s",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.completed = 0
        self.client_errors = 0
        self.cancelled = 0
        self.failed = 0  # 5xx, or an answer that stayed broken
        self.broken = 0  # answers that broke off after they had begun, continued or not
        self.retried = 0
        self.hedged = 0
        self.continued = 0
        self.loads = 0
        self.load_s = 0.0
        self.slow_loads = 0
        self.slowest_load_s = 0.0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.prompt_cut = 0
        self.context_cut = 0
        self.largest_tokens = 0
        self.attempts: dict[OutcomeKind, int] = {}
        self.refused: dict[RefusalKind, int] = {}
        self.ttft_s = Histogram(TTFT_BUCKETS_S)
        self.decode_s = Histogram(TOKEN_BUCKETS_S)
        self.queue_s = Histogram(WAIT_BUCKETS_S)
        self.total_s = Histogram(TOTAL_BUCKETS_S)
        self.error = Histogram(ERROR_BUCKETS)

    def merge(self, other: "Counts") -> None:
        """Add what another one counted. Spelt out: thousands are added at every look."""
        self.requests += other.requests
        self.completed += other.completed
        self.client_errors += other.client_errors
        self.cancelled += other.cancelled
        self.failed += other.failed
        self.broken += other.broken
        self.retried += other.retried
        self.hedged += other.hedged
        self.continued += other.continued
        self.loads += other.loads
        self.load_s += other.load_s
        self.slow_loads += other.slow_loads
        self.prompt_tokens += other.prompt_tokens
        self.output_tokens += other.output_tokens
        self.prompt_cut += other.prompt_cut
        self.context_cut += other.context_cut
        self.largest_tokens = max(self.largest_tokens, other.largest_tokens)
        self.slowest_load_s = max(self.slowest_load_s, other.slowest_load_s)
        for outcome, count in other.attempts.items():
            self.attempts[outcome] = self.attempts.get(outcome, 0) + count
        for kind, count in other.refused.items():
            self.refused[kind] = self.refused.get(kind, 0) + count
        if other.requests:
            self.ttft_s.merge(other.ttft_s)
            self.decode_s.merge(other.decode_s)
            self.queue_s.merge(other.queue_s)
            self.total_s.merge(other.total_s)
            self.error.merge(other.error)

    def add(self, trace: Trace) -> None:
        """Count a request that has ended. Its attempts on other keys are not for here."""
        self.requests += 1
        status = trace.status
        if trace.error == "client_left" or status == 499:
            self.cancelled += 1
        elif status >= 500 or (trace.error and status < 400):
            self.failed += 1
        elif status >= 400:
            self.client_errors += 1
        else:
            self.completed += 1
        if trace.refusal is not None:
            kind = trace.refusal.kind
            self.refused[kind] = self.refused.get(kind, 0) + 1
        # Histograms are spelt out here: four calls would be a third of what counting costs.
        seconds, histogram = trace.queue_ms / 1e3, self.queue_s
        histogram.slots[bisect_left(WAIT_BUCKETS_S, seconds)] += 1
        histogram.total += seconds
        seconds, histogram = trace.total_ms / 1e3, self.total_s
        histogram.slots[bisect_left(TOTAL_BUCKETS_S, seconds)] += 1
        histogram.total += seconds
        if trace.ttft_ms >= 0:
            seconds, histogram = trace.ttft_ms / 1e3, self.ttft_s
            histogram.slots[bisect_left(TTFT_BUCKETS_S, seconds)] += 1
            histogram.total += seconds
        attempts = trace.attempts
        decision = trace.decision
        winner = None if decision is None else decision.winner
        if trace.usage is not None:
            self._add_usage(trace, trace.usage, winner)
        if len(attempts) > 1:
            self.retried += 1
            self.hedged += trace.hedged
            self.continued += trace.continued
        elif attempts and decision is not None:
            self._add_error(trace, decision, attempts[0])

    def _add_usage(self, trace: Trace, usage: Usage, winner: Candidate | None) -> None:
        prompt, output = usage.prompt_tokens or 0, usage.output_tokens or 0
        self.prompt_tokens += prompt
        self.output_tokens += output
        self.largest_tokens = max(self.largest_tokens, prompt + output)
        if usage.decode_ms is not None and output > 1:
            self.decode_s.add(usage.decode_ms / 1e3 / output)
        load_ms = usage.load_ms or 0.0
        if load_ms >= LOAD_MS:
            self._add_load(load_ms, winner)
        loaded = None if winner is None else winner.replica.loaded
        context = 0 if loaded is None else loaded.context_length
        if context and prompt:
            estimate = trace.request.prompt_tokens
            self.prompt_cut += prompt <= context and estimate > PROMPT_CUT_SHARE * context
            is_cut = usage.done_reason == "length" and prompt + output >= context - 1
            self.context_cut += is_cut

    def _add_load(self, load_ms: float, winner: Candidate | None) -> None:
        self.loads += 1
        self.load_s += load_ms / 1e3
        self.slowest_load_s = max(self.slowest_load_s, load_ms / 1e3)
        size = winner.replica.model.size_bytes if winner is not None else 0
        if load_ms > SLOW_LOAD_MS and size and size / (load_ms / 1e3) < SLOW_LOAD_BYTES_S:
            self.slow_loads += 1

    def _add_error(self, trace: Trace, decision: RouteDecision, attempt: Attempt) -> None:
        """The first token's time where it can be seen: it does not hang on the answer's length."""
        if attempt.outcome is not OutcomeKind.COMPLETED:
            return
        is_stream = trace.request.stream
        predicted_ms = decision.first_token_ms if is_stream else decision.answer_ms
        ended_ms = attempt.first_byte_ms if is_stream else attempt.ended_ms
        if predicted_ms > 0 and ended_ms >= attempt.started_ms:
            self.error.add((ended_ms - attempt.started_ms) / predicted_ms)

    def add_attempt(self, attempt: Attempt) -> None:
        """Count a try on this key's node."""
        outcome = attempt.outcome
        self.attempts[outcome] = self.attempts.get(outcome, 0) + 1
        if attempt.first_byte_ms >= 0 and outcome in _BROKEN:
            self.broken += 1
