"""The one request path, whatever the endpoint:

parse → grant of a slot (decide, queue) → attempt → first byte commits → relay → trace.

Endpoints differ by their row in `api.endpoints`, dialects by the translation an attempt needs.
"""

import asyncio

import msgspec
import structlog

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError, attempts_failed, refused, render
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.api.tail import Tail, read_tail
from ollama_herd.api.translate import ENGINE_LACKS_FEATURE, LocalAnswer, replace_model
from ollama_herd.api.wishes import priority_of
from ollama_herd.core.names import KEPT_CHARS, canonical_name
from ollama_herd.core.node import Replica
from ollama_herd.core.request import InferenceRequest, OutcomeKind, Priority, RefusalKind
from ollama_herd.core.retry import failing_status, may_retry
from ollama_herd.core.routing import Candidate, RouteDecision
from ollama_herd.router.asking import node_header
from ollama_herd.router.attempt import Call, Relayed, header_text, herd_headers, prepare_call
from ollama_herd.router.connection import EngineConnection, UpstreamFailed
from ollama_herd.router.continuation import Broken, go_on
from ollama_herd.router.dispatcher import Refused
from ollama_herd.router.exchange import (
    Exchange,
    Exhausted,
    Failed,
    HeldAnswer,
    Parts,
    held_answer,
)
from ollama_herd.router.head import RequestHead
from ollama_herd.router.hedge import Contender, race
from ollama_herd.router.keepalive import KeptAlive, keep_alive
from ollama_herd.router.reply import Reply, answer
from ollama_herd.router.unload import make_room, unload

__all__ = ["Parts", "serve"]

_log = structlog.get_logger(__name__)


async def serve(
    parts: Parts,
    endpoint: Endpoint,
    head: RequestHead,
    body: bytes | ParsedBody | ApiError,
    reply: Reply,
) -> None:
    """Answer one request; exactly one trace is written, however it ends.

    `body` is as it came, or what another reader made of it (`router.media`).
    """
    exchange = Exchange(parts, endpoint, head, reply)
    journal = exchange.journal
    try:
        parsed = _admitted(exchange, body)
        if parsed is None:
            return
        request = _take(exchange, parsed)
        if parsed.is_unload and await _unload(exchange, parsed, request.model_key):
            return
        if parsed.fallback_models:
            await _answer_or_fall_back(exchange, parsed, request)
        else:
            await _answer(exchange, parsed, request)
    except Refused as refusal:
        journal.refused(refusal)
        exchange.refuse(refused(refusal.refusal, journal.model, endpoint))
    except Exhausted as exhausted:
        _pass_on_failure(exchange, exhausted.held)
    except asyncio.CancelledError:
        journal.error = journal.error or "client_left"
        journal.end(OutcomeKind.CANCELLED, detail="the client left")
        parts.dispatcher.cancelled(exchange.lease)
        raise
    except Exception as failure:  # noqa: BLE001 - the request boundary: a defect costs one request
        _log.exception("request failed", request_id=exchange.request_id)
        journal.end(OutcomeKind.ENGINE_ERROR, detail=type(failure).__name__)
        parts.dispatcher.cancelled(exchange.lease)
        if exchange.reply.started:
            exchange.reply.abort()
        else:
            exchange.refuse(_defect(exchange.request_id))
    finally:
        _let_go(exchange)
        parts.put_trace(journal.trace(endpoint, head.client))


def _take(exchange: Exchange, parsed: ParsedBody) -> InferenceRequest:
    """The request as its trace will have it."""
    journal = exchange.journal
    journal.tags += parsed.tags
    journal.request = request = _request(exchange, parsed)
    return request


def _let_go(exchange: Exchange) -> None:
    """End what goes along with a request."""
    if isinstance(exchange.reply, KeptAlive):
        exchange.reply.close()
    if exchange.ticket is not None:
        exchange.ticket.close(exchange.journal.usage)


