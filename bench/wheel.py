"""One timer for thousands of streams: buckets of 1 ms."""

import heapq
import time
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def now_us() -> int:
    """Microseconds of the system-wide monotonic clock, comparable between processes."""
    return time.monotonic_ns() // 1000


class Wheel(Generic[T]):
    """Things and when they are due; what is due together costs one wake-up."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[T]] = {}  # by tick of 1 ms
        self._ticks: list[int] = []  # heap of the buckets' keys

    def add(self, thing: T, due_us: int) -> None:
        tick = due_us // 1000 + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [thing]
            heapq.heappush(self._ticks, tick)
        else:
            bucket.append(thing)

    def wait_s(self) -> float | None:
        """Until the next bucket is due; None when there is none."""
        if not self._ticks:
            return None
        return max(0.0, self._ticks[0] / 1000 - now_us() / 1_000_000)

    def due(self) -> Iterator[T]:
        """All that is due by now, oldest first; it is gone from the wheel."""
        until_us = now_us()
        while self._ticks and self._ticks[0] * 1000 <= until_us:
            yield from self._buckets.pop(heapq.heappop(self._ticks))
