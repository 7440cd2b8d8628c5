"""`/api/show`: from any node with the digest that is served; asked once, then remembered.

Clients ask it before every chat, so it must cost no engine anything: no load, no queue.
"""

from collections import OrderedDict

from aiohttp import web

from ollama_herd.api.errors import ApiError, no_node, unknown_listed_model
from ollama_herd.api.show import show as synthesised
from ollama_herd.clock import monotonic_s
from ollama_herd.core.digests import served_digest
from ollama_herd.core.names import canonical_name
from ollama_herd.core.queue import cloud_refusal
from ollama_herd.router.asking import EngineAnswer, ask
from ollama_herd.router.front import may_list
from ollama_herd.router.models.answers import (
    CallRefused,
    ModelParts,
    passed_on,
    read_call,
    wanted_node,
)
from ollama_herd.router.models.targets import Target, holders, named_targets, other_replicas
from ollama_herd.router.slow import request_head
from ollama_herd.router.upstream import UpstreamFailed

SHOW_TIMEOUT_S = 15.0
"""Ollama reads the head of the model file: 0.4 s when it is busy, longer from a cold disk."""

MAX_SHOW_BYTES = 64 * 1024 * 1024
"""A verbose answer holds the whole vocabulary: 5.7 MB for one of 262,144 tokens."""

KEPT_ANSWERS = 512
KEPT_BYTES = 32 * 1024 * 1024
KEPT_ANSWER_BYTES = 1024 * 1024
KEPT_S = 300.0
"""A newer Ollama may tell more of the same model, so answers are asked for again now and then."""

_COPILOT = "GitHubCopilotChat/"
"""Ollama answers this client otherwise than all others."""

Key = tuple[str, str]
"""Canonical name and digest: what an answer depends on."""


class ShowCache:
    """Answers by name and digest, the least used go first; bounded in number and bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, tuple[EngineAnswer, str, float]] = OrderedDict()
        self._size = 0

    def get(self, key: Key) -> tuple[EngineAnswer, str] | None:
        """The answer and the name of the node that gave it."""
        found = self._kept.get(key)
        if found is None:
            return None
        answer, node, at_s = found
        if monotonic_s() - at_s > KEPT_S:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return answer, node

    def put(self, key: Key, answer: EngineAnswer, node: str) -> None:
        if len(answer.body) > KEPT_ANSWER_BYTES:
            return
        self._drop(key)
        self._kept[key] = (answer, node, monotonic_s())
        self._size += len(answer.body)
        while len(self._kept) > KEPT_ANSWERS or self._size > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._size -= len(found[0].body)


class Shows:
    """The handler and its cache."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._cache = ShowCache()

    async def show(self, request: web.Request) -> web.Response:
        """POST /api/show."""
        parsed = await read_call(self._parts, request)
        fleet = self._parts.registry.fleet
        wanted = wanted_node(request, parsed)
        key_name = canonical_name(parsed.model)
        may_see = may_list(request)
        if may_see is not None and not may_see(parsed.model):
            raise CallRefused(unknown_listed_model(parsed.model))
        if wanted:
            return await self._ask_nodes(request, parsed.body, named_targets(fleet, wanted), None)
        replicas = fleet.replicas.get(key_name, ())
        if not replicas:
            raise CallRefused(self._absent(parsed.model))
        key: Key | None = (key_name, served_digest(replicas))
        is_copilot = request.headers.get("User-Agent", "").startswith(_COPILOT)
        if not parsed.is_plain or is_copilot or not served_digest(replicas):
            key = None
        kept = self._cache.get(key) if key is not None else None
        if kept is not None:
            return passed_on(kept[0], [kept[1]])
        targets = holders(fleet, parsed.model, served_only=True)
        if not targets:
            other = other_replicas(fleet, parsed.model)[0]
            content_type = (b"Content-Type", b"application/json; charset=utf-8")
            answer = EngineAnswer(200, (content_type,), synthesised(other))
            return passed_on(answer, [fleet.nodes[other.node_id].name])
        return await self._ask_nodes(request, parsed.body, targets, key)

    async def _ask_nodes(
        self, request: web.Request, body: bytes, targets: list[Target], key: Key | None
    ) -> web.Response:
        """The first good answer; a node that fails or has lost the model is passed by."""
        head = request_head(request)
        last: tuple[EngineAnswer, str] | None = None
        reasons = []
        for target in targets:
            try:
                answer = await ask(
                    self._parts.upstream,
                    target.address,
                    b"POST",
                    b"/api/show",
                    body,
                    headers=head.headers,
                    timeout_s=SHOW_TIMEOUT_S,
                    limit_bytes=MAX_SHOW_BYTES,
                )
            except UpstreamFailed as failure:
                reasons.append(f"{target.name}: {failure.detail}")
                continue
            last = (answer, target.name)
            if answer.status == 200:
                if key is not None:
                    self._cache.put(key, answer, target.name)
                break
        if last is None:
            message = f"no node could show the model: {'; '.join(reasons)}"
            raise CallRefused(ApiError(502, message, "engines_failed"))
        return passed_on(last[0], [last[1]])

    def _absent(self, model: str) -> ApiError:
        """Unknown, or only on nodes that cannot be used now: a client must not pull it then."""
        fleet = self._parts.registry.fleet
        away = fleet.unusable.get(canonical_name(model), ())
        if not away:
            return unknown_listed_model(model)
        if all(replica.is_cloud for replica in away) and not fleet.cloud_models:
            forbidden = cloud_refusal(model)
            return ApiError(403, forbidden.message, forbidden.kind.value)
        names = sorted({fleet.nodes[replica.node_id].name for replica in away})
        return no_node(model, [f"{name} has it and cannot be used" for name in names])
