"""Checks of models in memory: what they take, how often they come and go, whether they answer."""

from collections.abc import Iterator

from ollama_herd.core.digests import digest_conflicts
from ollama_herd.core.fleet import engine_replicas
from ollama_herd.core.health.values import Seen, Severity, Snapshot
from ollama_herd.core.health.words import counted, gb, listed, node_name, percent, plain, seconds
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import LoadedModel, Node, NodeStatus, Replica
from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.tally import WINDOW_MINUTES

KV_BYTES = 4e9
KV_SHARE_OF_WEIGHTS = 1.0
KV_SHARE_OF_MEMORY = 0.15
"""A cache larger than the weights themselves, and than a seventh of the machine, is out of
proportion: the context (times the slots) is set higher than what fits beside the model."""

LOADS_S = 900.0
"""How far back loads are counted."""

THRASH_LOADS = 6
THRASH_SAME = 3
"""So many loads in LOADS_S, of which one model so often: it is thrown out and wanted again."""

CONTEXT_LARGE = 16_384
CONTEXT_USED_SHARE = 0.25
CONTEXT_REQUESTS = 50
"""A context is wasted when so many requests used no more than this share of a large one."""

STUCK_SILENCES = 2
"""Requests in a row that met silence where nothing was answered in the same time."""

FAILING_LOADS = 2


def kv_cache(snapshot: Snapshot) -> Iterator[Seen]:
    """Caches that take more memory than the model."""
    for node, replica, loaded in _loaded(snapshot):
        cache = loaded.size_bytes - replica.model.size_bytes
        total = node.vitals.memory_total_bytes + sum(
            gpu.memory_total_bytes for gpu in node.vitals.gpus if not gpu.unified
        )
        large = max(KV_BYTES, KV_SHARE_OF_MEMORY * total)
        if cache > max(large, KV_SHARE_OF_WEIGHTS * replica.model.size_bytes):
            yield _about(
                Severity.WARNING,
                replica,
                snapshot,
                f"{gb(cache)} beside weights of {gb(replica.model.size_bytes)} "
                f"(context {loaded.context_length:,}, {percent(cache, total)} of the memory)",
            )


def thrashing(snapshot: Snapshot) -> Iterator[Seen]:
    """Models that push each other out of memory."""
    by_node: dict[str, dict[str, int]] = {}
    for load in snapshot.loads:
        if load.at_s >= snapshot.now_s - LOADS_S:
            models = by_node.setdefault(load.node_id, {})
            models[load.model] = models.get(load.model, 0) + 1
    for node_id, models in by_node.items():
        often = [f"{plain(m)} {n} times" for m, n in sorted(models.items()) if n >= THRASH_SAME]
        if often and sum(models.values()) >= THRASH_LOADS:
            text = f"{sum(models.values())} loads in {seconds(LOADS_S)}: {listed(often)}"
            name = node_name(snapshot.fleet, node_id)
            yield Seen(Severity.WARNING, node_id, name, text, node_id=node_id)


def loads(snapshot: Snapshot) -> Iterator[Seen]:
    """Loads that take very long, or fail."""
    for (node_id, model), counts in snapshot.recent.by_place.items():
        if counts.slow_loads:
            text = (
                f"{counted(counts.slow_loads, 'slow load')} in {WINDOW_MINUTES} min, "
                f"the longest {seconds(counts.slowest_load_s)}"
            )
            yield _at(Severity.WARNING, (node_id, model), snapshot, text)
        failed = counts.attempts.get(OutcomeKind.ENGINE_ERROR, 0)
        answered = counts.attempts.get(OutcomeKind.COMPLETED, 0)
        if failed >= FAILING_LOADS and not answered and not _is_loaded(snapshot, node_id, model):
            text = f"not loaded, and {counted(failed, 'request')} in {WINDOW_MINUTES} min failed"
            advice = "Its engine's log says why: most often too little memory, or a damaged file."
            yield _at(Severity.WARNING, (node_id, model), snapshot, text, advice)


