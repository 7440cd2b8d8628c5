"""Simulated machines behind real sockets: the fluid model of `herd simulate`, as Ollamas over HTTP.

Their time runs `speed` times as fast as the clock, as does that of the router before them
(`fast_herd.py`): all durations that they tell are simulated ones. They speak as much of Ollama as a
router asks for: chat and generate, streamed, a line a token; a load with an empty prompt; an unload
with keep-alive 0.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec

from ollama_herd.core.node import EngineReport, NodeReport, Reach
from ollama_herd.core.request import Dialect, InferenceRequest, Kind
from ollama_herd.simulate.engine import Engine, Job
from ollama_herd.simulate.machines import Machine, Truth
from ollama_herd.simulate.workloads import Turn

TOLD_EVERY_S = 1.0
"""So many simulated seconds of tokens go out in one write: what a client sees of a stream in
between decides nothing here, and a write for each would only measure the bench itself."""

TURN_HEADER = b"x-bench-turn: "


class Clock:
    """Simulated seconds since the start."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._begun_s = time.monotonic()  # noqa: TID251 - the bench's own clock

    def now_s(self) -> float:
        return (time.monotonic() - self._begun_s) * self.speed  # noqa: TID251


class Seen(msgspec.Struct):
    """What an engine knows of a request; simulated seconds, -1 where it did not come so far."""

    received_s: float
    first_due_s: float = -1.0


class _Body(msgspec.Struct):
    model: str
    messages: list[msgspec.Raw] = msgspec.field(default_factory=list)
    prompt: str = ""
    keep_alive: object = None


