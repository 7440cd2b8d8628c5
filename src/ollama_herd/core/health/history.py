"""When models came into memory: told from one look at the fleet to the next."""

from collections import deque

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.health.models import LOADS_S
from ollama_herd.core.health.values import LoadSeen
from ollama_herd.core.node import EngineReport, Node

MAX_LOADS = 10_000

_InMemory = frozenset[tuple[str, str, int]]


class LoadLog:
    """Loads of the last LOADS_S. What was there when a node was first seen is none."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, tuple[EngineReport, ...], _InMemory]] = {}
        self._loads: deque[LoadSeen] = deque(maxlen=MAX_LOADS)

    def observe(self, fleet: Fleet, now_s: float) -> tuple[LoadSeen, ...]:
        """All that are young enough, those since the last look included."""
        for node_id in self._before.keys() - fleet.nodes.keys():
            del self._before[node_id]
        for node in fleet.nodes.values():
            self._look(node, now_s)
        while self._loads and self._loads[0].at_s < now_s - LOADS_S:
            self._loads.popleft()
        return tuple(self._loads)

    def _look(self, node: Node, now_s: float) -> None:
        before = self._before.get(node.node_id)
        if before is not None and before[1] is node.engines:
            return
        here = _in_memory(node)
        self._before[node.node_id] = (node.boot, node.engines, here)
        if before is None or before[0] != node.boot:
            return
        for engine_id, model, _context in sorted(here - before[2]):
            self._loads.append(LoadSeen(node.node_id, engine_id, model, now_s))


def _in_memory(node: Node) -> _InMemory:
    return frozenset(
        (engine.engine_id, loaded.name, loaded.context_length)
        for engine in node.engines
        for loaded in engine.loaded
    )