def context(snapshot: Snapshot) -> Iterator[Seen]:
    """Contexts that are far too large, or too small for what is asked."""
    places = snapshot.recent.by_place
    for (node_id, model), counts in places.items():
        cut = counts.prompt_cut + counts.context_cut
        if cut:
            text = (
                f"{counted(counts.prompt_cut, 'prompt')} and "
                f"{counted(counts.context_cut, 'answer')} cut at the end of the context "
                f"in {WINDOW_MINUTES} min"
            )
            advice = "Ask for a larger num_ctx, or set OLLAMA_CONTEXT_LENGTH of that engine."
            yield _at(Severity.WARNING, (node_id, model), snapshot, text, advice)
    for _node, replica, loaded in _loaded(snapshot):
        key = canonical_name(replica.model.name)
        used = places.get((replica.node_id, key))
        length = loaded.context_length
        if used is None or length < CONTEXT_LARGE or used.completed < CONTEXT_REQUESTS:
            continue
        if 0 < used.largest_tokens < CONTEXT_USED_SHARE * length:
            text = (
                f"a context of {length:,} tokens is loaded, the longest of "
                f"{used.completed:,} requests used {used.largest_tokens:,}"
            )
            advice = "A smaller OLLAMA_CONTEXT_LENGTH there leaves memory for other models."
            yield _about(Severity.INFO, replica, snapshot, text, advice)


def stuck_runner(snapshot: Snapshot) -> Iterator[Seen]:
    """The engine answers, a model on it does not."""
    found: dict[tuple[str, str], str] = {}
    for (node_id, model), counts in snapshot.recent.by_place.items():
        silent = counts.attempts.get(OutcomeKind.SILENT, 0)
        if silent >= STUCK_SILENCES and not counts.attempts.get(OutcomeKind.COMPLETED, 0):
            node = snapshot.fleet.nodes.get(node_id)
            if node is not None and node.status is NodeStatus.ONLINE:
                text = f"{silent} of {silent} requests met silence in {WINDOW_MINUTES} min"
                found[node_id, model] = text
    for stuck in snapshot.stuck:
        said = f": {plain(stuck.detail)}" if stuck.detail else ""
        found[stuck.node_id, stuck.model] = f"does not answer a one-token test{said}"
    for (node_id, model), text in found.items():
        yield _at(Severity.CRITICAL, (node_id, model), snapshot, text)


def digests(snapshot: Snapshot) -> Iterator[Seen]:
    """One name, different models."""
    for conflict in digest_conflicts(snapshot.fleet):
        nodes = sorted({node_id for _, holders in conflict.others for node_id in holders})
        names = listed([node_name(snapshot.fleet, node_id) for node_id in nodes])
        text = f"other models under this name on {names}; they are not used"
        yield Seen(
            Severity.WARNING, conflict.model, plain(conflict.model), text, model=conflict.model
        )


def duplicates(snapshot: Snapshot) -> Iterator[Seen]:
    """The same weights in the memory of one machine twice."""
    seen: dict[tuple[str, str], list[Replica]] = {}
    for _node, replica, _loaded_model in _loaded(snapshot):
        if replica.model.weights:
            seen.setdefault((replica.node_id, replica.model.weights), []).append(replica)
    for (node_id, _), replicas in seen.items():
        engines = sorted({replica.engine_id for replica in replicas})
        if len(engines) > 1:
            size = sum(r.loaded.size_bytes for r in replicas if r.loaded is not None)
            text = (
                f"{plain(replicas[0].model.name)} is loaded by {listed(engines)}, {gb(size)} in all"
            )
            yield Seen(
                Severity.WARNING,
                f"{node_id}:{replicas[0].runner}",
                node_name(snapshot.fleet, node_id),
                text,
                node_id=node_id,
                model=replicas[0].model.name,
            )


def _loaded(snapshot: Snapshot) -> Iterator[tuple[Node, Replica, LoadedModel]]:
    """What is in memory, each runner once, on nodes that report."""
    for node in snapshot.fleet.nodes.values():
        if node.status not in (NodeStatus.ONLINE, NodeStatus.LATE):
            continue
        for engine in node.engines:
            if not engine.loaded or engine.error:
                continue
            runners = set()
            for replica in engine_replicas(node, engine):
                if replica.loaded is not None and replica.runner not in runners:
                    runners.add(replica.runner)
                    yield node, replica, replica.loaded


def _is_loaded(snapshot: Snapshot, node_id: str, model: str) -> bool:
    return any(
        replica.loaded is not None
        for replica in snapshot.fleet.replicas.get(model, ())
        if replica.node_id == node_id
    )


def _about(
    severity: Severity, replica: Replica, snapshot: Snapshot, text: str, advice: str = ""
) -> Seen:
    return _at(severity, (replica.node_id, replica.model.name), snapshot, text, advice)


def _at(
    severity: Severity, place: tuple[str, str], snapshot: Snapshot, text: str, advice: str = ""
) -> Seen:
    node_id, model = place
    name = f"{plain(model)} on {node_name(snapshot.fleet, node_id)}"
    return Seen(severity, f"{node_id}:{model}", name, text, advice, node_id=node_id, model=model)
