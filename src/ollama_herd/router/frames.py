"""Lets whole frames of a stream through and holds back what must not reach the client yet.

A read of an engine is nearly always one whole line or event, which costs a look at its end and a
search for an error. An unfinished frame waits for its rest, so that a stream that breaks can be
continued at a frame's border; an error frame waits for the decision whether it can be. Every byte
that goes on is as it came.
"""

from collections.abc import Callable
from typing import Final

from ollama_herd.api.dialects import DIALECTS
from ollama_herd.core.request import Dialect

HELD_BYTES: Final = 1024 * 1024
"""Longest unfinished frame that is held back; a longer one passes as it comes."""

_BARE: Final = (b"proxy error", b"error:")
"""How llama.cpp's router reports a lost model: text inside the event stream."""


class FrameGate:
    """One stream of one dialect. `error` is the first error frame, held back with all behind it."""

    __slots__ = (
        "_ends",
        "_held",
        "_is_odd",
        "_mark",
        "_nameless",
        "_write",
        "error",
        "feed",
        "is_torn",
    )

    def __init__(self, dialect: Dialect, write: Callable[[bytes], None]) -> None:
        self._write = write
        manner = DIALECTS[dialect]
        self._ends = manner.frame_ends
        self._mark = manner.error_mark
        self._nameless = manner.nameless
        self._held = b""
        self._is_odd = False  # not at the border of a frame
        self.error = b""
        self.is_torn = False  # the client has a part of a frame
        self.feed = self._feed_nameless if manner.nameless else self._feed

    def _feed(self, data: bytes) -> None:
        if self._is_odd or not data.endswith(self._ends) or self._mark in data:
            self._sort(data)
        else:
            self._write(data)

    def _feed_nameless(self, data: bytes) -> None:
        is_odd = self._is_odd or not data.endswith(self._ends)
        if is_odd or self._mark in data or self._nameless in data:
            self._sort(data)
        else:
            self._write(data)

    def close(self) -> bytes:
        """What is still held back: the error and what followed, or an unfinished frame."""
        rest, self._held = self._held, b""
        if self.error:
            return self.error
        if rest.lstrip().startswith(_BARE) or self._is_error(rest):
            self.error = rest
        return rest

    def _sort(self, data: bytes) -> None:
        if self.error:
            return
        data = self._held + data
        self._held = b""
        passed = 0
        while (end := self._next(data, passed)) >= 0:
            if self._is_error(data[passed:end]):
                self.error = data[passed:end]
                break
            passed = end
        if passed:
            self._write(data[:passed])
            self.is_torn = False
        if self.error:
            self._is_odd = True
            return
        rest = data[passed:]
        if rest and (self.is_torn or len(rest) > HELD_BYTES):
            self.is_torn = True
            self._write(rest)
        else:
            self._held = rest
        self._is_odd = bool(rest) or self.is_torn

    def _next(self, data: bytes, start: int) -> int:
        """Behind the first frame's end at or after `start`, -1 without one."""
        found = [(data.find(end, start), len(end)) for end in self._ends]
        return min((place + length for place, length in found if place >= 0), default=-1)

    def _is_error(self, frame: bytes) -> bool:
        if self._mark in frame or frame.lstrip().startswith(_BARE):
            return True
        return bool(self._nameless) and self._nameless in frame
