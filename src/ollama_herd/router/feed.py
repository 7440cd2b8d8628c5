"""Owns the dashboard's subscribers: a snapshot first, then what changed, about once a second.

State is a flat map of parts (`node:<id>`, `engines:<id>`, `queue`, ...), each JSON text. It is
looked at only while somebody follows, encoded once for everybody, and a subscriber that reads too
slowly loses the oldest: everything kept for it is dropped and it starts anew with a snapshot.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from ollama_herd import __version__
from ollama_herd.api.fleet_parts import (
    engine_parts,
    health_part,
    node_part,
    queue_part,
    totals_part,
)
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.health.values import Health
from ollama_herd.core.node import EngineReport
from ollama_herd.core.queue import QueueView
from ollama_herd.tasks import cancel_and_wait, spawn

PERIOD_S = 1.0
"""How often is looked for changes: agents report every 2 s, people see no more."""

KEPT_EVENTS = 16
"""Events kept for a subscriber that does not read; then it gets a snapshot instead."""

MAX_SUBSCRIBERS = 256
"""More browser tabs than any team has; each costs a connection."""

PING_S = 5.0
"""After so long without news a ping is sent: proxies keep the connection, a browser that is gone is
noticed, and a page that hears none of three says that what it shows is old."""

PING = b"event: ping\ndata: {}\n\n"

Parts = Mapping[str, bytes]


class _Delta(msgspec.Struct, frozen=True):
    seq: int
    time_s: float
    set: dict[str, msgspec.Raw]
    gone: list[str]


class Subscription:
    """One browser's events; `next` waits for one."""

    def __init__(
        self, snapshot: Callable[[], bytes], left: Callable[["Subscription"], None]
    ) -> None:
        self._snapshot = snapshot
        self._left = left
        self._events: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._needs_snapshot = True
        self.is_closed = False
        self._news.set()

    async def next(self) -> bytes | None:
        """The next event, None at the end. A ping when there is no news for PING_S."""
        try:
            async with asyncio.timeout(PING_S):
                await self._news.wait()
        except TimeoutError:
            return PING
        if self.is_closed:
            return None
        if self._needs_snapshot:
            event = self._snapshot()  # what it finds changed is in it, not behind it
            self._needs_snapshot = False
        else:
            event = self._events.popleft()
        if not self._events:
            self._news.clear()
        return event

    def offer(self, event: bytes) -> None:
        """Keep an event; beyond KEPT_EVENTS a snapshot takes the place of all."""
        if self._needs_snapshot:
            return
        self._events.append(event)
        if len(self._events) > KEPT_EVENTS:
            self._events.clear()
            self._needs_snapshot = True
        self._news.set()

    def leave(self) -> None:
        """No more events; whoever waits for one gets None."""
        self.is_closed = True
        self._events.clear()
        self._news.set()
        self._left(self)


class Feed:
    """`parts` gives the whole state now; parts that stay the same should be the same bytes."""

    def __init__(self, parts: Callable[[], Parts]) -> None:
        self._parts = parts
        self._known: Parts = {}
        self._seq = 0
        self._subscribers: set[Subscription] = set()
        self._watching: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def subscribers(self) -> int:
        return len(self._subscribers)

    def try_subscribe(self) -> Subscription | None:
        """A new follower, None when there are too many or the router stops."""
        if self._is_closed or len(self._subscribers) >= MAX_SUBSCRIBERS:
            return None
        subscription = Subscription(self._whole, self._subscribers.discard)
        self._subscribers.add(subscription)
        if self._watching is None:
            self._watching = spawn(self._watch(), name="dashboard feed")
        return subscription

    async def close(self) -> None:
        """End all subscriptions; there will be no others."""
        self._is_closed = True
        for subscription in list(self._subscribers):
            subscription.leave()
        await cancel_and_wait(self._watching)

    async def _watch(self) -> None:
        """Runs while somebody follows."""
        try:
            while self._subscribers:
                self._look()
                await asyncio.sleep(PERIOD_S)
        finally:
            self._watching = None

    def _look(self) -> None:
        """Tell everybody what changed since the last look."""
        before, now = self._known, self._parts()
        changed = {
            key: msgspec.Raw(part)
            for key, part in now.items()
            if (old := before.get(key)) is not part and old != part
        }
        gone = [key for key in before if key not in now]
        self._known = now
        if not changed and not gone:
            return
        self._seq += 1
        if not self._subscribers:
            return
        event = _event(b"delta", _Delta(self._seq, now_s(), changed, gone))
        for subscription in self._subscribers:
            subscription.offer(event)

    def _whole(self) -> bytes:
        self._look()
        parts = {key: msgspec.Raw(part) for key, part in self._known.items()}
        return _event(b"snapshot", _Delta(self._seq, now_s(), parts, []))


def _event(kind: bytes, content: _Delta) -> bytes:
    """JSON has no line ends, so one data line holds it."""
    return b"event: %b\ndata: %b\n\n" % (kind, msgspec.json.encode(content))


class Watched(Protocol):
    """What `watch.Watch` tells of the herd: how all is, and how many requests have ended."""

    @property
    def health(self) -> Health: ...
    @property
    def ended(self) -> int: ...


class LiveParts:
    """The parts of a running router; the lists of models are encoded only when they changed."""

    def __init__(
        self,
        fleet: Callable[[], Fleet],
        queue: Callable[[], QueueView],
        traces: Callable[[], object],
        watch: Watched,
    ) -> None:
        """`traces` is how the trace store does, as a value that msgspec can encode, None without
        one.
        """
        self._fleet = fleet
        self._queue = queue
        self._traces = traces
        self._watch = watch
        self._engines: dict[str, tuple[tuple[EngineReport, ...], str, bytes]] = {}
        self._wall_offset_s = now_s() - monotonic_s()

    def __call__(self) -> Parts:
        """All parts now."""
        fleet, wall_s = self._fleet(), now_s()
        encode = msgspec.json.encode
        if abs(wall_s - monotonic_s() - self._wall_offset_s) > 1.0:  # the clock was set
            self._wall_offset_s = wall_s - monotonic_s()
        parts = {
            "totals": encode(totals_part(fleet, __version__, self._watch.ended)),
            "queue": encode(queue_part(self._queue(), wall_s)),
            "traces": encode(self._traces()),
            "health": encode(health_part(self._watch.health)),
        }
        for node_id, node in fleet.nodes.items():
            parts[f"node:{node_id}"] = encode(node_part(node, self._wall_offset_s))
            known = self._engines.get(node_id)
            if known is None or known[0] is not node.engines or known[1] != node.address:
                known = (node.engines, node.address, encode(engine_parts(node)))
                self._engines[node_id] = known
            parts[f"engines:{node_id}"] = known[2]
        for node_id in self._engines.keys() - fleet.nodes.keys():
            del self._engines[node_id]
        return parts
