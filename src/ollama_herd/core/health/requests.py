"""Checks of what became of requests lately, of the queue, and of what keeps their traces."""

from collections.abc import Iterator

from ollama_herd.core.health.values import Seen, Severity, Snapshot
from ollama_herd.core.health.words import counted, listed, node_name, percent, plain, seconds
from ollama_herd.core.request import OutcomeKind, RefusalKind
from ollama_herd.core.tally import WINDOW_MINUTES

FEWEST_REQUESTS = 20
FEWEST_FAILURES = 3
"""Fewer requests or failures than this in the window say nothing about a rate."""

ERROR_SHARE = 0.05
BAD_ERROR_SHARE = 0.25
RETRY_SHARE = 0.10
BAD_RETRY_SHARE = 0.30
BROKEN_SHARE = 0.02
BAD_BROKEN_SHARE = 0.10

LONG_WAIT_S = 60.0
FULL_SHARE = 0.5
BAD_FULL_SHARE = 0.9

DRIFT_REQUESTS = 50
DRIFT_SHARE = 0.5
DRIFT_FACTOR = 3.0
"""Lengths of answers cannot be known beforehand, so single predictions are off by a factor; when
most are off by more than this, something is wrong in what was learned."""

PENDING_TRACES = 5000

_TRIED_IN_VAIN = frozenset(
    {
        OutcomeKind.ENGINE_ERROR,
        OutcomeKind.ENGINE_BUSY,
        OutcomeKind.UNREACHABLE,
        OutcomeKind.CLOSED_EARLY,
        OutcomeKind.GARBAGE,
        OutcomeKind.SILENT,
        OutcomeKind.TRUNCATED,
    }
)


def errors(snapshot: Snapshot) -> Iterator[Seen]:
    """Requests that ended without an answer."""
    for model, counts in snapshot.recent.by_model.items():
        asked = counts.requests - counts.client_errors - counts.cancelled
        severity = _rate(counts.failed, asked, ERROR_SHARE, BAD_ERROR_SHARE)
        if severity is None:
            continue
        text = (
            f"{counts.failed:,} of {asked:,} requests failed in {WINDOW_MINUTES} min "
            f"({percent(counts.failed, asked)})"
        )
        name = plain(model) or "requests that reached no engine"
        yield Seen(severity, model or "(none)", name, text, model=model)


def retries(snapshot: Snapshot) -> Iterator[Seen]:
    """Requests that needed another try."""
    total = snapshot.recent.total
    severity = _rate(total.retried, total.requests, RETRY_SHARE, BAD_RETRY_SHARE)
    if severity is None:
        return
    failed: dict[str, int] = {}
    for node_id, counts in snapshot.recent.by_node.items():
        in_vain = sum(counts.attempts.get(outcome, 0) for outcome in _TRIED_IN_VAIN)
        if in_vain:
            failed[node_id] = in_vain
    worst = sorted(failed.items(), key=lambda item: -item[1])
    names = [f"{node_name(snapshot.fleet, node)} failed {count:,} times" for node, count in worst]
    text = (
        f"{total.retried:,} of {total.requests:,} requests were tried again in "
        f"{WINDOW_MINUTES} min ({percent(total.retried, total.requests)})"
    )
    yield Seen(
        min(severity, Severity.WARNING, key=list(Severity).index),
        "all",
        "all requests",
        f"{text}; {listed(names)}" if names else text,
        node_id=worst[0][0] if worst else "",
    )


def streams(snapshot: Snapshot) -> Iterator[Seen]:
    """Answers that broke off after they had begun."""
    for node_id, counts in snapshot.recent.by_node.items():
        tries = sum(counts.attempts.values())
        severity = _rate(counts.broken, tries, BROKEN_SHARE, BAD_BROKEN_SHARE)
        if severity is not None:
            text = (
                f"{counts.broken:,} of {tries:,} answers broke off in {WINDOW_MINUTES} min "
                f"({percent(counts.broken, tries)})"
            )
            name = node_name(snapshot.fleet, node_id)
            yield Seen(severity, node_id, name, text, node_id=node_id)


