"""One request on its way through the request path, and what that path works with."""

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError, render
from ollama_herd.api.parse import ParsedBody
from ollama_herd.api.wishes import tags_of, trace_parent_of
from ollama_herd.clock import monotonic_s
from ollama_herd.core.abilities import purpose
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.request import Kind, OutcomeKind
from ollama_herd.core.silence import SilenceLimits, first_byte_patience_s, stall_patience_s
from ollama_herd.core.trace import Trace
from ollama_herd.router.attempt import herd_headers
from ollama_herd.router.connection import EngineConnection
from ollama_herd.router.crowd import Rates
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.gate import Gate
from ollama_herd.router.head import RequestHead
from ollama_herd.router.journal import Journal
from ollama_herd.router.keys import KeyRing, Ticket
from ollama_herd.router.reply import Headers, Reply, answer
from ollama_herd.router.upstream import Upstream

FOR_EVER_S = float("inf")

MEDIA_KINDS = frozenset({Kind.IMAGE, Kind.SPEECH})

MEDIA_PATIENCE_S = 900.0
"""A picture on a slow machine and an hour of speech take minutes, and nothing is heard meanwhile;
agents bound their own services."""

OPENING_FRAMES = 3
"""Anthropic's streams open with three events (message, block, ping) before the first token."""

HELD_ANSWER_BYTES = 65536
"""An engine's 5xx is held back up to this size while other nodes are tried."""

HeldAnswer = tuple[int, Headers, bytes]
"""Status, headers and body of an engine that failed, passed on when no other engine is left."""

Failed = tuple[OutcomeKind, HeldAnswer | None]
"""How an attempt failed before the client got a byte, and the engine's own answer if any."""

_run_id = secrets.token_hex(4)
_numbers = itertools.count(1)


@dataclass(slots=True)
class Parts:
    """What the request path works with; built once in `app`, which alone changes it (settings)."""

    dispatcher: Dispatcher
    upstream: Upstream
    put_trace: Callable[[Trace], None]
    node_name: Callable[[str], str]
    fleet: Callable[[], Fleet]
    gate: Gate
    keys: KeyRing
    max_attempts: int
    rates: Rates | None = None
    silence: SilenceLimits = field(default_factory=SilenceLimits)
    continue_streams: bool = True
    fallbacks: bool = True
    priorities: bool = True
    sse_keepalive_s: float = 0.0


class Exhausted(Exception):  # noqa: N818 - an answer to a client, not a defect
    """No attempt led to an answer; `held` is the last engine's own, if it gave one."""

    def __init__(self, held: HeldAnswer | None) -> None:
        super().__init__("every attempt failed")
        self.held = held


class Exchange:
    """One request on its way: what was asked, where the answer goes, what is noted of it.

    `more` are response headers that every answer carries (CORS). `lease` is the id under which
    the dispatcher knows the attempt under way: the request's own, or that of its second try.
    """

    __slots__ = (
        "endpoint",
        "head",
        "journal",
        "lease",
        "more",
        "parsed",
        "parts",
        "reply",
        "ticket",
    )

    def __init__(self, parts: Parts, endpoint: Endpoint, head: RequestHead, reply: Reply) -> None:
        self.parts = parts
        self.endpoint = endpoint
        self.head = head
        self.reply = reply
        self.journal = Journal(f"{_run_id}-{next(_numbers)}", monotonic_s())
        if head.has_wishes:
            self.journal.tags = tags_of(head.headers)
            self.journal.trace_parent = trace_parent_of(head.headers)
        self.lease = self.journal.request_id
        self.more: Headers = ()
        self.parsed: ParsedBody | None = None
        self.ticket: Ticket | None = None  # of the client's API key

    @property
    def request_id(self) -> str:
        return self.journal.request_id

    def herd_headers(self) -> list[tuple[bytes, bytes]]:
        headers = herd_headers(self.journal, self.parts.node_name)
        if self.more:
            headers += self.more
        return headers

    def refuse(self, error: ApiError, more: Headers = ()) -> None:
        """An answer of our own: `error` in the caller's dialect."""
        status, content_type, body = render(error, self.endpoint.dialect, self.endpoint.path)
        self.journal.status = status
        self.journal.error = error.code
        headers = [*self.more, *more]
        if error.retry_after_s:
            headers.append((b"Retry-After", b"%d" % error.retry_after_s))
        if error.status == 401:
            headers.append((b"WWW-Authenticate", b"Bearer"))
        answer(self.reply, status, content_type, body, headers)

    def patience(self, connection: EngineConnection) -> float:
        """How many seconds of silence are nothing to worry about where the attempt is now."""
        limits = self.parts.silence
        if not connection.answered:
            return self.first_byte_patience_s(self.lease)
        if self._is_media:
            return MEDIA_PATIENCE_S
        began_s = max(0.0, self.journal.first_byte_ms) / 1000.0
        elapsed_s = self.journal.since_ms() / 1000.0 - began_s - connection.silent_s
        parsed = self.parsed
        patience_s = stall_patience_s(
            limits,
            connection.pieces,
            elapsed_s,
            is_buffered=parsed is not None and parsed.has_tools,
        )
        if connection.pieces > 1 or connection.frames > OPENING_FRAMES:
            return patience_s
        # Some engines send a head, or a chunk without text, before they have read the prompt.
        expected = self.parts.dispatcher.expectation(self.lease)
        return max(patience_s, first_byte_patience_s(limits, expected, is_whole=self.is_whole))

    def first_byte_patience_s(self, lease: str) -> float:
        """How long to wait for the first byte of an attempt before another one is made."""
        limits = self.parts.silence
        if not limits.hedge:
            return FOR_EVER_S
        if self._is_media:
            return max(limits.hedge_ceiling_s, MEDIA_PATIENCE_S)
        expected = self.parts.dispatcher.expectation(lease)
        return first_byte_patience_s(limits, expected, is_whole=self.is_whole)

    @property
    def _is_media(self) -> bool:
        """Whether a picture or a transcript is made. Ollama's own image models make theirs on its
        path for text, with a silence before the first step and one for each.
        """
        if self.endpoint.kind in MEDIA_KINDS:
            return True
        decision = self.journal.decision
        winner = None if decision is None else decision.winner
        return winner is not None and purpose(winner.replica.model) == Kind.IMAGE

    @property
    def is_whole(self) -> bool:
        """Whether an engine sends nothing of this answer before it has all of it."""
        parsed = self.parsed
        return self.endpoint.kind is Kind.EMBED or (parsed is not None and not parsed.stream)


async def held_answer(
    connection: EngineConnection, rephrase: Callable[..., HeldAnswer]
) -> HeldAnswer | None:
    """The engine's failed answer, for the case that no other engine is left."""
    body = await connection.read_all(HELD_ANSWER_BYTES)
    if body is None:
        return None
    return rephrase(connection.status, connection.headers, body)
