"""The control plane's calls to engines: one request, one whole answer, always with a bound.

Each call has a connection of its own: a change must never be sent twice because a pooled
connection turned out to be dead.
"""

import asyncio
from collections.abc import Iterable

import msgspec

from ollama_herd.core.node import Endpoint as EngineAddress
from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.attempt import engine_head, header_text
from ollama_herd.router.reply import Headers
from ollama_herd.router.upstream import Upstream, UpstreamFailed

ASK_TIMEOUT_S = 60.0
"""For what an engine does on its disk: deleting 400 GB of blobs takes seconds."""

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""A list of 2,000 models is about 1 MB."""

PLAIN_HEADERS: Headers = ((b"content-type", b"application/json"),)


class EngineAnswer(msgspec.Struct, frozen=True):
    """An engine's whole answer. `headers` are those that may go on to a client."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def content_type(self) -> bytes:
        """Of the body, b"" when it has none."""
        return next((v for n, v in self.headers if n.lower() == b"content-type"), b"")

    @property
    def error(self) -> str:
        """The text of an Ollama error, "" when this is none."""
        return error_text(self.body) if self.status >= 400 else ""


async def ask(
    upstream: Upstream,
    address: EngineAddress,
    method: bytes,
    path: bytes,
    body: bytes = b"",
    *,
    headers: Headers = PLAIN_HEADERS,
    timeout_s: float = ASK_TIMEOUT_S,
    limit_bytes: int = MAX_ANSWER_BYTES,
) -> EngineAnswer:
    """Send a request and read its whole answer. Raises UpstreamFailed."""
    head = engine_head(path, headers, address, len(body), method=method)
    try:
        async with asyncio.timeout(timeout_s):
            connection = await upstream.connect(address)
            try:
                await connection.send(head, body)
                has_body = method != b"HEAD" and connection.status not in (204, 304)
                answer = await connection.read_all(limit_bytes) if has_body else b""
            finally:
                connection.close()
    except TimeoutError:
        detail = f"it gave no answer within {timeout_s:g} s"
        raise UpstreamFailed(OutcomeKind.SILENT, detail) from None
    if answer is None:
        long = f"its answer has more than {limit_bytes} bytes"
        detail = long if connection.complete else "its answer broke off"
        raise UpstreamFailed(OutcomeKind.TRUNCATED, detail)
    return EngineAnswer(connection.status, tuple(connection.headers), answer)


class _Error(msgspec.Struct):
    error: str = ""


def error_text(body: bytes) -> str:
    """The text of an Ollama error body; what is no JSON stands for itself, shortened."""
    try:
        return msgspec.json.decode(body, type=_Error).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body[:300].decode("utf-8", "replace").strip()


def node_header(names: Iterable[str]) -> tuple[bytes, bytes]:
    """`X-Herd-Node` for an answer that one node or several have given."""
    return b"X-Herd-Node", header_text(", ".join(names))
