"""`POST /fleet/measure`: how fast one model is on one node, measured now; teaches the predictor.

A measurement is a request of the herd's own: it takes a slot like any other, and what its engine
says of load, prefill and decode is learned like that of any other.
"""

import itertools
import secrets

import msgspec
from aiohttp import web

from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.tail import read_tail
from ollama_herd.clock import monotonic_s
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import EngineKind, Replica
from ollama_herd.core.request import Dialect, InferenceRequest, Kind, OutcomeKind, Usage
from ollama_herd.router.asking import ask
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.nodes import named_node, refused
from ollama_herd.router.registry import Registry
from ollama_herd.router.slow import read_body
from ollama_herd.router.unload import make_room
from ollama_herd.router.upstream import Upstream, UpstreamFailed

PROMPT_WORDS = 200
"""About 600 tokens: enough for a prefill that is no overhead, short for a slow machine."""

OUTPUT_TOKENS = 64
"""A second or two of decode on most machines; beyond it the rate does not change."""

TIMEOUT_S = 600.0
"""Ollama's own bound on a load (five minutes), and as much for a slow machine's answer."""

_PATH = "/api/generate"
_MOST_BYTES = 4096
_BODY_S = 10.0

_numbers = itertools.count(1)


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What is measured; `cold` unloads the model there first, to see its load."""

    model: str
    node: str
    cold: bool = False


class Measured(msgspec.Struct, frozen=True):
    """What the engine said; None where it did not. Rates are tokens per second."""

    node: str
    model: str
    load_ms: float | None
    prompt_tokens: int | None
    prefill_tokens_s: float | None
    output_tokens: int | None
    decode_tokens_s: float | None


class Measuring:
    """The handler; `add_to` adds its route."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher, upstream: Upstream) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._upstream = upstream

    def add_to(self, app: web.Application) -> None:
        """The route of measurements."""
        app.router.add_route("POST", "/fleet/measure", self.measure)

    async def measure(self, request: web.Request) -> web.Response:
        """Loads a model on one node, lets it read and write a little, and says how fast it was."""
        try:
            asked = msgspec.json.decode(
                await read_body(request, _MOST_BYTES, _BODY_S, setting=""), type=_Asked
            )
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return refused(400, "bad_body", f'send {{"model": NAME, "node": NAME}}: {error}')
        node = named_node(self._registry.fleet, asked.node)
        if isinstance(node, web.Response):
            return node
        replica = self._replica(asked.model, node.node_id)
        if replica is None:
            reason = (
                f"{asked.model[:100]} cannot be measured on {node.name}: no Ollama has it there"
            )
            return refused(404, "unknown_model", reason)
        return await self._measured(asked, node.name, replica)

    def _replica(self, model: str, node_id: str) -> Replica | None:
        replicas = self._registry.fleet.replicas.get(canonical_name(model), ())
        return next(
            (r for r in replicas if r.node_id == node_id and r.kind is EngineKind.OLLAMA), None
        )

    async def _measured(self, asked: _Asked, node: str, replica: Replica) -> web.Response:
        number = next(_numbers)
        wanted = _request(f"measure-{number}", replica)
        decision = self._dispatcher.measure(wanted, replica)
        if decision is None:
            reason = f"{asked.model[:100]} is busy on {node}, or cannot be loaded there now"
            return refused(409, "busy", f"{reason}: try again later")
        outcome, usage = OutcomeKind.CANCELLED, None
        try:
            if asked.cold:
                await self._ask(replica, {"keep_alive": 0})
            if decision.evicts:
                await make_room(self._upstream, decision.evicts)
            status, body = await self._ask(replica, _work())
            if status != 200:
                outcome = OutcomeKind.ENGINE_ERROR if status >= 500 else OutcomeKind.CLIENT_ERROR
                said = body[:300].decode("utf-8", "replace")
                return refused(502, "engine", f"the engine of {node} answered {status}: {said}")
            usage = read_tail(body, INFERENCE[_PATH.encode()], status, False).usage  # noqa: FBT003
            outcome = OutcomeKind.COMPLETED
        except UpstreamFailed as failure:
            outcome = failure.outcome
            return refused(502, "engine", f"the engine of {node} failed: {failure.detail}")
        finally:
            self._dispatcher.measured(wanted.request_id, outcome, usage)
        found = _said(node, replica, usage or Usage())
        return web.json_response(msgspec.structs.asdict(found))

    async def _ask(self, replica: Replica, fields: dict[str, object]) -> tuple[int, bytes]:
        body = msgspec.json.encode({"model": replica.model.name, "stream": False, **fields})
        answer = await ask(
            self._upstream, replica.endpoint, b"POST", _PATH.encode(), body, timeout_s=TIMEOUT_S
        )
        return answer.status, answer.body


def _request(request_id: str, replica: Replica) -> InferenceRequest:
    name = canonical_name(replica.model.name)
    return InferenceRequest(
        request_id=request_id,
        model=replica.model.name,
        model_key=name,
        kind=Kind.GENERATE,
        dialect=Dialect.OLLAMA,
        path=_PATH,
        arrived_s=monotonic_s(),
        prompt_tokens=PROMPT_WORDS * 3,
        max_tokens=OUTPUT_TOKENS,
        client="herd",
    )


def _work() -> dict[str, object]:
    """Words that no cache has seen; how long the answer is says nothing about real ones."""
    words = " ".join(secrets.token_hex(2) for _ in range(PROMPT_WORDS))
    options = {"num_predict": OUTPUT_TOKENS, "temperature": 0}
    return {"prompt": f"Go on with this list: {words}", "options": options}


def _said(node: str, replica: Replica, usage: Usage) -> Measured:
    return Measured(
        node=node,
        model=replica.model.name,
        load_ms=usage.load_ms,
        prompt_tokens=usage.prompt_tokens,
        prefill_tokens_s=_rate(usage.prompt_tokens, usage.prefill_ms),
        output_tokens=usage.output_tokens,
        decode_tokens_s=_rate(usage.output_tokens, usage.decode_ms),
    )


def _rate(tokens: int | None, took_ms: float | None) -> float | None:
    return round(tokens / took_ms * 1e3, 1) if tokens and took_ms else None
