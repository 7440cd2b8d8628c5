"""The one request path, whatever the endpoint:

parse → grant of a slot (decide, queue) → attempt → first byte commits → relay → trace.

Endpoints differ by their row in `api.endpoints`, dialects by the translation an attempt needs.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import (
    ApiError,
    attempts_failed,
    broken_stream,
    refused,
    render,
    stream_error,
)
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.api.tail import read_tail
from ollama_herd.api.translate import ENGINE_LACKS_FEATURE, LocalAnswer, replace_model
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.names import canonical_name
from ollama_herd.core.request import InferenceRequest, OutcomeKind, Priority, RefusalKind
from ollama_herd.core.routing import Candidate, RouteDecision
from ollama_herd.core.trace import Trace
from ollama_herd.router.asking import node_header
from ollama_herd.router.attempt import Call, header_text, herd_headers, prepare_call
from ollama_herd.router.dispatcher import Dispatcher, Refused
from ollama_herd.router.gate import Gate
from ollama_herd.router.journal import Journal
from ollama_herd.router.reply import Headers, Reply, answer
from ollama_herd.router.unload import unload
from ollama_herd.router.upstream import EngineConnection, Upstream, UpstreamFailed
from ollama_herd.router.wire import RequestHead

_log = structlog.get_logger(__name__)

HELD_ANSWER_BYTES = 65536
"""An engine's 5xx is held back up to this size while other nodes are tried."""

_run_id = secrets.token_hex(4)
_numbers = itertools.count(1)

HeldAnswer = tuple[int, Headers, bytes]
"""Status, headers and body of an engine that failed, passed on when no other engine is left."""

Failed = tuple[OutcomeKind, HeldAnswer | None]
"""How an attempt failed before the client got a byte, and the engine's own answer if any."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the request path works with; built once in `app`."""

    dispatcher: Dispatcher
    upstream: Upstream
    put_trace: Callable[[Trace], None]
    node_name: Callable[[str], str]
    fleet: Callable[[], Fleet]
    gate: Gate
    max_attempts: int


class Exhausted(Exception):  # noqa: N818 - an answer to a client, not a defect
    """No attempt led to an answer; `held` is the last engine's own, if it gave one."""

    def __init__(self, held: HeldAnswer | None) -> None:
        super().__init__("every attempt failed")
        self.held = held


class Exchange:
    """One request on its way: what was asked, where the answer goes, what is noted of it.

    `more` are response headers that every answer carries (CORS).
    """

    __slots__ = ("endpoint", "head", "journal", "more", "parts", "reply")

    def __init__(self, parts: Parts, endpoint: Endpoint, head: RequestHead, reply: Reply) -> None:
        self.parts = parts
        self.endpoint = endpoint
        self.head = head
        self.reply = reply
        self.journal = Journal(f"{_run_id}-{next(_numbers)}")
        self.more: Headers = ()

    @property
    def request_id(self) -> str:
        return self.journal.request_id

    def herd_headers(self) -> Headers:
        return [*herd_headers(self.journal, self.parts.node_name), *self.more]

    def refuse(self, error: ApiError, more: Headers = ()) -> None:
        """An answer of our own: `error` in the caller's dialect."""
        status, content_type, body = render(error, self.endpoint.dialect, self.endpoint.path)
        self.journal.status = status
        self.journal.error = error.code
        headers = [*self.more, *more]
        if error.retry_after_s:
            headers.append((b"Retry-After", b"%d" % error.retry_after_s))
        answer(self.reply, status, content_type, body, headers)


async def serve(
    parts: Parts, endpoint: Endpoint, head: RequestHead, body: bytes, reply: Reply
) -> None:
    """Answer one request; exactly one trace is written, however it ends."""
    exchange = Exchange(parts, endpoint, head, reply)
    journal = exchange.journal
    try:
        allowed = parts.gate(head.headers)
        if allowed is None:
            _forbid(exchange)
            return
        exchange.more = allowed
        parsed = read_request(endpoint, body, head.encoding)
        if isinstance(parsed, ApiError):
            exchange.refuse(parsed)
            return
        journal.request = _request(exchange, parsed)
        if parsed.is_unload and await _unload(exchange, parsed, journal.request.model_key):
            return
        await _answer_or_fall_back(exchange, parsed, journal.request)
    except Refused as refusal:
        journal.refusal = refusal.refusal
        exchange.refuse(refused(refusal.refusal, journal.model, endpoint))
    except Exhausted as exhausted:
        _pass_on_failure(exchange, exhausted.held)
    except asyncio.CancelledError:
        journal.error = journal.error or "client_left"
        journal.end(OutcomeKind.CANCELLED, detail="the client left")
        parts.dispatcher.cancelled(exchange.request_id)
        raise
    except Exception as failure:  # noqa: BLE001 - the request boundary: a defect costs one request
        _log.exception("request failed", request_id=exchange.request_id)
        journal.end(OutcomeKind.ENGINE_ERROR, detail=type(failure).__name__)
        parts.dispatcher.cancelled(exchange.request_id)
        if reply.started:
            reply.abort()
        else:
            exchange.refuse(_defect(exchange.request_id))
    finally:
        parts.put_trace(journal.trace(endpoint, head.client))


