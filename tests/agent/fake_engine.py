"""An engine on a real socket that answers with recorded bytes, and can hang, fail and die."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ollama_herd.clock import monotonic_s
from ollama_herd.engines.address import EngineAddress
from ollama_herd.engines.probe import EngineFailure
from tests.pace import in_time

GOLDEN = Path(__file__).parent / "golden"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 18\r\n\r\n"


def recorded(name: str) -> bytes:
    """The bytes of a recorded response."""
    content = (GOLDEN / f"{name}.txt").read_bytes()
    response = content.partition(b"##### RESPONSE (raw)\n")[2]
    return response.rpartition(b"\n\n##### NOTES")[0]


def json_answer(body: str, status: str = "200 OK") -> bytes:
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


def body_of(response: bytes) -> bytes:
    """The body of a recorded response without its framing."""
    head, _, body = response.partition(b"\r\n\r\n")
    if b"Transfer-Encoding: chunked" not in head:
        return body
    plain = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return plain
        plain, body = plain + body[:count], body[count + 2 :]


OLLAMA = {
    "/api/version": recorded("ollama_003_get_version"),
    "/api/tags": recorded("ollama_005_get_tags"),
    "/api/ps": recorded("ollama_021_ps_one"),
    "/api/show": recorded("ollama_012_show"),
    "/fleet/status": NOT_FOUND + b"404 page not found",
}
LLAMACPP = {
    "/api/version": recorded("llamacpp_010_get_api_version"),
    "/health": recorded("llamacpp_000_get_health"),
    "/v1/models": recorded("llamacpp_002_get_v1_models"),
    "/props": recorded("llamacpp_004_get_props"),
}


class FakeEngine:
    """`answers` are raw responses by path; a path in `hanging` gets no answer, one in `closing`
    ends its connection."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = dict(answers)
        self.hanging: set[str] = set()
        self.closing: set[str] = set()
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task] = set()

    @property
    def address(self) -> EngineAddress:
        return EngineAddress("127.0.0.1", self.port)

    async def start(self, host: str = "127.0.0.1") -> None:
        """Listen; again on the same port after `stop`."""
        self._server = await asyncio.start_server(self._serve, host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Die: nothing listens any more, connections are cut."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        self.bodies.append(await reader.readexactly(int(length or 0)))
        self.asked.append(path)
        if path in self.hanging:
            await asyncio.Event().wait()
        answer = self.answers.get(path, NOT_FOUND + b"404 page not found")
        writer.write(answer)
        await writer.drain()
        return path not in self.closing and b"Connection: close" not in answer


@asynccontextmanager
async def engine_running(answers: dict[str, bytes]) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(answers)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> float:
    """Seconds until `holds`; fails when it does not in time."""
    started_s = monotonic_s()
    while not holds():
        assert in_time(monotonic_s() - started_s, within_s), "did not happen in time"
        await asyncio.sleep(0.002)
    return monotonic_s() - started_s


def refusal(parse: Callable[[], object]) -> str | None:
    """The reason for which an answer is refused, None when it is read."""
    try:
        parse()
    except EngineFailure as failure:
        return str(failure)
    return None