def _admitted(exchange: Exchange, body: bytes | ParsedBody | ApiError) -> ParsedBody | None:
    """What is asked for; None when it may not be, or cannot be read: the client was told why."""
    parts, head = exchange.parts, exchange.head
    allowed = head.allowed_by(parts.gate)
    if isinstance(allowed, ApiError):
        exchange.refuse(allowed)
        return None
    exchange.more = allowed
    if parts.rates is not None and (refusal := parts.rates.refusal(head.client)) is not None:
        exchange.refuse(refusal)
        return None
    caller = parts.keys.caller(head.headers) if parts.keys.are_needed else None
    if isinstance(caller, ApiError):
        exchange.refuse(caller)
        return None
    parsed = body
    if isinstance(parsed, bytes):
        parsed = read_request(exchange.endpoint, parsed, head.encoding)
    if isinstance(parsed, ApiError):
        exchange.refuse(parsed)
        return None
    if caller is not None:
        exchange.journal.key_name = caller.key.name
        ticket = caller.begin(parsed)
        if isinstance(ticket, ApiError):
            _take(exchange, parsed)  # its trace tells what the key was not good for
            exchange.refuse(ticket)
            return None
        exchange.ticket = ticket
    if parts.sse_keepalive_s:
        keep_alive(exchange, parsed, parts.sse_keepalive_s)
    return parsed


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
    if not exchange.parts.fallbacks:
        return False
    more = exchange.more
    for name in parsed.fallback_models:
        body = replace_model(parsed.body, name) if parsed.body else b""
        other = msgspec.structs.replace(parsed, model=name, body=body, fallback_models=())
        key = canonical_name(name)
        text = header_text(name[:KEPT_CHARS])  # no model has a longer one
        served = (b"X-Herd-Model", text)  # the fallback that answered, if one did
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


_FALLS_BACK = frozenset(
    {
        RefusalKind.UNKNOWN_MODEL,
        RefusalKind.NO_NODE,
        RefusalKind.WRONG_KIND,
        RefusalKind.CLOUD_MODEL,
    }
)


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
    exchange.parsed = parsed
    granted = parts.dispatcher.grant(request)
    decision = granted if isinstance(granted, RouteDecision) else await granted
    while True:
        candidate = decision.candidates[0]  # a grant always has a winner
        journal.begin(decision, candidate)
        if decision.evicts:
            await make_room(parts.upstream, decision.evicts)
        call = prepare_call(exchange.endpoint, exchange.head, parsed, candidate)
        if isinstance(call, LocalAnswer):
            _answer_locally(exchange, call)
            return
        if isinstance(call, ApiError):
            failed: Failed | None = _not_called(exchange, call)
        else:
            failed = await _attempt(exchange, call, decision, candidate)
        if failed is None:
            return
        outcome, held = failed
        if not may_retry(len(journal.attempts), parts.max_attempts):
            parts.dispatcher.finished(exchange.lease, outcome, None)
            raise Exhausted(held)
        try:
            decision = await parts.dispatcher.retry(exchange.lease, outcome)
        except Refused:
            raise Exhausted(held) from None


async def _attempt(
    exchange: Exchange, call: Call, decision: RouteDecision, candidate: Candidate
) -> Failed | None:
    """One try on one replica, or on two when the first is silent: None when the client has its
    answer, else how it failed.
    """
    upstream, journal = exchange.parts.upstream, exchange.journal
    replica = candidate.replica
    try:
        connection = await call.send(upstream, replica.endpoint, exchange.patience)
    except UpstreamFailed as failure:
        journal.end(failure.outcome, detail=failure.detail)
        return failure.outcome, None
    if not connection.answered:
        elder = Contender(exchange.lease, decision, candidate, call, journal.attempt_ms, connection)
        won = await race(exchange, elder)
        if not isinstance(won, Contender) or won.connection is None:
            return won if isinstance(won, tuple) else None
        call, replica, connection = won.call, won.candidate.replica, won.connection
        connection.patience = exchange.patience
    try:
        outcome = failing_status(connection.status)
        if outcome is not None:
            held = await held_answer(connection, call.failure)
            journal.end(outcome, status=connection.status)
            return outcome, held
        if connection.status >= 400 and call.rephrases:
            return await _rephrase(exchange, call, connection)
        return await _relay(exchange, call, connection, replica)
    finally:
        upstream.release(replica.endpoint, connection)


async def _rephrase(exchange: Exchange, call: Call, connection: EngineConnection) -> Failed:
    """The engine refuses the request (4xx) in words that the client does not read."""
    held = await held_answer(connection, call.failure)
    if held is None:
        exchange.journal.end(OutcomeKind.TRUNCATED, detail=CUT_ANSWER)
        return OutcomeKind.TRUNCATED, None
    exchange.journal.end(OutcomeKind.CLIENT_ERROR, status=connection.status)
    exchange.parts.dispatcher.finished(exchange.lease, OutcomeKind.CLIENT_ERROR, None)
    raise Exhausted(held)


