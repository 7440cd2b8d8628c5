"""Heads of requests and answers: read once a connection, not once a request, where it can be.

On a connection the same head comes again and again, but for the length of the body. It was found
sound when it came first, and is known by its bytes.
"""

from collections.abc import Callable

import httptools

from ollama_herd.api.errors import ApiError
from ollama_herd.api.wishes import FOR_THE_HERD
from ollama_herd.router.reply import HOP_BY_HOP, Headers

NOT_FOR_ENGINES = HOP_BY_HOP | {
    b"host",  # the engine's own: Ollama on loopback refuses a foreign one
    b"origin",  # the herd answers CORS itself
    b"content-length",
    b"expect",
    b"authorization",  # the client's key is for the herd, the engine's is ours
    b"x-api-key",
    b"cookie",
    b"http2-settings",  # of an offer to go over to HTTP/2, which the herd does not take up
}
"""Request headers that stop here; all others reach the engine."""

LENGTH_DIGITS = 12
"""Of a remembered head's next length; a longer one is read anew, and refused."""

Gate = Callable[[Headers, str], Headers | ApiError]

_HANDED_OVER = frozenset({b"transfer-encoding", b"expect"})
_NOTED = _HANDED_OVER | FOR_THE_HERD
_LENGTH = b"\r\ncontent-length:"


class RequestHead:
    """Path, headers and client of one request, as far as the request path needs them."""

    __slots__ = (
        "_allowed",
        "_for_engines",
        "client",
        "encoding",
        "has_wishes",
        "headers",
        "is_addressed",
        "length",
        "odd",
        "path",
    )

    def __init__(self, client: str) -> None:
        self.client = client
        self.path = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.length = 0
        self.encoding = ""
        self.odd = False
        self.has_wishes = False  # headers that are meant for the herd
        self.is_addressed = False  # it names a host
        self._for_engines: bytes | None = None
        self._allowed: Headers | ApiError | None = None

    def allowed_by(self, gate: Gate) -> Headers | ApiError:
        """The verdict of the router's one gate, which does not change; asked once."""
        if self._allowed is None:
            self._allowed = gate(self.headers, self.client)
        return self._allowed

    def for_engines(self) -> bytes:
        """The headers that go on to an engine, as they stand in a head."""
        if self._for_engines is None:
            self._for_engines = passed_on(self.headers)
        return self._for_engines

    # httptools callbacks
    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"content-length":
            self.length = int(value)
        elif lower == b"content-encoding":
            self.encoding = value.decode("latin-1").strip().lower()
        elif lower == b"host":
            self.is_addressed = True
        elif lower in _NOTED:
            if lower in FOR_THE_HERD:
                self.has_wishes = True
            else:
                self.odd = True
        self.headers.append((lower, value))


def passed_on(headers: Headers) -> bytes:
    """Those of the client's headers that engines get, each with its line's end."""
    parts: list[bytes] = []
    for name, value in headers:
        if name not in NOT_FOR_ENGINES and not name.startswith(b"x-herd-"):
            parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


class KnownHead:
    """The bytes of a head that was read before, but for the length of the body it announces."""

    __slots__ = ("_digits_at", "_rest", "_rest_bytes", "_start", "length")

    def __init__(self) -> None:
        self._start = b""  # up to its length
        self._digits_at = 0
        self._rest = b""  # behind its length
        self._rest_bytes = 0
        self.length = 0

    def learn(self, head: bytes) -> None:
        """Remember a head that a parser found sound; one without a plain length is forgotten."""
        self._start = b""
        lower = head.lower()
        at = lower.find(_LENGTH)
        if at < 0 or lower.find(_LENGTH, at + 1) >= 0:
            return
        at += len(_LENGTH)
        if head[at : at + 1] == b" ":
            at += 1
        line_end = head.find(b"\r\n", at)
        if head[at:line_end].isdigit():
            self._start, self._rest = head[:at], head[line_end:]
            self._digits_at, self._rest_bytes = at, len(self._rest)

    def end_in(self, data: bytes) -> int:
        """Where the body begins in `data` when it starts with this head, `length` then being that
        of the body; 0 when it starts otherwise.
        """
        start = self._start
        if not start or not data.startswith(start):
            return 0
        at = self._digits_at
        line_end = data.find(b"\r\n", at, at + LENGTH_DIGITS)
        digits = data[at:line_end]
        if line_end < 0 or not digits.isdigit() or not data.startswith(self._rest, line_end):
            return 0
        self.length = int(digits)
        return line_end + self._rest_bytes


class HeadReader:
    """Reads the heads of one connection. `keeps_alive` is about the last one."""

    __slots__ = ("_client", "_head", "_known", "keeps_alive")

    def __init__(self, client: str) -> None:
        self._client = client
        self._known = KnownHead()
        self._head: RequestHead | None = None
        self.keeps_alive = True

    def known_end(self, data: bytes) -> int:
        """Where the head at the start of `data` ends if it is the last one again, else 0."""
        return self._known.end_in(data)

    def again(self) -> RequestHead | None:
        """The last head with the length that `known_end` found."""
        if self._head is not None:
            self._head.length = self._known.length
        return self._head

    def read(self, data: bytes) -> RequestHead | None:
        """The head that `data` is; None for one that the data plane does not serve."""
        head = RequestHead(self._client)
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # Java's client offers HTTP/2 with its first request
            pass  # no server has to take it up (RFC 9110 §7.8): the answer is HTTP/1.1
        except httptools.HttpParserError:
            return None
        if head.odd or not head.is_addressed or parser.get_http_version() != "1.1":
            return None
        self.keeps_alive = parser.should_keep_alive()
        self._known.learn(data)
        self._head = head
        return head
