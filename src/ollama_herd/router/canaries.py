"""Sends canaries, see `core/canary.py`: one token from an idle replica, past the queues.

A canary takes no slot: it is over in the time of a token, and a request that comes meanwhile must
not wait for one that is not.
"""

import structlog

from ollama_herd.api.canary import canary_call
from ollama_herd.core.canary import Canary
from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.retry import failing_status
from ollama_herd.router.asking import ask
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.upstream import Upstream, UpstreamFailed
from ollama_herd.tasks import spawn

_log = structlog.get_logger(__name__)


class CanarySender:
    """Carries out what `core.canary` plans; each canary is a task of its own."""

    def __init__(self, upstream: Upstream, dispatcher: Dispatcher) -> None:
        self._upstream = upstream
        self._dispatcher = dispatcher

    def start(self, canary: Canary) -> None:
        """Send it; what comes of it goes to the dispatcher."""
        spawn(self._send(canary), name=f"canary {canary.replica.node_id}")

    async def _send(self, canary: Canary) -> None:
        outcome = OutcomeKind.CANCELLED
        try:
            outcome = await self._ask(canary)
        finally:
            self._dispatcher.canary_ended(canary, outcome)

    async def _ask(self, canary: Canary) -> OutcomeKind:
        replica = canary.replica
        path, body = canary_call(replica, canary.request)
        try:
            answer = await ask(
                self._upstream,
                replica.endpoint,
                b"POST",
                path.encode(),
                body,
                timeout_s=canary.patience_s,
            )
        except UpstreamFailed as failure:
            outcome = failure.outcome
        else:
            failed = failing_status(answer.status)
            is_refused = answer.status >= 400
            outcome = failed or (OutcomeKind.CLIENT_ERROR if is_refused else OutcomeKind.COMPLETED)
        _log.debug(
            "canary", node_id=replica.node_id, model=replica.model.name, outcome=outcome.value
        )
        return outcome
