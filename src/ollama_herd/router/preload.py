"""Loads ahead of requests: an empty prompt to an engine that has the model on its disk.

Never a download, and no keep-alive of ours: the engine unloads the model by its own rule.
"""

import msgspec
import structlog

from ollama_herd.core.node import Replica
from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.asking import ask
from ollama_herd.router.dispatcher import Dispatcher
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

    def start(self, request_id: str, replica: Replica) -> None:
        """Begin a planned load; its slot is given back when it ends, however."""
        spawn(self._load(request_id, replica), name=f"preload {request_id}")

    async def _load(self, request_id: str, replica: Replica) -> None:
        outcome = OutcomeKind.CANCELLED
        try:
            outcome = await self._ask(replica)
        finally:
            self._dispatcher.finished(request_id, outcome, None)

    async def _ask(self, replica: Replica) -> OutcomeKind:
        facts = {"model": replica.model.name, "node_id": replica.node_id}
        body = msgspec.json.encode({"model": replica.model.name, "stream": False})
        address, path = replica.endpoint, b"/api/generate"
        try:
            answer = await ask(
                self._upstream, address, b"POST", path, body, timeout_s=LOAD_TIMEOUT_S
            )
        except UpstreamFailed as failure:
            _log.warning("model not loaded ahead", **facts, reason=failure.detail)
            return failure.outcome
        if answer.status != 200:
            _log.warning("model not loaded ahead", **facts, reason=answer.error)
            return OutcomeKind.CLIENT_ERROR
        _log.info("model loaded ahead of requests", **facts)
        return OutcomeKind.COMPLETED
