"""One call carried out by several engines at once, their progress merged into one stream."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from ollama_herd.api.gojson import encode_string
from ollama_herd.api.progress import BROKEN_OFF, Progress
from ollama_herd.core.node import Endpoint
from ollama_herd.router.asking import MAX_ANSWER_BYTES, EngineAnswer, error_text
from ollama_herd.router.attempt import engine_head
from ollama_herd.router.models.targets import Target, names_of
from ollama_herd.router.reply import Headers
from ollama_herd.router.upstream import EngineConnection, Upstream, UpstreamFailed
from ollama_herd.tasks import cancel_and_wait, spawn

LOOK_S = 1.0
"""How often it is checked that the nodes are still there: a machine that loses its power does
not close its connections."""

JSON = (b"Content-Type", b"application/json")
SUCCESS = b'{"status":"success"}'


class Call(msgspec.Struct, frozen=True):
    """What every engine is sent."""

    path: bytes
    headers: Headers
    body: bytes

    def head(self, address: Endpoint) -> bytes:
        return engine_head(self.path, self.headers, address, len(self.body))


class FanOut:
    """Give `run` what takes the merged lines; afterwards `succeeded` and `answer` tell the rest.

    As a `Source` it pauses and resumes all engines. Cancelling `run` closes every connection at
    once: an engine whose client is gone stops.
    """

    def __init__(
        self,
        upstream: Upstream,
        targets: Sequence[Target],
        call: Call,
        is_usable: Callable[[Target], bool],
    ) -> None:
        self._upstream = upstream
        self._targets = targets
        self._call = call
        self._is_usable = is_usable
        self._progress = Progress([target.name for target in targets])
        self._open: dict[int, EngineConnection] = {}
        self._refusals: dict[int, EngineAnswer] = {}
        self._is_paused = False
        self._take: Callable[[bytes], None] = _ignore

    async def run(self, take: Callable[[bytes], None]) -> None:
        """Until every engine has ended, one way or another."""
        self._take = take
        working = [
            spawn(self._carry_out(index, target), name=f"{self._call.path.decode()} {target.name}")
            for index, target in enumerate(self._targets)
        ]
        watching = spawn(self._watch(working), name="watch nodes")
        try:
            await asyncio.wait(working)
        finally:
            await cancel_and_wait(watching, *working)

    def succeeded(self) -> list[Target]:
        """The engines that have done it."""
        return [self._targets[index] for index in self._progress.succeeded()]

    def names(self) -> list[str]:
        """Of the nodes that were asked."""
        return names_of(self._targets)

    def last_line(self) -> bytes:
        """The end of the merged stream: success or an error."""
        return self._progress.finish()

    def answer(self) -> EngineAnswer:
        """The whole as one answer, for a call without a stream, and for one that was refused
        before the first line. Refusals on which all engines agree are passed on as they are.
        """
        if not self._progress.has_failed:
            return EngineAnswer(200, (JSON,), SUCCESS)
        refusals = list(self._refusals.values())
        if len(refusals) == len(self._targets):
            first = refusals[0]
            if all((r.status, r.body) == (first.status, first.body) for r in refusals):
                return first
        status = 500 if self._refusals or self._progress.succeeded() else 502
        body = f'{{"error":{encode_string(self._progress.error)}}}'.encode()
        return EngineAnswer(status, (JSON,), body)

    def pause(self) -> None:
        self._is_paused = True
        for connection in self._open.values():
            connection.pause()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            for connection in self._open.values():
                connection.resume()

    async def _carry_out(self, index: int, target: Target) -> None:
        try:
            connection = await self._upstream.connect(target.address)
        except UpstreamFailed as failure:
            self._emit(self._progress.fail(index, failure.detail))
            return
        self._open[index] = connection
        try:
            await connection.send(self._call.head(target.address), self._call.body)
            await self._follow(index, connection)
        except UpstreamFailed as failure:
            self._emit(self._progress.fail(index, failure.detail))
        finally:
            del self._open[index]
            connection.close()

    async def _follow(self, index: int, connection: EngineConnection) -> None:
        if connection.status != 200:
            body = await connection.read_all(MAX_ANSWER_BYTES) or b""
            refusal = EngineAnswer(connection.status, tuple(connection.headers), body)
            self._refusals[index] = refusal
            reason = error_text(body) or f"it answered with status {connection.status}"
            self._emit(self._progress.fail(index, reason))
            return
        if self._is_paused:
            connection.pause()
        connection.relay(lambda data: self._emit(self._progress.feed(index, data)))
        whole = await connection.ended()
        self._emit(self._progress.end(index, "" if whole else BROKEN_OFF))

    def _emit(self, data: bytes) -> None:
        if data:
            self._take(data)

    async def _watch(self, working: Sequence[asyncio.Task[None]]) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for index, target in enumerate(self._targets):
                if not working[index].done() and not self._is_usable(target):
                    self._emit(self._progress.fail(index, "it went offline"))
                    working[index].cancel()


def _ignore(_data: bytes) -> None:
    pass
