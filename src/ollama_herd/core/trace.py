"""What is kept of a request after it ended: never a prompt, never an answer."""

import msgspec

from ollama_herd.core.request import Attempt, InferenceRequest, Refusal, Usage
from ollama_herd.core.routing import RouteDecision


class Trace(msgspec.Struct, frozen=True, gc=False):
    """One row of the trace store. `started_s` is seconds since 1970, durations are ms.

    Exactly one trace is written for each request, however it ended. `status` is what the client
    got (499: it left before a status was sent). `error` is a stable code or "". `decision` is that
    of the last attempt, `earlier` are those of the attempts before it, in their order.
    """

    request: InferenceRequest
    started_s: float
    total_ms: float
    queue_ms: float
    ttft_ms: float  # -1: no byte was sent
    status: int
    error: str
    decision: RouteDecision | None
    attempts: tuple[Attempt, ...]
    usage: Usage | None
    refusal: Refusal | None = None
    model_served: str = ""
    node_id: str = ""
    tags: tuple[str, ...] = ()
    key_name: str = ""  # of the client's API key
    earlier: tuple[RouteDecision, ...] = ()
    trace_parent: str = ""  # W3C's `traceparent`, as the client sent it
    hedged: bool = False  # two attempts were under way at once
    continued: bool = False  # a stream that broke off was brought to its end by another node
