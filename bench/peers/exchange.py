"""Answers as routers give them: framed by length or in chunks, translated or not.

bench/checks.py demands the engine's very bytes; here an answer is right when every marker of the
engine is in it, once and in order, and it ends as its framing and its dialect say.
"""

import re
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import wire
import wire_openai
from checks import dechunk

DIALECTS: dict[str, ModuleType] = {"ollama": wire, "openai": wire_openai}
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"
_LONGEST_TRAILER = 64


class Answer:
    """The bytes of one response as they come."""

    __slots__ = ("_body_at", "_is_chunked", "_length", "ends", "raw", "times_us")

    def __init__(self) -> None:
        self.raw = bytearray()
        self.ends: list[int] = []
        self.times_us: list[int] = []
        self._body_at = 0
        self._length = 0
        self._is_chunked = False

    def add(self, data: bytes, at_us: int) -> bool:
        """Whether the response is whole now."""
        self.raw += data
        self.ends.append(len(self.raw))
        self.times_us.append(at_us)
        if not self._body_at and not self._read_head():
            return False
        if self._is_chunked:
            return self.raw.endswith(b"\r\n" + _LAST_CHUNK, self._body_at - 2)
        return len(self.raw) >= self._body_at + self._length

    def _read_head(self) -> bool:
        end = self.raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body_at = end + 4
        self._is_chunked = _CHUNKED.search(self.raw, 0, end) is not None
        length = _LENGTH.search(self.raw, 0, end)
        self._length = int(length[1]) if length else 0
        return True

    @property
    def head(self) -> bytes:
        return bytes(self.raw[: self._body_at])

    def body(self) -> bytes:
        """Without its framing; ValueError when that is broken."""
        if not self._is_chunked:
            return bytes(self.raw[self._body_at :])
        return dechunk(bytes(self.raw), self._body_at)[0]


class Judged(NamedTuple):
    """`problem` is "" when the answer is right; `delays_us` of a stream's chunks."""

    problem: str
    delays_us: Sequence[int] = ()


def judge(answer: Answer, order: wire.Order) -> Judged:
    """Whether it is the whole answer to `order`, and how late each chunk was."""
    if not answer.head.startswith(b"HTTP/1.1 200"):
        return Judged(f"answered {bytes(answer.raw[:60])!r}")
    try:
        problem = _problem(answer.body(), order)
    except ValueError as broken:
        problem = str(broken)
    return Judged(problem, () if problem or not order.chunks else _delays_us(answer))


def _problem(body: bytes, order: wire.Order) -> str:
    if not order.chunks:
        return "" if b"%05d " % order.id in body else f"another's answer: {body[:200]!r}"
    marks = wire_openai.marks(body)
    if any(order_id != order.id for _, order_id, *_ in marks):
        return "a chunk of another stream"
    if [number for _, _, number, _ in marks] != list(range(order.chunks)):
        return f"{len(marks)} chunks of {order.chunks}, or not in order"
    if b"[DONE]" not in body[-_LONGEST_TRAILER:] and b'"done":true' not in body.replace(b" ", b""):
        return "no end marker"
    return ""


def _delays_us(answer: Answer) -> list[int]:
    """From the engine's send to the read that brought the marker's last digit."""
    delays = []
    read = 0
    for sent_us, _, _, end in wire_openai.marks(bytes(answer.raw)):
        while answer.ends[read] < end:
            read += 1
        delays.append(answer.times_us[read] - sent_us)
    return delays
