"""Streams an upload to an engine as it comes: nothing is kept, the slower side sets the pace."""

import asyncio

from aiohttp import StreamReader

from ollama_herd.api.errors import body_timeout
from ollama_herd.core.node import Endpoint
from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.asking import MAX_ANSWER_BYTES, EngineAnswer
from ollama_herd.router.attempt import engine_head
from ollama_herd.router.reply import Headers
from ollama_herd.router.slow import BodyRefused
from ollama_herd.router.upstream import UploadConnection, Upstream, UpstreamFailed
from ollama_herd.tasks import cancel_and_wait, spawn

ANSWER_TIMEOUT_S = 600.0
"""After the last byte the engine checks the digest of the whole file from its disk."""


async def upload(
    upstream: Upstream,
    address: Endpoint,
    path: bytes,
    headers: Headers,
    body: "Body",
) -> EngineAnswer:
    """Send a body of any size. An engine that answers before it has read everything (it has the
    file already) is heard at once. Raises UpstreamFailed, and BodyRefused for a client that stops.
    """
    connection = UploadConnection()
    try:
        await upstream.connect(address, connection)
        answered = connection.send(engine_head(path, headers, address, body.length), b"")
        answered.add_done_callback(_retrieve)  # also where nobody waits for it any more
        sending = spawn(body.send_to(connection), name="upload")
        try:
            await asyncio.wait([sending, answered], return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and (refused := sending.result()) is not None:
                raise refused
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await answered
                content = await connection.read_all(MAX_ANSWER_BYTES)
        finally:
            await cancel_and_wait(sending)
    except TimeoutError:
        detail = f"it gave no answer within {ANSWER_TIMEOUT_S:g} s of the last byte"
        raise UpstreamFailed(OutcomeKind.SILENT, detail) from None
    finally:
        connection.close()
    return EngineAnswer(connection.status, tuple(connection.headers), content or b"")


def _retrieve(answered: asyncio.Future[None]) -> None:
    if not answered.cancelled():
        answered.exception()


class Body:
    """A request body on its way. `length` is None when the client sends it in chunks; `idle_s`
    bounds the time in which no byte comes.
    """

    def __init__(self, content: StreamReader, length: int | None, idle_s: float) -> None:
        self.length = length
        self._content = content
        self._idle_s = idle_s

    async def send_to(self, connection: UploadConnection) -> BodyRefused | None:
        """Every piece as it comes; what was wrong with the client's side, if anything."""
        while not self._content.at_eof():
            try:
                async with asyncio.timeout(self._idle_s):
                    data = await self._content.readany()
            except TimeoutError:
                return BodyRefused(body_timeout(self._idle_s))
            except BodyRefused as refused:  # its chunks are malformed
                return refused
            except ConnectionError:
                connection.close()  # the client is gone: the engine must not take it for whole
                return None
            if data and not await connection.write(self._framed(data)):
                return None  # the engine has answered, or is gone: the other side tells
        if self.length is None:
            await connection.write(b"0\r\n\r\n")
        return None

    def _framed(self, data: bytes) -> bytes:
        return data if self.length is not None else b"%x\r\n%b\r\n" % (len(data), data)
