"""Copy and delete: on every node that has the model, with one answer for all."""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog
from aiohttp import web

from ollama_herd.api.errors import ApiError
from ollama_herd.api.gojson import encode_string
from ollama_herd.api.model_bodies import ModelBody
from ollama_herd.core.names import DEFAULT_TAG, canonical_name
from ollama_herd.core.node import Model
from ollama_herd.router.asking import EngineAnswer, ask
from ollama_herd.router.models.answers import (
    CallRefused,
    ModelParts,
    empty_ok,
    passed_on,
    read_call,
    wanted_node,
)
from ollama_herd.router.models.relist import Guess, relist
from ollama_herd.router.models.targets import (
    Target,
    holders,
    log_absent_holders,
    named_targets,
    names_of,
    other_replicas,
)
from ollama_herd.router.slow import request_head
from ollama_herd.router.upstream import UpstreamFailed

_log = structlog.get_logger(__name__)

Outcome = tuple[Target, EngineAnswer | UpstreamFailed]


class Changes:
    """The handlers of copy and delete."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/delete."""
        parsed = await read_call(self._parts, request)
        gone = canonical_name(parsed.model)
        missing = ApiError(404, f"model '{parsed.model}' not found", "unknown_model")

        def without(models: Sequence[Model]) -> Sequence[Model]:
            return [model for model in models if canonical_name(model.name) != gone]

        return await self._change(request, parsed, "deleted", missing, without)

    async def copy(self, request: web.Request) -> web.Response:
        """POST /api/copy."""
        parsed = await read_call(self._parts, request)
        source, made = canonical_name(parsed.model), canonical_name(parsed.destination)
        message = f"model {encode_string(parsed.model)} not found"
        name = parsed.destination
        if ":" not in name.rpartition("/")[2]:
            name = f"{name}:{DEFAULT_TAG}"

        def with_copy(models: Sequence[Model]) -> Sequence[Model]:
            copies = [
                msgspec.structs.replace(model, name=name)
                for model in models
                if canonical_name(model.name) == source
            ]
            return [m for m in models if canonical_name(m.name) != made] + copies

        missing = ApiError(404, message, "unknown_model")
        return await self._change(request, parsed, "copied", missing, with_copy)

    async def _change(
        self,
        request: web.Request,
        parsed: ModelBody,
        doing: str,
        missing: ApiError,
        guess: Guess,
    ) -> web.Response:
        """Done on at least one node and failed on none: 200; on some only: 500, with names."""
        fleet = self._parts.registry.fleet
        targets = holders(fleet, parsed.model)
        wanted = wanted_node(request, parsed)
        if wanted:
            chosen = {t.node_id for t in named_targets(fleet, wanted)}
            targets = [target for target in targets if target.node_id in chosen]
        else:
            log_absent_holders(fleet, parsed.model, doing)
        if not targets:
            others = other_replicas(fleet, parsed.model)
            names = ", ".join(sorted({fleet.nodes[r.node_id].name for r in others}))
            raise CallRefused(_not_ours(parsed.model, names, doing) if others else missing)
        outcomes = await self._ask_all(request, parsed.body, targets)
        done = [target for target, outcome in outcomes if _status(outcome) == 200]
        failed = [o for o in outcomes if _status(o[1]) not in (200, 404)]
        await relist(self._parts, targets, guess if done and not failed else None)
        if done:
            _log.info(f"model {doing}", model=parsed.model, nodes=names_of(done))
        if failed:
            return _failure(doing, outcomes, done, failed)
        if not done:
            raise CallRefused(missing)
        return empty_ok(names_of(done))

    async def _ask_all(
        self, request: web.Request, body: bytes, targets: Sequence[Target]
    ) -> list[Outcome]:
        head = request_head(request)
        method, path = request.method.encode(), request.path.encode()

        async def ask_one(target: Target) -> Outcome:
            try:
                answer = await ask(
                    self._parts.upstream,
                    target.address,
                    method,
                    path,
                    body,
                    headers=head.headers,
                )
            except UpstreamFailed as failure:
                return target, failure
            return target, answer

        return list(await asyncio.gather(*(ask_one(target) for target in targets)))


def _status(outcome: EngineAnswer | UpstreamFailed) -> int:
    return outcome.status if isinstance(outcome, EngineAnswer) else 0


def _failure(
    doing: str, outcomes: list[Outcome], done: list[Target], failed: list[Outcome]
) -> web.Response:
    """What went wrong where; the one engine's own words when there is only one."""
    if len(outcomes) == 1 and isinstance(outcomes[0][1], EngineAnswer):
        return passed_on(outcomes[0][1], [outcomes[0][0].name])
    told = "; ".join(f"failed on {target.name}: {_why(why)}" for target, why in failed)
    names = ", ".join(names_of(done))
    message = f"{doing} on {names}; {told}" if names else told
    raise CallRefused(ApiError(500, message, "partly_failed"))


def _why(outcome: EngineAnswer | UpstreamFailed) -> str:
    if isinstance(outcome, EngineAnswer):
        return outcome.error or f"status {outcome.status}"
    return outcome.detail


def _not_ours(model: str, names: str, doing: str) -> ApiError:
    message = (
        f"model '{model}' cannot be {doing} through the herd: the engine that serves it on "
        f"{names} is no Ollama and manages its models itself"
    )
    return ApiError(400, message, "not_managed")
