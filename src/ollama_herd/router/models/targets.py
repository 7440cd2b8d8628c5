"""Which engines a call that manages models goes to. Only Ollama manages models."""

from collections.abc import Iterable, Sequence

import msgspec
import structlog

from ollama_herd.api.errors import DEFAULT_RETRY_AFTER_S, ApiError
from ollama_herd.core.digests import is_served, served_digest
from ollama_herd.core.fleet import USABLE, Fleet, engine_endpoint
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import Endpoint, EngineKind, Node, Replica
from ollama_herd.core.placement import Placement, expected_bytes, place
from ollama_herd.router.models.answers import CallRefused

_log = structlog.get_logger(__name__)

_GB = 10**9


class Target(msgspec.Struct, frozen=True):
    """An Ollama of a node. `name` is the node's."""

    node_id: str
    engine_id: str
    name: str
    address: Endpoint


def all_targets(fleet: Fleet) -> list[Target]:
    """Every usable Ollama, by the names of the nodes."""
    found = [target for node in fleet.nodes.values() for target in _targets_of(node)]
    return sorted(found, key=lambda target: (target.name, target.node_id, target.engine_id))


def named_targets(fleet: Fleet, wanted: str) -> list[Target]:
    """The Ollamas of the node called `wanted` (name or id). Raises CallRefused."""
    lowered = wanted.lower()
    nodes = [
        node
        for node in fleet.nodes.values()
        if lowered in (node.name.lower(), node.node_id.lower())
    ]
    if not nodes:
        known = ", ".join(sorted(node.name for node in fleet.nodes.values())) or "none"
        message = f"there is no node {wanted!r}; the herd knows: {known}"
        raise CallRefused(ApiError(404, message, "unknown_node"))
    found = [target for node in nodes for target in _targets_of(node)]
    if not found:
        message = f"node {wanted!r} cannot be used now: {_why_not(nodes[0])}"
        raise CallRefused(ApiError(503, message, "no_node", DEFAULT_RETRY_AFTER_S))
    return found


def holders(fleet: Fleet, model: str, *, served_only: bool = False) -> list[Target]:
    """The usable Ollamas that have the model; with `served_only` the one digest that is served."""
    key = canonical_name(model)
    # Quiet hours keep requests away, not what somebody asks for who manages models.
    quiet = tuple(r for r in fleet.unusable.get(key, ()) if _is_quiet(fleet, r) and not r.is_cloud)
    replicas = (*fleet.replicas.get(key, ()), *quiet)
    digest = served_digest(replicas) if served_only else ""
    having = {
        (r.node_id, r.engine_id)
        for r in replicas
        if r.kind is EngineKind.OLLAMA and (not digest or is_served(r.model.digest, digest))
    }
    return [t for t in all_targets(fleet) if (t.node_id, t.engine_id) in having]


def other_replicas(fleet: Fleet, model: str) -> Sequence[Replica]:
    """The model on engines that are no Ollama and manage their models themselves."""
    replicas = fleet.replicas.get(canonical_name(model), ())
    return [replica for replica in replicas if replica.kind is not EngineKind.OLLAMA]


def new_home(fleet: Fleet, model: str) -> list[Target]:
    """The one Ollama for a model that no node has yet. Raises CallRefused."""
    return [roomiest(fleet, expected_bytes(model))]


def roomiest(fleet: Fleet, size_bytes: int) -> Target:
    """The Ollama for so much more on its disk. Raises CallRefused."""
    targets = any_targets(fleet)
    node_ids = {target.node_id for target in targets}
    placed = place((fleet.nodes[node_id] for node_id in sorted(node_ids)), size_bytes)
    if not placed.node_id:
        raise CallRefused(_no_room(placed))
    return next(target for target in targets if target.node_id == placed.node_id)


def any_targets(fleet: Fleet) -> list[Target]:
    """Every usable Ollama, at least one. Raises CallRefused."""
    targets = all_targets(fleet)
    if not targets:
        message = (
            "no node with a running Ollama is in the herd now; start Ollama and herd-node on one"
        )
        raise CallRefused(ApiError(503, message, "no_node", DEFAULT_RETRY_AFTER_S))
    return targets


def log_absent_holders(fleet: Fleet, model: str, doing: str) -> None:
    """Nodes that are away keep what they have: say so, as nobody will tell them later."""
    gone = fleet.unusable.get(canonical_name(model), ())
    away = [replica for replica in gone if not _is_quiet(fleet, replica)]
    if away:
        names = sorted({fleet.nodes[replica.node_id].name for replica in away})
        _log.warning("nodes that cannot be used now keep the model", doing=doing, nodes=names)


def names_of(targets: Iterable[Target]) -> list[str]:
    """The nodes' names, each once."""
    return list(dict.fromkeys(target.name for target in targets))


def is_usable(fleet: Fleet, target: Target) -> bool:
    """Whether the node of a target is still there."""
    node = fleet.nodes.get(target.node_id)
    return node is not None and node.status in USABLE


def _is_quiet(fleet: Fleet, replica: Replica) -> bool:
    return bool(fleet.nodes[replica.node_id].vitals.quiet_until)


def _targets_of(node: Node) -> list[Target]:
    if node.status not in USABLE or node.draining:
        return []
    return [
        Target(node.node_id, engine.engine_id, node.name, engine_endpoint(node, engine))
        for engine in node.engines
        if engine.kind is EngineKind.OLLAMA and not engine.error
    ]


def _why_not(node: Node) -> str:
    if node.status not in USABLE:
        return f"it is {node.status.value}"
    if node.draining:
        return "it is draining"
    errors = [engine.error for engine in node.engines if engine.error]
    return errors[0] if errors else "it runs no Ollama"


def _no_room(placed: Placement) -> ApiError:
    free = ", ".join(
        f"{room.name} has {(room.disk_free_bytes or 0) / _GB:.1f} GB" for room in placed.rooms
    )
    message = (
        f"no node has room for about {placed.needed_bytes / _GB:.1f} GB on its disk ({free}); "
        "delete a model, or name a node with X-Herd-Node"
    )
    return ApiError(507, message, "no_room")
