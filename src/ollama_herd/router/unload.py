"""Unloading: a model everywhere at once for a client, or what has to go for another to load."""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from ollama_herd.core.node import EngineKind, Replica
from ollama_herd.router.asking import PLAIN_HEADERS, EngineAnswer, ask
from ollama_herd.router.reply import Headers
from ollama_herd.router.upstream import Upstream, UpstreamFailed

_log = structlog.get_logger(__name__)

UNLOAD_TIMEOUT_S = 10.0
"""Ollama answers in milliseconds, also while the model works: the runner goes when it is done."""


async def unload(
    upstream: Upstream, replicas: Sequence[Replica], path: bytes, headers: Headers, body: bytes
) -> tuple[EngineAnswer, list[str]] | None:
    """Send an unload request to all these replicas' engines; the answer for the client and the
    ids of the nodes that gave it. None when there is no Ollama among them, or none answered.

    All of them, not only those known to have it loaded: what a node told last is up to one
    heartbeat old, and a node that has not loaded it does nothing.
    """
    asked = {r.endpoint: r for r in replicas if r.kind is EngineKind.OLLAMA}
    answers = await asyncio.gather(
        *(_unload_one(upstream, replica, path, headers, body) for replica in asked.values())
    )
    given = [
        (answer, replica.node_id)
        for answer, replica in zip(answers, asked.values(), strict=True)
        if answer is not None
    ]
    if not given:
        return None
    done = [(answer, node_id) for answer, node_id in given if answer.status == 200]
    chosen = done or given[:1]
    return chosen[0][0], [node_id for _, node_id in chosen]


async def make_room(upstream: Upstream, victims: Sequence[Replica]) -> None:
    """Unload these before a request is sent that needs their room; where that fails, the engine
    chooses for itself.
    """
    path = b"/api/generate"
    await asyncio.gather(
        *(
            _unload_one(upstream, victim, path, PLAIN_HEADERS, _nothing_kept(victim))
            for victim in victims
        )
    )
    for victim in victims:
        _log.info("model unloaded for another", model=victim.model.name, node_id=victim.node_id)


def _nothing_kept(victim: Replica) -> bytes:
    return msgspec.json.encode({"model": victim.model.name, "keep_alive": 0})


async def _unload_one(
    upstream: Upstream, replica: Replica, path: bytes, headers: Headers, body: bytes
) -> EngineAnswer | None:
    try:
        return await ask(
            upstream,
            replica.endpoint,
            b"POST",
            path,
            body,
            headers=headers,
            timeout_s=UNLOAD_TIMEOUT_S,
        )
    except UpstreamFailed as failure:
        _log.warning(
            "model not unloaded on one node",
            model=replica.model.name,
            node_id=replica.node_id,
            reason=failure.detail,
        )
        return None
