"""What the scheduler decides about a request; the dispatcher carries it out."""

import msgspec

from ollama_herd.core.decision import Candidate, Rejected, RouteDecision
from ollama_herd.core.request import Refusal


class Grant(msgspec.Struct, frozen=True, gc=False):
    """The request may go to `decision.winner` now; its slot is taken."""

    request_id: str
    decision: RouteDecision


class Refuse(msgspec.Struct, frozen=True, gc=False):
    """The request will not be placed; `rejected` are the places that could not take it."""

    request_id: str
    refusal: Refusal
    rejected: tuple[Rejected, ...] = ()
    candidates: tuple[Candidate, ...] = ()


Effect = Grant | Refuse
