"""A point-sum scorer: seven signals in points, the highest sum wins, as the best known peer does.

Points for a loaded model, memory headroom, queue depth, expected wait, role by bandwidth and
model size, availability (the same for all here) and context fit.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from statistics import median

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.hardware import Hardware, hardware_of
from ollama_herd.core.node import Node, Replica
from ollama_herd.core.request import InferenceRequest
from ollama_herd.simulate.policy import Action, AtOnce

LATENCIES_KEPT = 500
WARM_S = 1800.0


class PointSum(AtOnce):
    """Scores every machine that has the model and room for it; ties go to the first one known."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._depth: dict[tuple[str, str], int] = {}
        self._latencies: dict[tuple[str, str], deque[float]] = {}
        self._unloaded_s: dict[tuple[str, str], float] = {}
        self._hot: set[tuple[str, str]] = set()
        self._began: dict[str, float] = {}
        self._fleet = Fleet()

    def arrived(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Action]:
        self._fleet = fleet
        return super().arrived(request, fleet, now_s)

    def pick(self, request: InferenceRequest, replicas: Sequence[Replica], now_s: float) -> Replica:
        nodes = self._fleet.nodes
        hardware = {r.node_id: _hardware(nodes[r.node_id]) for r in replicas}
        middle = median(h.bandwidth_gb_s for h in hardware.values())
        able = [r for r in replicas if r.loaded is not None or _headroom(r, nodes) >= 1]
        return max(
            able or replicas,
            key=lambda r: self._score(request, r, hardware[r.node_id], middle, now_s),
        )

    def sent(self, request: InferenceRequest, replica: Replica, now_s: float) -> None:
        key = (replica.node_id, request.model_key)
        self._depth[key] = self._depth.get(key, 0) + 1
        self._began[request.request_id] = now_s

    def ended(self, request: InferenceRequest, replica: Replica, now_s: float) -> None:
        key = (replica.node_id, request.model_key)
        self._depth[key] -= 1
        known = self._latencies.setdefault(key, deque(maxlen=LATENCIES_KEPT))
        known.append(now_s - self._began.pop(request.request_id))

    def _score(
        self,
        request: InferenceRequest,
        replica: Replica,
        hardware: Hardware,
        middle: float,
        now_s: float,
    ) -> float:
        key = (replica.node_id, request.model_key)
        bandwidth = hardware.bandwidth_gb_s
        size_gb = replica.model.size_bytes / 1e9
        depth = self._depth.get(key, 0)
        points = self._thermal(key, replica, now_s)
        points += _memory(replica, _headroom(replica, self._fleet.nodes))
        points -= min(30.0, 6 * depth / min(max(bandwidth / middle, 0.25), 4))
        points -= min(25.0, depth * self._p75_s(key, bandwidth, size_gb) / 10)
        points += _role(bandwidth, size_gb)
        return points + _context(replica, request.prompt_tokens)

    def _thermal(self, key: tuple[str, str], replica: Replica, now_s: float) -> float:
        if replica.loaded is not None:
            self._hot.add(key)
            return 50.0
        if key in self._hot:
            self._hot.discard(key)
            self._unloaded_s[key] = now_s
        return 30.0 if now_s - self._unloaded_s.get(key, -1e9) < WARM_S else 10.0

    def _p75_s(self, key: tuple[str, str], bandwidth: float, size_gb: float) -> float:
        known = self._latencies.get(key)
        if known:
            ordered = sorted(known)
            return ordered[int(0.75 * (len(ordered) - 1))]
        return 100 / max(10.0, bandwidth * 1.2 / max(1.0, size_gb / 10))


def _hardware(node: Node) -> Hardware:
    return hardware_of(node.platform, node.vitals)


def _headroom(replica: Replica, nodes: Mapping[str, Node]) -> float:
    """Free memory over what the model needs."""
    node = nodes[replica.node_id]
    gpus = node.vitals.gpus
    free = sum(g.memory_free_bytes for g in gpus) if gpus else node.vitals.memory_available_bytes
    return float(free) / max(replica.model.size_bytes, 1)


def _memory(replica: Replica, headroom: float) -> float:
    if replica.loaded is not None or headroom > 2:
        return 20.0
    return 15.0 if headroom > 1.5 else 8.0 if headroom > 1.2 else 3.0 if headroom >= 1 else 0.0


def _role(bandwidth: float, size_gb: float) -> float:
    bonus = min(25.0, 5 + bandwidth / 40)
    if size_gb > 20:
        return bonus
    return max(3.0, 18 - 0.6 * bonus) if size_gb < 8 else 0.6 * bonus


def _context(replica: Replica, tokens: int) -> float:
    if replica.loaded is None or not replica.loaded.context_length:
        return 0.0
    ratio = replica.loaded.context_length / max(tokens, 1)
    steps = ((1.0, -15.0), (1.5, 3.0), (3.0, 7.5), (8.0, 12.0))
    return next((points for below, points in steps if ratio < below), 15.0)
