"""A stream that broke off goes on from another node; the client sees one unbroken answer.

The engine that failed gives its slot back, the request is granted another replica of the same
model, and what that one says is sewn to what the client has. Where this is not sound, or no node
is left, the client gets one error event in its dialect.
"""

import msgspec

from ollama_herd.api.continuation import Continuation, Said, continued, read_said, why_not
from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import broken_stream, stream_error
from ollama_herd.api.seam import Seam, seam
from ollama_herd.api.tail import read_tail
from ollama_herd.core.node import Replica
from ollama_herd.core.request import Dialect, OutcomeKind, Usage
from ollama_herd.core.retry import may_retry
from ollama_herd.core.routing import Candidate
from ollama_herd.router.attempt import Call, Relayed, prepare_call
from ollama_herd.router.connection import EngineConnection, UpstreamFailed
from ollama_herd.router.dispatcher import Refused
from ollama_herd.router.exchange import Exchange
from ollama_herd.router.unload import make_room


class Broken:
    """A stream that broke: how, what the client has, and the engine's own last words."""

    __slots__ = ("detail", "error", "outcome", "sent", "torn")

    def __init__(self, outcome: OutcomeKind, detail: str, relayed: Relayed) -> None:
        self.outcome = outcome
        self.detail = detail
        self.error = relayed.error
        self.sent = relayed.sent
        self.torn = relayed.torn


async def go_on(exchange: Exchange, broken: Broken, first: Replica) -> None:
    """Continue the answer on other nodes, or tell the client that it is not whole.

    The attempt that broke is in the journal; its lease is given back here. Ends the reply.
    """
    journal, parts, parsed = exchange.journal, exchange.parts, exchange.parsed
    node = parts.node_name(journal.node_id)
    said = None
    sent = None if broken.torn else broken.sent
    if broken.sent is None and not broken.torn:
        broken.detail = f"{broken.detail}; its beginning was not kept"
    if parts.continue_streams and parsed is not None and sent is not None:
        said = read_said(exchange.endpoint, sent)
        sent = broken.sent = None  # its text is all that is still needed
        reason = why_not(exchange.endpoint, parsed, said)
        if reason:
            broken.detail = f"{broken.detail}; {reason}"
            said = None
    if said is None:
        parts.dispatcher.finished(exchange.lease, broken.outcome, None)
    elif await _Sequel(exchange, said, first).run(broken):
        return
    journal.error = broken.outcome.value
    _tell(exchange, broken, node)


def _tell(exchange: Exchange, broken: Broken, node: str) -> None:
    """One error in the client's dialect, the engine's own where it spoke it."""
    endpoint, reply = exchange.endpoint, exchange.reply
    if broken.error and endpoint.dialect is Dialect.OLLAMA:
        reply.write(broken.error)
    else:
        message = broken_stream(node, broken.detail)
        torn = b"{" if broken.torn else b""
        reply.write(stream_error(message, endpoint.dialect, endpoint.path, torn))
    reply.finish()