async def _answer_or_fall_back(
    exchange: Exchange, parsed: ParsedBody, request: InferenceRequest
) -> None:
    """The model asked for; where no node can serve it, a fallback that the request names.

    When there is none either, the refusal is about the model asked for.
    """
    try:
        await _answer(exchange, parsed, request)
    except Refused as refused_first:
        if refused_first.refusal.kind not in _FALLS_BACK:
            raise
        if not await _fall_back(exchange, parsed, request):
            raise


async def _fall_back(exchange: Exchange, parsed: ParsedBody, request: InferenceRequest) -> bool:
    """The first fallback model that a node can serve; False when there is none."""
    more = exchange.more
    for name in parsed.fallback_models:
        body = replace_model(parsed.body, name)
        other = msgspec.structs.replace(parsed, model=name, body=body, fallback_models=())
        key = canonical_name(name)
        served = (b"X-Herd-Model", header_text(name))  # the fallback that answered, if one did
        exchange.more = (*more, served)
        try:
            await _answer(
                exchange, other, msgspec.structs.replace(request, model=name, model_key=key)
            )
        except Refused as refused_too:
            if refused_too.refusal.kind not in _FALLS_BACK:
                raise
        else:
            return True
    exchange.more = more
    return False


_FALLS_BACK = frozenset({RefusalKind.UNKNOWN_MODEL, RefusalKind.NO_NODE})


async def _unload(exchange: Exchange, parsed: ParsedBody, model_key: str) -> bool:
    """Unload on every node at once; False when that is no matter of an Ollama's."""
    parts, journal, head = exchange.parts, exchange.journal, exchange.head
    replicas = parts.fleet().replicas.get(model_key, ())
    unloaded = await unload(parts.upstream, replicas, head.path, head.headers, parsed.body)
    if unloaded is None:
        return False
    given, node_ids = unloaded
    journal.status = given.status
    names = node_header(parts.node_name(node_id) for node_id in node_ids)
    exchange.reply.start(given.status, [*given.headers, names, *exchange.more], len(given.body))
    exchange.reply.write(given.body)
    exchange.reply.finish()
    return True


async def _answer(exchange: Exchange, parsed: ParsedBody, request: InferenceRequest) -> None:
    """Attempt after attempt, each on a replica that was granted, until one answers."""
    parts, journal = exchange.parts, exchange.journal
    decision = await parts.dispatcher.grant(request)
    while True:
        candidate = _winner(decision)
        journal.begin(decision, candidate)
        call = prepare_call(exchange.endpoint, exchange.head, parsed, candidate.replica)
        if isinstance(call, LocalAnswer):
            _answer_locally(exchange, call)
            return
        if isinstance(call, ApiError):
            failed: Failed | None = _not_called(exchange, call)
        else:
            failed = await _attempt(exchange, call, candidate)
        if failed is None:
            return
        outcome, held = failed
        if len(journal.attempts) >= parts.max_attempts:
            parts.dispatcher.finished(exchange.request_id, outcome, None)
            raise Exhausted(held)
        try:
            decision = await parts.dispatcher.retry(exchange.request_id, outcome)
        except Refused:
            raise Exhausted(held) from None


async def _attempt(exchange: Exchange, call: Call, candidate: Candidate) -> Failed | None:
    """One try on one replica: None when the client has its answer, else how it failed."""
    upstream, journal = exchange.parts.upstream, exchange.journal
    address = candidate.replica.endpoint
    try:
        connection = await upstream.send(address, call.head, call.body)
    except UpstreamFailed as failure:
        journal.end(failure.outcome, detail=failure.detail)
        return failure.outcome, None
    try:
        status = connection.status
        if status >= 500 and status != 501:  # 501: the model cannot do it, on any node
            outcome = OutcomeKind.ENGINE_BUSY if status == 503 else OutcomeKind.ENGINE_ERROR
            held = await _held(connection, call)
            journal.end(outcome, status=status)
            return outcome, held
        return await _relay(exchange, call, connection)
    finally:
        upstream.release(address, connection)


async def _relay(exchange: Exchange, call: Call, connection: EngineConnection) -> Failed | None:
    """The first byte is here: the route is fixed, and every byte goes to the client."""
    parts, journal, reply = exchange.parts, exchange.journal, exchange.reply
    journal.ttft_ms = journal.since_ms()
    journal.status = connection.status
    parts.dispatcher.first_byte(exchange.request_id)
    relayed = await call.relay(connection, reply, exchange.herd_headers())
    if relayed.failed is not None:  # a translation found out before the client got a byte
        journal.ttft_ms = -1.0
        journal.end(relayed.failed, status=connection.status)
        return relayed.failed, None
    tail = read_tail(
        connection.tail(), call.engine_endpoint, connection.status, is_stream=call.is_stream
    )
    detail = ""
    if connection.status >= 400:
        outcome = OutcomeKind.CLIENT_ERROR
    elif tail.error:
        outcome, detail = OutcomeKind.ENGINE_ERROR, "the engine reported an error in its stream"
    elif not relayed.whole or not tail.complete:
        outcome = OutcomeKind.TRUNCATED
        detail = connection.lost or "the stream ended without its end marker"
        journal.error = outcome.value
    else:
        outcome = OutcomeKind.COMPLETED
    journal.usage = relayed.usage or tail.usage
    journal.end(outcome, status=connection.status, detail=detail)
    if relayed.told or (relayed.whole and outcome is not OutcomeKind.TRUNCATED):
        reply.finish()
    else:
        _end_cut_answer(exchange, call, connection, detail)
    parts.dispatcher.finished(exchange.request_id, outcome, journal.usage)
    return None


