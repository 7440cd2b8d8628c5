"""When waiting requests are expected to start, for people: the queue's view and its refusals.

Rougher than what decides: slots free when their requests are expected to end, each waiting request
takes the next one that frees, in the order in which they would be looked at.
"""

import heapq
from collections.abc import Iterable, Sequence

from ollama_herd.core.place import Place
from ollama_herd.core.remaining import remaining_times
from ollama_herd.core.waiting import Pending

MOST_SLOTS = 256
"""Of more slots than this the wait is spread over so many."""


def expected_starts(
    places: Sequence[Place], waiting: Iterable[Pending], now_s: float
) -> list[float]:
    """Seconds until each of `waiting` starts, in their order; one entry more, for the next."""
    free = _slots_free_in(places, now_s)
    heapq.heapify(free)
    starts = []
    for pending in waiting:
        start_s = free[0]
        starts.append(start_s)
        heapq.heapreplace(free, start_s + max(pending.estimate_s, 0.0))
    starts.append(free[0])
    return starts


def _slots_free_in(places: Sequence[Place], now_s: float) -> list[float]:
    """Seconds until each slot is free: of places that have the model in memory, or if there is
    none, of all once they have loaded it.
    """
    hosts = [p for p in places if p.load.is_hot or p.load.loading_until_s]
    free: list[float] = []
    for place in hosts or places:
        load = place.load
        ready_s = 0.0 if hosts else load.rates.load_s
        if load.loading_until_s:
            ready_s = max(load.loading_until_s - now_s, 0.0)
        rests = sorted(remaining_times(load, now_s))[: load.slots]
        free += rests
        free += [ready_s] * min(load.slots - len(rests), MOST_SLOTS)
        if len(free) >= MOST_SLOTS:
            break
    return free or [0.0]
