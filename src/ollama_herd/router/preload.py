"""Loads ahead of requests: an empty prompt to an engine that has the model on its disk.

Never a download, and no keep-alive of ours but for pinned models: the engine unloads a model by its
own rule.
"""

from math import inf

import msgspec
import structlog

from ollama_herd.core.decision import Candidate
from ollama_herd.core.request import InferenceRequest, OutcomeKind
from ollama_herd.core.routing import RouteDecision
from ollama_herd.router.asking import ask
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.unload import make_room
from ollama_herd.router.upstream import Upstream, UpstreamFailed
from ollama_herd.tasks import spawn

_log = structlog.get_logger(__name__)

LOAD_TIMEOUT_S = 300.0
"""Ollama's own bound on a load (OLLAMA_LOAD_TIMEOUT)."""


class Preloads:
    """Carries out what the scheduler plans; each load is a task of its own."""

    def __init__(self, upstream: Upstream, dispatcher: Dispatcher) -> None:
        self._upstream = upstream
        self._dispatcher = dispatcher

    def start(self, decision: RouteDecision, request: InferenceRequest) -> None:
        """Begin a planned load; its slot is given back when it ends, however."""
        spawn(self._load(decision, request), name=f"preload {request.request_id}")

    async def _load(self, decision: RouteDecision, request: InferenceRequest) -> None:
        outcome = OutcomeKind.CANCELLED
        try:
            if decision.evicts:
                await make_room(self._upstream, decision.evicts)
            outcome = await self._ask(decision.candidates[0], request)
        finally:
            self._dispatcher.finished(request.request_id, outcome, None)

    async def _ask(self, candidate: Candidate, request: InferenceRequest) -> OutcomeKind:
        replica = candidate.replica
        model, keep_alive_s = replica.model, request.keep_alive_s
        facts = {"model": model.name, "node_id": replica.node_id}
        fields: dict[str, object] = {"model": model.name, "stream": False}
        path = b"/api/generate"
        if model.capabilities == ("embedding",):
            path, fields = b"/api/embed", {"model": model.name, "input": ""}
        if keep_alive_s is not None:
            fields["keep_alive"] = -1 if keep_alive_s == inf else int(keep_alive_s)
        options = dict(request.load_options)
        if candidate.num_ctx:  # of the runner that is to be kept as it is
            options["num_ctx"] = candidate.num_ctx
        if options:
            fields["options"] = options
        body = msgspec.json.encode(fields)
        try:
            answer = await ask(
                self._upstream, replica.endpoint, b"POST", path, body, timeout_s=LOAD_TIMEOUT_S
            )
        except UpstreamFailed as failure:
            _log.warning("model not loaded ahead", **facts, reason=failure.detail)
            return failure.outcome
        if answer.status != 200:
            _log.warning("model not loaded ahead", **facts, reason=answer.error)
            return OutcomeKind.CLIENT_ERROR
        if keep_alive_s == inf:
            _log.info("model kept loaded, as pinned", **facts)
        elif replica.loaded is not None:
            _log.debug("model kept loaded for requests to come", **facts)
        else:
            _log.info("model loaded ahead of requests", **facts)
        return OutcomeKind.COMPLETED
