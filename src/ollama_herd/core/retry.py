"""What a failed attempt says of its replica, and how much may be tried again."""

from ollama_herd.core.request import OutcomeKind

FAULTS = frozenset(
    {
        OutcomeKind.CLOSED_EARLY,
        OutcomeKind.GARBAGE,
        OutcomeKind.SILENT,
        OutcomeKind.TRUNCATED,
    }
)
"""Failures that are the replica's own, whatever was asked of it."""


ERRORS = frozenset({OutcomeKind.ENGINE_ERROR, OutcomeKind.ENGINE_BUSY})
"""Failures that may be the request's own: the replica's only once another one has answered it."""

HEDGE_SHARE = 0.1
"""Second tries of silent requests, as a share of what is in flight. Hedging only the slowest few
per cent is what keeps it cheap; when more are silent, the fleet is overloaded, not broken."""


def may_hedge(hedges: int, in_flight: int) -> bool:
    """Whether one more request may be under way twice; always at least one may."""
    return hedges < max(1, int(HEDGE_SHARE * in_flight))


def may_retry(attempts: int, max_attempts: int) -> bool:
    """Whether a request that was tried `attempts` times gets another try."""
    return attempts < max_attempts


def failing_status(status: int) -> OutcomeKind | None:
    """How an answer with this status failed, None for one that goes to the client.

    A 4xx is the request's own; 501 says that the model cannot do it, on any node.
    """
    if status < 500 or status == 501:
        return None
    return OutcomeKind.ENGINE_BUSY if status == 503 else OutcomeKind.ENGINE_ERROR
