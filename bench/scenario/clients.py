"""Clients of a scenario: conversations at their times, over real connections, each one measured."""

import asyncio
from collections.abc import Sequence

import msgspec
from machines import TURN_HEADER, Clock, value

from ollama_herd.core.prefix import BLOCK_BYTES
from ollama_herd.simulate.workloads import Conversation, Turn

BYTES_PER_TOKEN = 4
"""What routers take for a token."""


class Measured(msgspec.Struct):
    """One request; times in simulated seconds, -1 where it did not come so far."""

    key: str
    arrived_s: float
    first_s: float = -1.0
    done_s: float = -1.0
    status: int = 0
    queue_s: float = 0.0  # as the router says
    is_broken: bool = False  # the connection ended without a whole answer


class Clients:
    """All of them."""

    def __init__(self, port: int, clock: Clock, turns: dict[str, Turn]) -> None:
        self._port = port
        self._clock = clock
        self._turns = turns
        self.measured: list[Measured] = []
        self.ended = 0

    async def run(
        self, conversations: Sequence[Conversation], horizon_s: float, limit_s: float
    ) -> None:
        """Until all have their answers, or `limit_s` (simulated) have passed.

        Nothing is asked after `horizon_s`, however far a conversation has come.
        """
        end_s = self._clock.now_s() + horizon_s
        tasks = [
            asyncio.create_task(self._converse(number, conversation, end_s))  # noqa: TID251
            for number, conversation in enumerate(conversations)
        ]
        _, late = await asyncio.wait(tasks, timeout=limit_s / self._clock.speed)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, number: int, conversation: Conversation, end_s: float) -> None:
        await self._sleep_until(conversation.at_s)
        for turn_number, turn in enumerate(conversation.turns):
            if turn_number:
                await self._sleep_until(self._clock.now_s() + turn.pause_s)
            if self._clock.now_s() > end_s:
                return
            key = f"{number}.{turn_number}"
            self._turns[key] = turn
            measured = Measured(key, self._clock.now_s())
            self.measured.append(measured)
            await self._ask(key, conversation, turn, measured)
            self.ended += 1
            if measured.done_s < 0:
                return

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(at_s - self._clock.now_s(), 0.0) / self._clock.speed)

    async def _ask(
        self, key: str, conversation: Conversation, turn: Turn, measured: Measured
    ) -> None:
        body = msgspec.json.encode(
            {
                "model": conversation.model,
                "messages": [{"role": "user", "content": _prompt(turn)}],
                "stream": True,
            }
        )
        head = b"POST /api/chat HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        head += TURN_HEADER + key.encode() + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            measured.is_broken = True
            return
        try:
            writer.write(head + body)
            first = await reader.readuntil(b"\r\n\r\n")
            measured.status = int(first.split(b" ", 2)[1])
            measured.queue_s = float(value(first.lower(), b"x-herd-queue-ms: ") or b"0") / 1e3
            seen = b""
            while data := await reader.read(65536):
                if measured.first_s < 0:
                    measured.first_s = self._clock.now_s()
                seen = (seen + data)[-2000:]
            measured.is_broken = b'"done":true' not in seen
            if measured.status == 200 and not measured.is_broken:
                measured.done_s = self._clock.now_s()
        except (OSError, asyncio.IncompleteReadError):
            measured.is_broken = True
        finally:
            writer.close()


def _prompt(turn: Turn) -> str:
    """Text as long as the prompt's tokens, alike exactly where the chains are."""
    wanted = turn.prompt * BYTES_PER_TOKEN
    blocks = [f"{block:016x}" * (BLOCK_BYTES // 16) for block in turn.chain]
    text = "".join(blocks)[:wanted]
    return text + "." * (wanted - len(text))