async def _relay(
    exchange: Exchange, call: Call, connection: EngineConnection, replica: Replica
) -> Failed | None:
    """The first byte is here: the route is fixed, and every byte goes to the client."""
    parts, journal, reply = exchange.parts, exchange.journal, exchange.reply
    status = connection.status
    journal.first_byte()
    journal.status = status
    relayed = call.pass_whole(connection, reply, exchange.herd_headers)
    at_once = relayed is not None
    if relayed is None:
        parts.dispatcher.first_byte(exchange.lease)
        relayed = await call.relay(connection, reply, exchange.herd_headers)
    if relayed.failed is not None:  # nothing of it went to the client
        journal.no_byte()
        is_garbage = relayed.failed is OutcomeKind.GARBAGE
        detail = NO_ANSWER if is_garbage else connection.lost or CUT_ANSWER
        journal.end(relayed.failed, status=status, detail=detail)
        return relayed.failed, None
    tail = read_tail(connection.tail(), call.engine_endpoint, status, is_stream=call.is_stream)
    journal.usage = relayed.usage or tail.usage
    status = journal.status = relayed.status or status
    if status >= 400:
        outcome, detail = OutcomeKind.CLIENT_ERROR, ""
    else:
        outcome, detail = _ending(connection, relayed, tail)
    journal.end(outcome, status=status, detail=detail)
    if outcome in _ANSWERED and (relayed.whole or relayed.told):
        reply.finish()
        parts.dispatcher.finished(exchange.lease, outcome, journal.usage, at_once=at_once)
    elif call.is_stream and not call.framed_by_length:
        await go_on(exchange, Broken(outcome, detail, relayed), replica)
    else:  # an answer with a length that is cut must not look whole
        journal.error = outcome.value
        reply.abort()
        parts.dispatcher.finished(exchange.lease, outcome, None, at_once=at_once)
    return None


CUT_ANSWER = "the answer stops in its middle"
NO_ANSWER = "the answer is no JSON"

_ANSWERED = frozenset({OutcomeKind.COMPLETED, OutcomeKind.CLIENT_ERROR})


def _ending(connection: EngineConnection, relayed: Relayed, tail: Tail) -> tuple[OutcomeKind, str]:
    """How an answer ended that had begun well, and what was wrong with it."""
    if connection.stalled:
        return OutcomeKind.SILENT, connection.lost or "the stream stalled"
    if tail.error or relayed.error:
        return OutcomeKind.ENGINE_ERROR, "the engine reported an error in its stream"
    if not relayed.whole or not tail.complete:
        return OutcomeKind.TRUNCATED, connection.lost or "the stream ended without its end marker"
    return OutcomeKind.COMPLETED, ""


def _not_called(exchange: Exchange, error: ApiError) -> Failed:
    """The engine was not asked: the request is wrong, or another kind of engine could do it."""
    endpoint = exchange.endpoint
    status, content_type, body = render(error, endpoint.dialect, endpoint.path)
    held = (status, [(b"Content-Type", content_type)], body)
    exchange.journal.end(OutcomeKind.CLIENT_ERROR, status=status, detail=error.code)
    if error.code != ENGINE_LACKS_FEATURE:
        exchange.parts.dispatcher.finished(exchange.lease, OutcomeKind.CLIENT_ERROR, None)
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
    journal.first_byte()
    headers = exchange.herd_headers()
    journal.end(OutcomeKind.COMPLETED, status=local.status)
    exchange.parts.dispatcher.finished(exchange.lease, OutcomeKind.COMPLETED, None)
    answer(exchange.reply, local.status, local.content_type.encode(), local.body, headers)


def _defect(request_id: str) -> ApiError:
    return ApiError(
        status=500,
        message=f"the herd itself failed on this request; its log says why under {request_id}",
        code="internal_error",
    )


def _request(exchange: Exchange, parsed: ParsedBody) -> InferenceRequest:
    endpoint, head = exchange.endpoint, exchange.head
    ticket = exchange.ticket
    heeded = head.has_wishes and exchange.parts.priorities
    priority = priority_of(head.headers) if heeded else Priority.INTERACTIVE
    journal, model = exchange.journal, parsed.model
    return InferenceRequest(  # values by position: by name they would take three times as long
        journal.request_id,
        model,
        canonical_name(model),
        endpoint.kind,
        endpoint.dialect,
        endpoint.path,
        journal.arrived_s,
        parsed.stream,
        parsed.prompt_tokens,
        parsed.max_tokens,
        parsed.load_options,
        head.client,
        priority if ticket is None else ticket.key.priority(priority),
        parsed.fallback_models,
        parsed.is_load_only,
        parsed.prefix,
        parsed.work,
        parsed.keep_alive_s,
    )
