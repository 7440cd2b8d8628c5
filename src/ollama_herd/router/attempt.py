"""One attempt on one replica: the bytes for the engine, and the way of its answer to the client.

Same dialect: the request body and every byte of the answer pass untouched. Another dialect: a
translation from `api.translate` stands between, for this attempt only.
"""

from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, cast

import msgspec

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import ApiError
from ollama_herd.api.lenient import with_num_ctx
from ollama_herd.api.parse import ParsedBody
from ollama_herd.api.tail import is_no_answer
from ollama_herd.api.translate import LocalAnswer, Translation, replace_model, translate
from ollama_herd.api.translate_errors import foreign_error
from ollama_herd.clock import now_s
from ollama_herd.core.node import Endpoint as EngineAddress
from ollama_herd.core.node import EngineKind
from ollama_herd.core.request import Dialect, Kind, OutcomeKind, Usage
from ollama_herd.core.routing import Candidate
from ollama_herd.router.connection import EngineConnection, Patience
from ollama_herd.router.frames import FrameGate
from ollama_herd.router.head import RequestHead, passed_on
from ollama_herd.router.journal import Journal
from ollama_herd.router.keeping import KEPT_BYTES, HeldAnswer, KeptStream
from ollama_herd.router.reply import Headers, Reply
from ollama_herd.router.upstream import LongBody, Upstream

_STREAMS = (b"application/x-ndjson", b"text/event-stream")


NOT_IMPLEMENTED = 501
"""The model cannot do what was asked, on any node."""


_BROKE_OFF = frozenset({OutcomeKind.TRUNCATED, OutcomeKind.SILENT})
"""Failures of which an engine says nothing itself: the client is told on which node, and why."""


class Relayed(msgspec.Struct, frozen=True):
    """How the relaying ended.

    `whole`: the engine ended its answer properly. `told`: the client has read what went wrong.
    `failed`: nothing went to the client, and why. `usage`: counts a translation found. `error`:
    the engine's own last words, held back. `sent`: what a stream's client has got, None when that
    is not known any more; `torn`: it ends within a frame. `status`: the client's, where it is not
    the engine's.
    """

    whole: bool
    told: bool = False
    failed: OutcomeKind | None = None
    usage: Usage | None = None
    error: bytes = b""
    sent: bytes | None = None
    torn: bool = False
    status: int = 0


_WHOLE = Relayed(whole=True)
_GARBAGE = Relayed(whole=False, failed=OutcomeKind.GARBAGE)


