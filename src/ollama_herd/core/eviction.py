"""What has to go from a machine's memory for a model to load: the least loss, not the least recent.

Loss is the load it will take again, by how likely and how often. An Ollama left to itself would
unload by age, so the router names what goes before it sends a request that loads. It never names a
model that an operator has pinned, nor one that somebody has asked to be kept: where nothing else
would do, the engine chooses.
"""

from collections.abc import Mapping
from math import exp

from ollama_herd.core import hardware as hw
from ollama_herd.core.inflight import ReplicaLoad
from ollama_herd.core.load import Load
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import EngineKind, EngineReport, Node
from ollama_herd.core.place import Place
from ollama_herd.core.remaining import remaining_times

BLOCKED_EVICTION_SHARE = 0.2
"""Share of the wait for a busy victim that counts as harm to it."""

FOR_EVER = "21"
"""`expires_at` of a model kept without end is in the year 2319 (recorded)."""

PINNED_LOSS_S = 600.0
"""Loss of a pinned model: any other place is better, but a request nobody else can take comes
first. The planner loads it again."""


def eviction(
    place: Place, nodes: Mapping[str, Node], load: Load, now_s: float
) -> tuple[float, float]:
    """(cost of what has to be unloaded, wait until something can be), both in seconds.

    `place.load.victims` are then the replicas to unload, () where the engine is to choose, and
    `place.load.displaced` those that it will unload itself, having no choice.
    """
    replica, node = place.load, place.node
    report = nodes[node.node.node_id]
    if (
        replica.plan_until_s > now_s
        and replica.plan_report is report
        and replica.plan_version == node.version
    ):
        return replica.plan
    replica.victims = ()
    replica.displaces = 0
    plan = _plan(place, report, load, now_s)
    replica.plan = plan
    replica.plan_version = node.version
    replica.plan_report = report
    replica.plan_until_s = int(now_s) + 1.0
    return plan


def _plan(place: Place, report: Node, load: Load, now_s: float) -> tuple[float, float]:
    replica = place.load
    engine = next((e for e in report.engines if e.engine_id == replica.key[1]), None)
    if engine is None or engine.kind is not EngineKind.OLLAMA:
        return 0.0, 0.0
    residents, unseen_bytes = _residents(place, engine, report.last_report_s)
    surplus, deficit = _missing(place, report, engine, unseen_bytes)
    surplus += len(residents)
    if surplus <= 0 and deficit <= 0:
        return 0.0, 0.0
    idle = []
    busy = []
    for number, (size, other) in enumerate(residents):
        if other is not None and other.running:
            busy.append(max(remaining_times(other, now_s)))
        else:
            cost = loss_s(other, load, now_s) if other is not None else 0.0
            idle.append((_standing(other, now_s), cost / max(size, 1e6), number, cost))
    idle.sort()
    total, gone = 0.0, 0
    while gone < len(idle) and (surplus > 0 or deficit > 0):
        total += idle[gone][3]
        surplus -= 1
        deficit -= residents[idle[gone][2]][0]
        gone += 1
    replica.displaces = gone + (surplus > 0 or deficit > 0)
    if busy and (surplus > 0 or deficit > 0):
        wait_s = max(min(busy), 1e-3)
        return total + BLOCKED_EVICTION_SHARE * wait_s, wait_s
    going = [residents[entry[2]][1] for entry in idle[:gone]]
    known = tuple([victim for victim in going if victim is not None])
    if gone == len(idle):
        # There is no choice, and where memory was judged wrongly no need to unload at all.
        replica.displaced = known
    elif len(known) == gone and all(entry[0] == _ORDINARY for entry in idle[:gone]):
        replica.victims = known  # others' are not ours to unload
    return total, 0.0


def _missing(
    place: Place, report: Node, engine: EngineReport, unseen_bytes: float
) -> tuple[int, float]:
    """Models too many, those in memory not counted, and bytes too few; negative where enough."""
    hardware = place.node.pace.hardware
    limit = engine.max_loaded or 3 * max(1, hardware.gpus)
    deficit = 0.0
    if report.vitals.memory_total_bytes:
        free = _free_bytes(report, hardware) - unseen_bytes
        deficit = hw.needed_bytes(int(place.load.rates.scale.size_gb * hw.GB)) - free
    return 1 - limit, deficit


_ORDINARY, _KEPT, _PINNED = 0, 1, 2


def _standing(other: ReplicaLoad | None, now_s: float) -> int:
    """Who goes first: models nobody spoke for, then those asked to be kept, then pinned ones."""
    if other is None:
        return _ORDINARY
    if other.is_pinned:
        return _PINNED
    is_kept = other.changed_s + other.keep_alive_s > now_s or is_kept_for_ever(other)
    return _KEPT if is_kept else _ORDINARY


def is_kept_for_ever(replica: ReplicaLoad) -> bool:
    """Whether its engine says that it is to be kept without end."""
    loaded = replica.replica.loaded
    return loaded is not None and loaded.expires_at >= FOR_EVER


def _free_bytes(report: Node, hardware: hw.Hardware) -> float:
    if hardware.compute is hw.Compute.DISCRETE:
        return sum(g.memory_free_bytes for g in report.vitals.gpus if not g.unified)
    return report.vitals.memory_available_bytes


def _residents(
    place: Place, engine: EngineReport, reported_s: float
) -> tuple[list[tuple[float, ReplicaLoad | None]], float]:
    """Other models in memory as (bytes, load), and the bytes that the report does not count yet,
    less those that it counts still.
    """
    node_id, engine_id, own = place.load.key
    runner_of = {canonical_name(m.name): m.weights or canonical_name(m.name) for m in engine.models}
    known = place.node.replicas
    found: dict[tuple[str, str, str], tuple[float, ReplicaLoad | None]] = {}
    unseen = 0.0
    for loaded in engine.loaded:
        name = canonical_name(loaded.name)
        key = (node_id, engine_id, runner_of.get(name, name))
        if key[2] == own:
            continue
        resident = known.get(key)
        if resident is not None and resident.is_going(reported_s):
            unseen -= loaded.size_bytes  # the report still counts it
        else:
            found[key] = (loaded.size_bytes, resident)
    for key, replica in known.items():
        is_present = replica.is_hot or replica.loading_until_s > 0
        if key[1] == engine_id and key[2] != own and is_present and key not in found:
            size = hw.needed_bytes(int(replica.rates.scale.size_gb * hw.GB))
            found[key] = (size, replica)
            unseen += size
    return list(found.values()), unseen


def loss_s(victim: ReplicaLoad, load: Load, now_s: float) -> float:
    """What unloading costs: the load it will take again, by how likely and how often."""
    if victim.is_pinned:
        return PINNED_LOSS_S
    rate = victim.rate_per_s(now_s)
    if not rate:
        return 0.0
    others = load.by_runner.get(victim.key[2], ())
    elsewhere = any(other.is_hot and other is not victim for other in others)
    share = 0.4 if elsewhere else 1.0
    return (1 - exp(-600 * rate)) * min(3.0, 1 + 30 * rate) * victim.rates.load_s * share