class _Sequel:
    """The further parts of one answer."""

    def __init__(self, exchange: Exchange, said: Said, first: Replica) -> None:
        self._exchange = exchange
        self._said = said
        self._first = first
        self._began_ms = max(0.0, exchange.journal.first_byte_ms)

    async def run(self, broken: Broken) -> bool:
        """Whether the client has a whole answer now; `broken` then tells of the last attempt."""
        exchange = self._exchange
        parts, journal = exchange.parts, exchange.journal
        while may_retry(len(journal.attempts), parts.max_attempts):
            try:
                decision = await parts.dispatcher.retry(exchange.lease, broken.outcome)
            except Refused:
                broken.detail += "; no other node could go on"
                return False
            candidate = decision.winner
            if candidate is None:
                raise AssertionError("a grant always has a winner")
            journal.begin(decision, candidate)
            if decision.evicts:
                await make_room(parts.upstream, decision.evicts)
            how, call = self._prepared(candidate)
            if how is None or call is None:
                journal.end(OutcomeKind.CANCELLED, detail="it cannot continue this answer")
                parts.dispatcher.finished(exchange.lease, OutcomeKind.CANCELLED, None)
                return False
            outcome, detail = await self._part(how, call, candidate)
            if outcome is OutcomeKind.COMPLETED:
                journal.continued = True
                journal.end(outcome, status=200)
                exchange.reply.finish()
                parts.dispatcher.finished(exchange.lease, outcome, None)
                return True
            journal.end(outcome, detail=detail)
            broken.outcome, broken.detail = outcome, detail
            if outcome is OutcomeKind.CLIENT_ERROR:
                break
        parts.dispatcher.finished(exchange.lease, broken.outcome, None)
        return False

    def _prepared(self, candidate: Candidate) -> tuple[Continuation | None, Call | None]:
        """How that replica goes on; nothing when it cannot, or is not the same model."""
        exchange, replica = self._exchange, candidate.replica
        if exchange.parsed is None or replica.model.digest != self._first.model.digest:
            return None, None
        how = continued(exchange.endpoint, exchange.parsed, self._said, replica.kind)
        if how is None:
            return None, None
        path = how.endpoint.path.encode()
        call = prepare_call(how.endpoint, exchange.head, how.parsed, candidate, path)
        return (how, call) if isinstance(call, Call) else (None, None)

    async def _part(
        self, how: Continuation, call: Call, candidate: Candidate
    ) -> tuple[OutcomeKind, str]:
        """One further part; how it ended and why."""
        exchange = self._exchange
        upstream, address = exchange.parts.upstream, candidate.replica.endpoint
        try:
            connection = await upstream.send(address, call.head, call.body, exchange.patience)
        except UpstreamFailed as failure:
            return failure.outcome, failure.detail
        try:
            if not connection.answered:
                return OutcomeKind.SILENT, "no first byte"
            if connection.status >= 500:
                return OutcomeKind.ENGINE_ERROR, f"it answered {connection.status}"
            if connection.status >= 400:
                return OutcomeKind.CLIENT_ERROR, f"it answered {connection.status}"
            return await self._sew(how, call, connection)
        finally:
            upstream.release(address, connection)

    async def _sew(
        self, how: Continuation, call: Call, connection: EngineConnection
    ) -> tuple[OutcomeKind, str]:
        exchange = self._exchange
        journal, reply = exchange.journal, exchange.reply
        journal.first_byte()
        exchange.parts.dispatcher.first_byte(exchange.lease)
        first_part_s = (journal.since_ms() - self._began_ms) / 1000.0
        sewing = seam(exchange.endpoint, how, self._said, first_part_s)
        translated = call.translator(connection)

        def pump(data: bytes) -> None:
            out = sewing.feed(translated(data))
            if out:
                reply.write(out)
            if sewing.failed:
                connection.close()

        reply.draw_from(connection)
        connection.relay(pump)
        whole = connection.complete or await connection.ended()
        reply.draw_from(None)
        rest = sewing.feed(call.translated_end())
        if rest:
            reply.write(rest)
        self._said = sewing.said()
        if sewing.is_done:
            journal.usage = self._usage(call, connection, sewing)
            return OutcomeKind.COMPLETED, ""
        return _why(sewing, connection, whole=whole)

    def _usage(self, call: Call, connection: EngineConnection, sewing: Seam) -> Usage | None:
        endpoint: Endpoint = call.engine_endpoint
        usage = read_tail(connection.tail(), endpoint, connection.status, is_stream=True).usage
        counts = sewing.counts(usage.prompt_tokens, usage.output_tokens) if usage else None
        if usage is None or counts is None:
            return usage
        prompt, output = counts
        return msgspec.structs.replace(usage, prompt_tokens=prompt, output_tokens=output)


def _why(sewing: Seam, connection: EngineConnection, *, whole: bool) -> tuple[OutcomeKind, str]:
    if connection.stalled:
        return OutcomeKind.SILENT, connection.lost or "stalled"
    if sewing.failed:
        return OutcomeKind.ENGINE_ERROR, sewing.failed
    detail = "the stream ended without its end marker" if whole else connection.lost
    return OutcomeKind.TRUNCATED, detail or "the connection was lost"
