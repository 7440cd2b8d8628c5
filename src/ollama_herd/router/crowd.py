"""How many clients are in, together and from each address, and how often each may ask."""

import asyncio
import math
from collections import Counter, OrderedDict

from ollama_herd.api.errors import ApiError, too_often
from ollama_herd.clock import monotonic_s
from ollama_herd.core.access import Bucket

REMEMBERED = 10_000
"""Addresses whose rate is known; of more, those that asked longest ago start anew."""


class Crowd:
    """Connections that are open; a limit of 0 for each address is none."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._all = 0
        self._each: Counter[str] = Counter()
        self._moved: list[tuple[str, asyncio.Transport]] = []

    def enter(self, client: str) -> int:
        """A connection has come; the status that turns it away, 0 when it may stay. `leave` follows
        either way.
        """
        self._all += 1
        if self._most_each:
            self._each[client] += 1
            if self._each[client] > self._most_each:
                return 429
        return 503 if self._all > self._most else 0

    def leave(self, client: str) -> None:
        """A connection has ended."""
        self._all -= 1
        if self._most_each:
            self._each[client] -= 1
            if not self._each[client]:
                del self._each[client]

    def move(self, client: str, transport: asyncio.Transport) -> None:
        """Somebody else hears of its end: it is looked for by `sweep`."""
        self._moved.append((client, transport))

    def sweep(self) -> None:
        """Once a second: notice which of those that moved have ended."""
        still = []
        for client, transport in self._moved:
            if transport.is_closing():
                self.leave(client)
            else:
                still.append((client, transport))
        self._moved = still


class Rates:
    """At most so many requests a minute from each address."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def refusal(self, client: str) -> ApiError | None:
        """Why one more request may not be now; None when it may, and then it counts."""
        now_s = monotonic_s()
        bucket = self._buckets.get(client)
        if bucket is None:
            if len(self._buckets) >= REMEMBERED:
                self._buckets.popitem(last=False)
            bucket = self._buckets[client] = Bucket(self._per_minute, now_s)
        else:
            self._buckets.move_to_end(client)
        wait_s = bucket.wait_s(1, now_s)
        if wait_s:
            return too_often(self._per_minute, math.ceil(wait_s))
        bucket.take(1)
        return None
