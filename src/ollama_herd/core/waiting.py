"""Requests that wait in the router, and the order in which they are looked at.

Highest response ratio first, `(waited + service + 1) / (service + 1)`, divided by the client's
share: short requests go first but age, so nobody starves. Interactive requests go before batch
requests until those have waited long. Requests alike in priority, client and size form a lane
served strictly in order of arrival, so only the heads of lanes compete.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from math import log

import msgspec

from ollama_herd.core.predict import SlotKey
from ollama_herd.core.request import InferenceRequest, Priority
from ollama_herd.core.shares import Shares

CLIENT_SHARE = 0.5
"""The share of a client that uses k usual requests is 1 / (1 + k/2) (routing study)."""

BATCH_PATIENCE_S = 120.0
"""A batch request that waited so long competes as an interactive one."""

LANE_LOOKS = 64
"""How far into one lane a single pass goes; the next pass (at most a second later) goes on."""

LaneKey = tuple[int, str, int, int, tuple[tuple[str, int | bool], ...], str]


class Pending(msgspec.Struct, eq=False):
    """One request from arrival to its end: held, then granted, perhaps held again."""

    request: InferenceRequest
    estimate_s: float  # shortest service time anywhere
    excluded: frozenset[SlotKey] = frozenset()
    blamed: tuple[SlotKey, ...] = ()  # answered with errors so far
    likely: SlotKey | None = None  # where it would go as things stand
    stranded_s: float | None = None  # since when no node can take it

    def twin(self, twin_id: str, silent: SlotKey) -> "Pending":
        """The same request under another id, for a replica other than the silent one."""
        other = Pending(msgspec.structs.replace(self.request, request_id=twin_id), self.estimate_s)
        other.excluded = self.excluded | {silent}
        other.blamed = self.blamed
        return other

    def lane(self) -> LaneKey:
        """Requests alike: same priority, client and load options, sizes within 20 %.

        Nothing that is learned goes in, or equal requests could overtake each other. A retried
        one keeps its own place.
        """
        request = self.request
        prompt = int(log(request.prompt_tokens + 1) * 5)
        limit = request.max_tokens
        answer = -1 if limit is None or limit < 0 else int(log(limit + 1) * 5)
        own = request.request_id if self.excluded else ""
        return (request.priority, request.client, prompt, answer, request.load_options, own)

    def is_batch(self, now_s: float) -> bool:
        request = self.request
        return request.priority is Priority.BATCH and now_s - request.arrived_s < BATCH_PATIENCE_S

    def urgency(self, share: float, now_s: float) -> float:
        """Response ratio by the client's share: the higher the sooner."""
        service_s = self.estimate_s + 1
        waited_s = max(now_s - self.request.arrived_s, 0.0)
        return (waited_s + service_s) / service_s / (1 + CLIENT_SHARE * share)


class ModelQueue:
    """The waiting requests of one model, in lanes."""

    __slots__ = ("count", "lanes", "model_key")

    def __init__(self, model_key: str) -> None:
        self.model_key = model_key
        self.lanes: dict[LaneKey, OrderedDict[str, Pending]] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Pending]:
        for lane in self.lanes.values():
            yield from lane.values()


class WaitingRoom:
    """All waiting requests, by id and by model."""

    __slots__ = ("_lane_of", "models", "pending")

    def __init__(self) -> None:
        self.models: dict[str, ModelQueue] = {}
        self.pending: dict[str, Pending] = {}
        self._lane_of: dict[str, LaneKey] = {}

    def __len__(self) -> int:
        return len(self.pending)

    def add(self, pending: Pending) -> None:
        request = pending.request
        queue = self.models.get(request.model_key)
        if queue is None:
            queue = self.models[request.model_key] = ModelQueue(request.model_key)
        key = pending.lane()
        lane = queue.lanes.get(key)
        if lane is None:
            lane = queue.lanes[key] = OrderedDict()
        lane[request.request_id] = pending
        queue.count += 1
        self.pending[request.request_id] = pending
        self._lane_of[request.request_id] = key

    def remove(self, request_id: str) -> Pending | None:
        """Take a request out; None when it does not wait here."""
        pending = self.pending.pop(request_id, None)
        if pending is None:
            return None
        key = self._lane_of.pop(request_id)
        queue = self.models[pending.request.model_key]
        lane = queue.lanes[key]
        del lane[request_id]
        if not lane:
            del queue.lanes[key]
        queue.count -= 1
        if not queue.count:
            del self.models[queue.model_key]
        return pending

    def listed(self, model_key: str, shares: Shares, now_s: float) -> list[Pending]:
        """All waiting requests of a model in the order they would be looked at now."""

        def rank(pending: Pending) -> tuple[bool, float, float]:
            entry = _entry(pending, shares, now_s, 0)
            return entry[:3]

        return sorted(self.models.get(model_key, ()), key=rank)

    def in_order(self, models: Iterable[str], shares: Shares, now_s: float) -> Iterator[Pending]:
        """Waiting requests of these models, most urgent first.

        Requests may be removed, and shares may grow, while this iterates: urgency only falls by
        that, so a popped head is checked once more.
        """
        heap: list[tuple[bool, float, float, int, Pending]] = []
        lanes: list[Iterator[Pending]] = []
        for model_key in models:
            queue = self.models.get(model_key)
            if queue is None:
                continue
            for lane in queue.lanes.values():
                lanes.append(iter(list(islice(lane.values(), LANE_LOOKS))))
                heap.append(_entry(next(lanes[-1]), shares, now_s, len(lanes) - 1))
        heapq.heapify(heap)
        while heap:
            entry = heap[0]
            pending, number = entry[4], entry[3]
            fresh = _entry(pending, shares, now_s, number)
            if fresh[:2] != entry[:2]:
                heapq.heapreplace(heap, fresh)
                continue
            yield pending
            following = next(lanes[number], None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, _entry(following, shares, now_s, number))


def _entry(
    pending: Pending, shares: Shares, now_s: float, lane: int
) -> tuple[bool, float, float, int, Pending]:
    request = pending.request
    urgency = pending.urgency(shares.of(request.client, now_s), now_s)
    return (pending.is_batch(now_s), -urgency, request.arrived_s, lane, pending)