class Host:
    """One machine on a port of its own."""

    def __init__(
        self,
        machine: Machine,
        models: Sequence[str],
        truth: Truth,
        clock: Clock,
        turns: Mapping[str, Turn],
    ) -> None:
        self.engine = Engine(machine, models, truth)
        self.name = machine.name
        self.port = 0
        self._clock = clock
        self._turns = turns
        self.seen: dict[str, Seen] = {}
        self._events: dict[int, asyncio.Queue[tuple[str, float]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._serial = 0
        self._seq = 0
        self._told: EngineReport | None = None
        self._boot = int(time.time() * 1000)  # noqa: TID251

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()

    def report(self) -> NodeReport:
        """A heartbeat with what has changed since the last."""
        self._move()
        self._seq += 1
        told = msgspec.structs.replace(self.engine.report(), port=self.port, reach=Reach.LAN)
        is_new = self._told != told
        first = self._told is None
        self._told = told
        machine = self.engine.machine
        return NodeReport(
            node_id=self.name,
            boot=self._boot,
            seq=self._seq,
            name=self.name,
            platform=machine.platform if first else None,
            vitals=machine.vitals(self.engine.used_gb, 0.0),
            engines=(told,) if is_new else None,
        )

    @property
    def has_news(self) -> bool:
        """Whether its models in memory are others than it last said."""
        self._move()
        told = self._told
        return told is None or told.loaded != self.engine.report().loaded

    def tell_all(self) -> None:
        """The next report has every section."""
        self._told = None

    def _move(self) -> None:
        """Let the simulated time catch up, event by event, and set the alarm for the next one."""
        engine, now_s = self.engine, self._clock.now_s()
        while (at_s := engine.next_s()) <= now_s:
            self._step(max(at_s, engine.now_s))
        self._step(now_s)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = engine.next_s()
        if at_s < float("inf"):
            delay_s = max(at_s - self._clock.now_s(), 0.0) / self._clock.speed
            self._timer = asyncio.get_running_loop().call_later(delay_s + 1e-4, self._move)

    def tell_tokens(self) -> None:
        """To be called each `TOLD_EVERY_S`: streams get the tokens made since."""
        self._move()
        for runner in self.engine.runners.values():
            for job in runner.active:
                events = self._events.get(id(job))
                if events is not None and job.phase == "decode":
                    events.put_nowait(("tokens", job.output - max(job.left, 0.0)))

    def _step(self, at_s: float) -> None:
        for job, what in list(self.engine.advance(at_s)):
            events = self._events.get(id(job))
            if events is not None:
                events.put_nowait((what, at_s))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                length = int(value(lower, b"content-length: ") or b"0")
                body = await reader.readexactly(length) if length else b""
                await self._answer(head, lower, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            return  # the run is over; asyncio's own handler would print a traceback
        finally:
            writer.close()

    async def _answer(
        self, head: bytes, lower: bytes, body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        path = head.split(b" ", 2)[1]
        if path not in (b"/api/chat", b"/api/generate"):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        asked = msgspec.json.decode(body, type=_Body)
        key = value(lower, TURN_HEADER).decode()
        if not key:
            await self._load_or_unload(asked, writer)
            return
        self.seen[key] = Seen(self._clock.now_s())
        job = self._job(asked.model, self._turns[key], key)
        await self._stream(job, self.seen[key], writer)

    def _job(self, model: str, turn: Turn, key: str) -> Job:
        self._serial += 1
        request = InferenceRequest(
            request_id=f"{key}#{self._serial}",
            model=model,
            model_key=model,
            kind=Kind.CHAT,
            dialect=Dialect.OLLAMA,
            path="/api/chat",
            arrived_s=0.0,
            stream=True,
            prefix=turn.chain,
        )
        return Job(request, model, turn.prompt, turn.output, 0, self._clock.now_s())

    async def _load_or_unload(self, asked: _Body, writer: asyncio.StreamWriter) -> None:
        """An empty prompt."""
        if asked.keep_alive == 0:
            self._move()
            self.engine.unload(asked.model)
            self._move()
        else:
            job = self._job(asked.model, Turn(0.0, 1, 0), "load")
            await self._finished(job)
        answer = b'{"model":"%s","response":"","done":true}' % asked.model.encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(answer), answer))
        await writer.drain()

    async def _finished(self, job: Job) -> None:
        events: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self._events[id(job)] = events
        self._move()
        self.engine.submit(job)
        self._move()
        try:
            while (await events.get())[0] != "done":
                pass
        finally:
            del self._events[id(job)]

    async def _stream(self, job: Job, seen: Seen, writer: asyncio.StreamWriter) -> None:
        events: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self._events[id(job)] = events
        self._move()
        self.engine.submit(job)
        self._move()
        line = msgspec.json.encode({"model": job.model, "message": _SAID, "done": False}) + b"\n"
        told = 0
        try:
            while True:
                what, value = await events.get()
                if what == "first":
                    seen.first_due_s = value
                    writer.write(_STREAM_HEAD)
                count = {"first": 1, "tokens": int(value), "done": job.output}[what]
                if count > told >= (0 if what == "first" else 1):
                    _chunk(writer, line * (count - told))
                    told = count
                if what == "done":
                    _chunk(writer, msgspec.json.encode(_last(job, value)) + b"\n")
                    writer.write(b"0\r\n\r\n")
                    await writer.drain()
                    return
        finally:
            del self._events[id(job)]


def _last(job: Job, at_s: float) -> dict[str, object]:
    """Counts, and durations in ns."""
    usage = job.usage(at_s)
    return {
        "model": job.model,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": int((at_s - job.sent_s) * 1e9),
        "load_duration": int((usage.load_ms or 0.0) * 1e6),
        "prompt_eval_count": job.prompt,
        "prompt_eval_duration": int((usage.prefill_ms or 0.0) * 1e6),
        "eval_count": job.output,
        "eval_duration": int((usage.decode_ms or 0.0) * 1e6),
    }


_SAID = {"role": "assistant", "content": "x"}

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def value(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name)
    if start < 0:
        return b""
    start += 2 + len(name)
    return head[start : head.index(b"\r\n", start)].strip()
