"""Counts of what became of requests: for metrics since the start, for health of the last minutes.

Fed with finished traces, away from the request path. There is one `Counts` for each model, node and
dialect in each step of time; steps that health no longer looks at are folded into the totals.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from ollama_herd.core.counts import Counts
from ollama_herd.core.trace import Trace

WINDOW_MINUTES = 10
"""What health looks at: long enough for a rate, short enough to be about now."""

STEP_S = 120.0
WINDOW_STEPS = 5
"""The window moves by steps of STEP_S."""

MAX_MODELS = 200
"""Distinct model names that are told apart; more are counted under OTHER. Every name is a set of
metric series, and a name that no engine served is never one."""

MAX_PLACES = 500
"""Distinct model, node and dialect that are told apart: each makes some 80 lines of metrics."""

OTHER = "(other)"

_Group = TypeVar("_Group", bound=Hashable)

_Path = tuple[str, str, str]  # model, node, path of the endpoint


class Key(NamedTuple):
    """Whose counts. `model` and `node_id` are "" for what reached no engine."""

    model: str
    node_id: str
    dialect: str


class Recent:
    """The counts of a window, put together in each way somebody asks for; to be read only."""

    def __init__(self, counts: Mapping[Key, Counts] = MappingProxyType({})) -> None:
        self._counts = counts

    @cached_property
    def by_place(self) -> Mapping[tuple[str, str], Counts]:
        """By node and model, where a node was reached."""
        places = _grouped(((key.node_id, key.model), c) for key, c in self._counts.items())
        return {place: counts for place, counts in places.items() if place[0]}

    @cached_property
    def by_node(self) -> Mapping[str, Counts]:
        return _grouped((node_id, counts) for (node_id, _), counts in self.by_place.items())

    @cached_property
    def by_model(self) -> Mapping[str, Counts]:
        """Under "" is what reached no engine."""
        return _grouped((key.model, counts) for key, counts in self._counts.items())

    @cached_property
    def total(self) -> Counts:
        return _sum(*self.by_model.values())


class Tally:
    """`add` traces; `recent` and `totals` read. One thread at a time."""

    def __init__(self) -> None:
        self._totals: dict[Key, Counts] = {}
        self._steps: deque[tuple[int, dict[Key, Counts]]] = deque()
        self._over: dict[Key, Counts] = {}  # all steps of the window but the open one
        self._open: dict[Key, Counts] = {}
        self._known: dict[_Path, Counts] = {}  # of the open step
        self._step = -1
        self._models: set[str] = set()
        self._keys: set[Key] = set()

    def add(self, traces: Iterable[Trace], now_s: float) -> None:
        """Count requests. `now_s` never goes back."""
        self._turn(int(now_s // STEP_S))
        known = self._known
        for trace in traces:
            request, attempts, node_id = trace.request, trace.attempts, trace.node_id
            model = request.model_key if attempts else ""
            # A path has one dialect, and plain texts are looked up in half the time.
            path = (model, node_id, request.path)
            own = known.get(path)
            if own is None:
                own = known[path] = self._at(model, node_id, request.dialect.value)
            own.add(trace)
            for attempt in attempts:
                same = attempt.node_id == node_id
                counts = own if same else self._at(model, attempt.node_id, request.dialect.value)
                counts.add_attempt(attempt)

    def recent(self, now_s: float) -> Recent:
        """The last WINDOW_MINUTES, up to STEP_S less."""
        self._turn(int(now_s // STEP_S))
        recent = dict(self._over)
        for key, counts in self._open.items():
            recent[key] = _sum(counts, recent[key]) if key in recent else _sum(counts)
        return Recent(recent)

    def totals(self) -> Mapping[Key, Counts]:
        """Since the start; to be read only."""
        return _merged((self._totals, *(step for _, step in self._steps)))

    def _at(self, model: str, node_id: str, dialect: str) -> Counts:
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                model = OTHER
            else:
                self._models.add(model)
        key = Key(model, node_id, dialect)
        counts = self._open.get(key)
        if counts is None:
            if key not in self._keys:
                if len(self._keys) >= MAX_PLACES:
                    key = Key(OTHER, node_id, dialect)
                self._keys.add(key)  # nodes are bounded by the fleet
            counts = self._open.get(key) or self._open.setdefault(key, Counts())
        return counts

    def _turn(self, step: int) -> None:
        """A new step begins; those that nobody looks at any more become part of the totals."""
        if step == self._step:
            return
        self._step = step
        while self._steps and self._steps[0][0] <= step - WINDOW_STEPS:
            _, old = self._steps.popleft()
            _merge_into(self._totals, old)
        self._over = _merged(counts for _, counts in self._steps)
        self._open = {}
        self._known = {}
        self._steps.append((step, self._open))


def _sum(*parts: Counts) -> Counts:
    total = Counts()
    for part in parts:
        total.merge(part)
    return total


def _grouped(parts: Iterable[tuple[_Group, Counts]]) -> dict[_Group, Counts]:
    """Sums by group; what is alone in its group is not copied."""
    groups: dict[_Group, list[Counts]] = {}
    for group, counts in parts:
        groups.setdefault(group, []).append(counts)
    return {group: c[0] if len(c) == 1 else _sum(*c) for group, c in groups.items()}


def _merged(parts: Iterable[Mapping[Key, Counts]]) -> dict[Key, Counts]:
    merged: dict[Key, Counts] = {}
    for part in parts:
        _merge_into(merged, part)
    return merged


def _merge_into(into: dict[Key, Counts], part: Mapping[Key, Counts]) -> None:
    for key, counts in part.items():
        known = into.get(key)
        if known is None:
            known = into[key] = Counts()
        known.merge(counts)
