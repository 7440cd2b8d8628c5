"""After a change: read what the engines have now, so that the next list is right at once."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from ollama_herd.api.listing import read_tags
from ollama_herd.core.node import Model
from ollama_herd.router.asking import ask
from ollama_herd.router.models.answers import ModelParts
from ollama_herd.router.models.targets import Target
from ollama_herd.router.upstream import UpstreamFailed

_log = structlog.get_logger(__name__)

LIST_TIMEOUT_S = 5.0
"""A caller waits for this after its change; the agent's report comes anyway."""

Guess = Callable[[Sequence[Model]], Sequence[Model]]
"""From what an engine had to what it should have now, for when it does not say."""


async def relist(parts: ModelParts, targets: Sequence[Target], guess: Guess | None = None) -> None:
    """Bring the fleet up to date about these engines; never fails."""
    await asyncio.gather(*(_relist_one(parts, target, guess) for target in targets))


async def _relist_one(parts: ModelParts, target: Target, guess: Guess | None) -> None:
    models: Sequence[Model] | None = None
    try:
        answer = await ask(
            parts.upstream, target.address, b"GET", b"/api/tags", timeout_s=LIST_TIMEOUT_S
        )
        models = read_tags(answer.body) if answer.status == 200 else None
    except UpstreamFailed as failure:
        _log.warning("list not read after a change", node=target.name, reason=failure.detail)
    if models is None and guess is not None:
        models = guess(_known(parts, target))
    if models is not None:
        parts.registry.relisted(target.node_id, target.engine_id, models)


def _known(parts: ModelParts, target: Target) -> Sequence[Model]:
    node = parts.registry.fleet.nodes.get(target.node_id)
    engines = node.engines if node is not None else ()
    return next((e.models for e in engines if e.engine_id == target.engine_id), ())
