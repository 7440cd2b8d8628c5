"""An engine that answers with recorded response bytes, cut into any pieces: for pass-through tests.

Only the inference paths are replayed; what an agent probes is answered from a fake Ollama's
catalogue, so that a herd routes to it.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.generation import PATHS
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Response
from tests.fakes.recordings import Recording
from tests.fakes.wire import Reply, Request

Splitter = Callable[[bytes], Iterator[bytes]]


class ReplayEngine(FakeOllama):
    """Answers the next inference requests with `load`ed recordings, in order.

    `seen` are the requests as they arrived at the engine.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._queue: list[tuple[bytes, Splitter]] = []
        self.seen: list[Request] = []

    def load(self, recording: Recording, split: Splitter) -> None:
        """The next inference request gets this response."""
        self._queue.append((recording.response, split))

    def clear(self) -> None:
        """Forget what was loaded and seen."""
        self._queue.clear()
        self.seen.clear()

    async def _answer(self, request: Request, reply: Reply) -> None:
        if request.path not in PATHS or not self._queue or _makes_room(request):
            await super()._answer(request, reply)
            return
        self.seen.append(request)
        response, split = self._queue.pop(0)
        for piece in split(response):
            await reply.piece(piece)
        if parse_response(response, request.method).framing == "close":
            reply.close()


def _makes_room(request: Request) -> bool:
    """Whether the herd unloads another model by itself, before what is to be replayed; it writes
    JSON without spaces, unlike the recorded clients.
    """
    return request.body.endswith(b'","keep_alive":0}')


def whole(data: bytes) -> Iterator[bytes]:
    """All in one write."""
    yield data


def every(size: int) -> Splitter:
    """Pieces of a fixed size; 1 is byte by byte."""

    def split(data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]

    return split


def at_random(seed: int) -> Splitter:
    """Pieces of 1 to 200 bytes, the same for the same seed."""

    def split(data: bytes) -> Iterator[bytes]:
        sizes = random.Random(seed)
        start = 0
        while start < len(data):
            size = sizes.randint(1, 200)
            yield data[start : start + size]
            start += size

    return split


def parse_response(data: bytes, method: str = "GET") -> Response:
    """A recorded response taken apart. Interim 100s are skipped."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    _, status, *reason = first.split(" ", 2)
    if status == "100":
        return parse_response(rest, method)
    headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in lines)]
    response = Response(int(status), reason[0] if reason else "", headers, "close")
    if "chunked" in response.header("transfer-encoding"):
        response.framing = "chunked"
        response.chunks = list(_chunks(rest))
        response.is_whole = rest.endswith(b"0\r\n\r\n")
        response.body = b"".join(response.chunks)
        return response
    if response.header("content-length"):
        response.framing = "length"
    response.body = b"" if method == "HEAD" else rest
    response.is_whole = True
    return response


def _chunks(data: bytes) -> Iterator[bytes]:
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16) if line else 0
        if size == 0:
            return
        yield data[:size]
        data = data[size + 2 :]