def queue(snapshot: Snapshot) -> Iterator[Seen]:
    """Requests that wait long, or are turned away."""
    waiting, limit = snapshot.queue.waiting, snapshot.router.queue_limit
    total = snapshot.recent.total
    full = total.refused.get(RefusalKind.QUEUE_FULL, 0)
    late = total.refused.get(RefusalKind.QUEUE_TIMEOUT, 0)
    if full or late:
        text = (
            f"{full:,} requests turned away, {late:,} given up after waiting in "
            f"{WINDOW_MINUTES} min; {waiting:,} of {limit:,} wait"
        )
        yield Seen(Severity.CRITICAL, "queue", "queue", text)
    elif limit and waiting >= FULL_SHARE * limit:
        bad = waiting >= BAD_FULL_SHARE * limit
        severity = Severity.CRITICAL if bad else Severity.WARNING
        yield Seen(severity, "queue", "queue", f"{waiting:,} of at most {limit:,} requests wait")
    longest: dict[str, tuple[float, int]] = {}
    for request in snapshot.queue.requests:
        waited_s, count = longest.get(request.model_key, (0.0, 0))
        longest[request.model_key] = max(waited_s, request.waited_s), count + 1
    for model, (waited_s, count) in longest.items():
        if waited_s >= LONG_WAIT_S:
            text = f"{counted(count, 'request')} wait, the longest for {seconds(waited_s)}"
            yield Seen(Severity.WARNING, f"model:{model}", plain(model), text, model=model)


def store(snapshot: Snapshot) -> Iterator[Seen]:
    """Traces that cannot be kept."""
    state = snapshot.store
    if not state.is_on:
        return
    if state.error:
        text = (
            f"{plain_line(state.error)} {state.pending:,} traces wait, {state.dropped:,} are lost"
        )
        yield Seen(Severity.WARNING, "store", "traces", text)
    elif state.dropped_recently:
        lost = f"{state.dropped_recently:,} traces lost in {WINDOW_MINUTES} min"
        text = f"{lost}, {state.dropped:,} in all"
        yield Seen(Severity.WARNING, "store", "traces", text)
    elif state.pending >= PENDING_TRACES:
        text = f"{state.pending:,} traces wait for the disk"
        yield Seen(Severity.WARNING, "store", "traces", text)


def drift(snapshot: Snapshot) -> Iterator[Seen]:
    """Predictions that are far from what happens."""
    for node_id, counts in snapshot.recent.by_node.items():
        total = counts.error.count
        if total < DRIFT_REQUESTS:
            continue
        slots = tuple(zip((0.0, *counts.error.bounds), counts.error.slots, strict=True))
        slow = sum(count for above, count in slots if above >= DRIFT_FACTOR)
        quick = sum(count for above, count in slots if above < 1 / DRIFT_FACTOR - 0.01)
        if max(slow, quick) >= DRIFT_SHARE * total:
            which = "longer" if slow > quick else "shorter"
            text = (
                f"{percent(max(slow, quick), total)} of {total:,} requests took at least "
                f"{DRIFT_FACTOR:.0f} times {which} than predicted in {WINDOW_MINUTES} min"
            )
            name = node_name(snapshot.fleet, node_id)
            yield Seen(Severity.INFO, node_id, name, text, node_id=node_id)


def plain_line(text: str) -> str:
    """A longer text that the store wrote, on one line."""
    return "".join(c if c.isprintable() else " " for c in text[:500])


def _rate(count: int, of: int, share: float, bad_share: float) -> Severity | None:
    if of < FEWEST_REQUESTS or count < FEWEST_FAILURES or count < share * of:
        return None
    return Severity.CRITICAL if count >= bad_share * of else Severity.WARNING