class Call(msgspec.Struct, eq=False):
    """What is sent to the engine, and how its answer goes on.

    `long_body` stands for a `body` that is too long to be held. `is_foreign`: no Ollama answers,
    and its answer passes untranslated.
    """

    head: bytes
    body: bytes
    engine_endpoint: Endpoint
    translation: Translation | None = None
    long_body: LongBody | None = None
    is_stream: bool = False
    framed_by_length: bool = False
    is_foreign: bool = False

    @property
    def dialect(self) -> Dialect:
        """Of what the client gets."""
        translation = self.translation
        return self.engine_endpoint.dialect if translation is None else translation.dialect

    def send(
        self, upstream: Upstream, address: EngineAddress, patience: Patience | None = None
    ) -> Coroutine[Any, Any, EngineConnection]:
        """`Upstream.send` of this call."""
        if self.long_body is not None:
            return upstream.send_long(address, self.head, self.long_body, patience)
        return upstream.send(address, self.head, self.body, patience)

    def pass_whole(
        self, connection: EngineConnection, reply: Reply, headers: Callable[[], Headers]
    ) -> Relayed | None:
        """Send an answer on that came in one piece, as short ones do; None where it did not."""
        if not connection.complete or self.translation is not None or connection.length is None:
            return None
        self.is_stream = connection.content_type.startswith(_STREAMS)
        if not self.is_stream and self._is_garbage(connection, connection.first_piece()):
            return _GARBAGE
        self.framed_by_length = True
        reply.start(connection.status, [*connection.headers, *headers()], connection.length)
        connection.relay(reply.write)
        reply.flush()
        return _WHOLE

    async def relay(
        self, connection: EngineConnection, reply: Reply, headers: Callable[[], Headers]
    ) -> Relayed:
        """Send the engine's answer to the client as it comes; the caller finishes the reply.

        `headers` are made when the head is sent: what is not streamed may still be retried.
        """
        if self.translation is not None:
            return await self._translate(self.translation, connection, reply, headers)
        self.is_stream = connection.content_type.startswith(_STREAMS)
        self.framed_by_length = connection.length is not None
        if self.is_stream and not self.framed_by_length:
            return await self._stream(connection, reply, headers)
        return await self._hold(connection, reply, headers)

    async def _stream(
        self, connection: EngineConnection, reply: Reply, headers: Callable[[], Headers]
    ) -> Relayed:
        connection.kept_bytes = KEPT_BYTES
        gate = FrameGate(self.dialect, reply.write)
        reply.start(connection.status, [*connection.headers, *headers()], None)
        reply.draw_from(connection)
        connection.relay(gate.feed)
        reply.flush()
        whole = await connection.ended()
        reply.draw_from(None)
        rest = gate.close()
        if gate.error:
            return Relayed(whole, error=gate.error, sent=connection.kept(), torn=gate.is_torn)
        if whole and rest:
            reply.write(rest)
        return Relayed(whole, sent=connection.kept(), torn=gate.is_torn)

    async def _hold(
        self, connection: EngineConnection, reply: Reply, headers: Callable[[], Headers]
    ) -> Relayed:
        """An engine sends a single answer when it has all of it, so holding it costs no time; one
        that breaks off can then be had from another node.
        """
        held = HeldAnswer(connection, reply, headers)
        connection.beside = held
        connection.relay(held.feed)
        whole = connection.complete or await connection.ended()
        connection.beside = None
        reply.draw_from(None)
        if whole and connection.length is None:
            whole = not held.is_cut()
        if not reply.started:
            if whole and self._is_garbage(connection, held.start()):
                return _GARBAGE
            if not whole:
                failed = OutcomeKind.SILENT if connection.stalled else OutcomeKind.TRUNCATED
                return Relayed(whole=False, failed=failed)
            held.let_go()
        return Relayed(whole)

    def _is_garbage(self, connection: EngineConnection, start: bytes) -> bool:
        """Whether a single answer is none: models answer in JSON but for media."""
        kind = self.engine_endpoint.kind
        is_json = kind is not Kind.SPEECH and kind is not Kind.IMAGE
        return is_json and connection.status == 200 and is_no_answer(start)

    async def _translate(
        self,
        translation: Translation,
        connection: EngineConnection,
        reply: Reply,
        headers: Callable[[], Headers],
    ) -> Relayed:
        """The head goes out with the first translated bytes: until then the status is not final,
        and a failure can be retried elsewhere.
        """
        translation.head(connection.status, connection.content_type.decode("latin-1"))
        said = connection.beside = KeptStream()
        gate = FrameGate(self.dialect, reply.write)

        def begin(length: int | None) -> None:
            content_type = translation.content_type.encode()
            reply.start(translation.status, [(b"Content-Type", content_type), *headers()], length)

        def pump(data: bytes) -> None:
            out = translation.feed(data, now_s())
            if out and (reply.started or translation.failed is None):
                if not reply.started:
                    begin(None)
                said.add(out)
                gate.feed(out)

        reply.draw_from(connection)
        connection.relay(pump)
        whole = connection.complete or await connection.ended()
        reply.draw_from(None)
        rest = translation.end(now_s())
        failed = translation.failed
        if failed is not None and connection.stalled:
            failed = OutcomeKind.SILENT
        is_final = failed is OutcomeKind.CLIENT_ERROR or connection.status == NOT_IMPLEMENTED
        if failed is not None and not reply.started and not is_final:
            return Relayed(whole=False, failed=failed)
        self.is_stream = reply.started
        if not self.is_stream:
            begin(len(rest))
            reply.write(rest)
            status = translation.status
            return Relayed(whole=whole, told=True, usage=translation.usage, status=status)
        if rest:
            gate.feed(rest)
        gate.close()
        return Relayed(
            whole=whole and failed is None,
            usage=translation.usage,
            error=b"" if failed in _BROKE_OFF else gate.error,
            sent=said.whole(),
        )

    def translator(self, connection: EngineConnection) -> Callable[[bytes], bytes]:
        """What turns the engine's body into that of the client's dialect."""
        translation = self.translation
        if translation is None:
            return _as_it_is
        translation.head(connection.status, connection.content_type.decode("latin-1"))
        return lambda data: translation.feed(data, now_s())

    def translated_end(self) -> bytes:
        """The last bytes in the client's dialect, after the engine's last."""
        return b"" if self.translation is None else self.translation.end(now_s())

    @property
    def rephrases(self) -> bool:
        """Whether a refusal of the engine (4xx) is not yet in the client's dialect."""
        return self.is_foreign and self.engine_endpoint.dialect is Dialect.ANTHROPIC

    def failure(self, status: int, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
        """An engine's failed answer, read whole, as its client would see it."""
        translation = self.translation
        if translation is None:
            said = foreign_error(self.engine_endpoint, status, body) if self.is_foreign else None
            if said is None:
                return status, headers, body
            return said[0], [(b"Content-Type", said[1])], said[2]
        translation.head(status, "application/json")
        translated = translation.feed(body, now_s()) + translation.end(now_s())
        content_type = translation.content_type.encode()
        return translation.status, [(b"Content-Type", content_type)], translated


def _as_it_is(data: bytes) -> bytes:
    return data


def prepare_call(
    endpoint: Endpoint,
    head: RequestHead,
    parsed: ParsedBody,
    candidate: Candidate,
    path: bytes = b"",
) -> Call | LocalAnswer | ApiError:
    """The call for this candidate; an answer or an error when no engine is needed to give it.

    `path` when another one than the client's is to be called.
    """
    replica = candidate.replica
    if parsed.media is not None:
        return cast("Call | ApiError", parsed.media(replica))
    raw_path = path or head.path
    headers: Headers = head.headers
    if parsed.unpacked:
        headers = [(name, value) for name, value in headers if name != b"content-encoding"]
    if replica.kind is EngineKind.OLLAMA:
        body = parsed.body
        if candidate.num_ctx:
            body = with_num_ctx(endpoint, body, candidate.num_ctx)
        passed = passed_on(headers) if parsed.unpacked else head.for_engines()
        request_head = _engine_head(b"POST", raw_path, passed, replica.endpoint, len(body))
        return Call(request_head, body, endpoint)
    if endpoint.translatable and not (
        replica.speaks_anthropic and endpoint.dialect is Dialect.ANTHROPIC
    ):
        translation = translate(endpoint, parsed, replica.model.name, now_s())
        if isinstance(translation, (LocalAnswer, ApiError)):
            return translation
        path, body = translation.path.encode(), translation.body
        plain = [(n, v) for n, v in headers if not n.startswith(b"content-")]
        plain.append((b"content-type", b"application/json"))
        return Call(
            engine_head(path, plain, replica.endpoint, len(body)),
            body,
            INFERENCE[path],
            translation=translation,
        )
    body = parsed.body
    if parsed.model != replica.model.name:
        body = replace_model(body, replica.model.name)
    request_head = engine_head(raw_path, headers, replica.endpoint, len(body))
    return Call(request_head, body, endpoint, is_foreign=True)


def engine_head(
    path: bytes,
    headers: Headers,
    address: EngineAddress,
    length: int | None,
    *,
    method: bytes = b"POST",
) -> bytes:
    """Request line and headers for an engine. Without a length the body goes in chunks."""
    return _engine_head(method, path, passed_on(headers), address, length)


def _engine_head(
    method: bytes, path: bytes, passed: bytes, address: EngineAddress, length: int | None
) -> bytes:
    frame = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    host = _host(address)
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n\r\n" % (method, path, host, passed, frame)


def herd_headers(journal: Journal, node_name: Callable[[str], str]) -> list[tuple[bytes, bytes]]:
    """Who really served, after how many attempts and how long a wait, and why there."""
    return [
        (b"X-Herd-Node", header_text(node_name(journal.node_id))),  # name of the node that served
        (b"X-Herd-Attempts", b"%d" % (len(journal.attempts) + 1)),  # replicas tried, this one too
        (b"X-Herd-Queue-Ms", b"%d" % journal.queue_ms),  # ms until a slot was granted
        (b"X-Herd-Reason", journal.reason()),  # why there, in one line
    ]


@lru_cache(maxsize=1024)
def header_text(text: str) -> bytes:
    """Text that can stand in a header, whatever a node calls itself."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text).encode()


@lru_cache(maxsize=1024)
def _host(address: EngineAddress) -> bytes:
    """Through a relay the engine is on its node's loopback, and expects that name."""
    host = "127.0.0.1" if address.tunnel else address.host
    bracketed = f"[{host}]" if ":" in host else host
    return (bracketed if address.tunnel else f"{bracketed}:{address.port}").encode()