def _end_cut_answer(
    exchange: Exchange, call: Call, connection: EngineConnection, detail: str
) -> None:
    """A cut answer must not look whole: an error event in a stream, else a cut connection."""
    reply, endpoint = exchange.reply, exchange.endpoint
    if not call.is_stream or call.framed_by_length:
        reply.abort()
        return
    message = broken_stream(exchange.parts.node_name(exchange.journal.node_id), detail)
    reply.write(stream_error(message, endpoint.dialect, endpoint.path, connection.tail()))
    reply.finish()


async def _held(connection: EngineConnection, call: Call) -> HeldAnswer | None:
    body = await connection.read_all(HELD_ANSWER_BYTES)
    if body is None:
        return None
    return call.failure(connection.status, connection.headers, body)


def _not_called(exchange: Exchange, error: ApiError) -> Failed:
    """The engine was not asked: the request is wrong, or another kind of engine could do it."""
    endpoint = exchange.endpoint
    status, content_type, body = render(error, endpoint.dialect, endpoint.path)
    held = (status, [(b"Content-Type", content_type)], body)
    exchange.journal.end(OutcomeKind.CLIENT_ERROR, status=status, detail=error.code)
    if error.code != ENGINE_LACKS_FEATURE:
        exchange.parts.dispatcher.finished(exchange.request_id, OutcomeKind.CLIENT_ERROR, None)
        raise Exhausted(held)
    return OutcomeKind.CLIENT_ERROR, held


def _pass_on_failure(exchange: Exchange, held: HeldAnswer | None) -> None:
    """When every node failed, the last engine's own words; ours only when it said nothing."""
    parts, journal, reply = exchange.parts, exchange.journal, exchange.reply
    journal.error = journal.attempts[-1].outcome.value
    if held is not None:
        status, engine_headers, body = held
        journal.status = status
        reply.start(status, [*engine_headers, *exchange.herd_headers()], len(body))
        reply.write(body)
        reply.finish()
        return
    names = {attempt.node_id: parts.node_name(attempt.node_id) for attempt in journal.attempts}
    error = attempts_failed(journal.model, journal.attempts, names)
    exchange.refuse(error, herd_headers(journal, parts.node_name))


def _answer_locally(exchange: Exchange, local: LocalAnswer) -> None:
    """Loading on an engine that keeps its model loaded needs no call."""
    journal = exchange.journal
    journal.status = local.status
    journal.ttft_ms = journal.since_ms()
    headers = exchange.herd_headers()
    journal.end(OutcomeKind.COMPLETED, status=local.status)
    exchange.parts.dispatcher.finished(exchange.request_id, OutcomeKind.COMPLETED, None)
    answer(exchange.reply, local.status, local.content_type.encode(), local.body, headers)


def _defect(request_id: str) -> ApiError:
    return ApiError(
        status=500,
        message=f"the herd itself failed on this request; its log says why under {request_id}",
        code="internal_error",
    )


def _forbid(exchange: Exchange) -> None:
    """A foreign page: 403 without a body, as a real Ollama answers (recording 195)."""
    exchange.journal.status = 403
    exchange.journal.error = "foreign_origin"
    exchange.reply.start(403, (), 0)
    exchange.reply.finish()


def _winner(decision: RouteDecision) -> Candidate:
    winner = decision.winner
    if winner is None:
        raise AssertionError("a grant always has a winner")
    return winner


def _request(exchange: Exchange, parsed: ParsedBody) -> InferenceRequest:
    endpoint = exchange.endpoint
    return InferenceRequest(
        request_id=exchange.request_id,
        model=parsed.model,
        model_key=canonical_name(parsed.model),
        kind=endpoint.kind,
        dialect=endpoint.dialect,
        path=endpoint.path,
        arrived_s=exchange.journal.arrived_s,
        stream=parsed.stream,
        prompt_tokens=parsed.prompt_tokens,
        max_tokens=parsed.max_tokens,
        load_options=parsed.load_options,
        client=exchange.head.client,
        priority=_priority(exchange.head),
        fallback_models=parsed.fallback_models,
        is_load_only=parsed.is_load_only,
    )


def _priority(head: RequestHead) -> Priority:
    for name, value in head.headers:
        if name == b"x-herd-priority" and value.strip().lower() == b"batch":
            return Priority.BATCH
    return Priority.INTERACTIVE
