"""The fleet as the router believes it: `apply(fleet, event, now_s)` gives the next one.

Only `router/registry.py` applies events. Everyone else reads the frozen result. The replica
indexes are rebuilt only for nodes whose engines, status or address changed.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec

from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import (
    Endpoint,
    EngineReport,
    LoadedModel,
    Node,
    NodeReport,
    NodeStatus,
    Platform,
    Reach,
    Replica,
    Vitals,
)

LATE_AFTER_INTERVALS = 3
"""Heartbeats missed until a node is late: one lost packet and one slow tick are not news."""

OFFLINE_AFTER_INTERVALS = 8
"""Heartbeats missed until a node is offline (16 s at the default interval; the routing study
takes a node out after 15 s)."""

STATUS_TRANSITIONS: Mapping[NodeStatus, frozenset[NodeStatus]] = MappingProxyType(
    {
        NodeStatus.RESTORED: frozenset({NodeStatus.ONLINE, NodeStatus.OFFLINE}),
        NodeStatus.ONLINE: frozenset({NodeStatus.LATE, NodeStatus.OFFLINE}),
        NodeStatus.LATE: frozenset({NodeStatus.ONLINE, NodeStatus.OFFLINE}),
        NodeStatus.OFFLINE: frozenset({NodeStatus.ONLINE}),
    }
)
"""Every way a node's status may change; nothing else happens (held by a property test)."""

USABLE = frozenset({NodeStatus.RESTORED, NodeStatus.ONLINE, NodeStatus.LATE})
"""Statuses in which a node is offered requests."""

_Section = TypeVar("_Section")

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class NodeReported(msgspec.Struct, frozen=True):
    """A heartbeat arrived from `address` (the peer's IP address)."""

    report: NodeReport
    address: str


class TimePassed(msgspec.Struct, frozen=True):
    """A tick: overdue nodes become late, then offline."""

    interval_s: float


class NodeDrained(msgspec.Struct, frozen=True):
    """An operator stops (or resumes) new requests to a node."""

    node_id: str
    draining: bool


class NodeForgotten(msgspec.Struct, frozen=True):
    """An operator removes a node from the fleet."""

    node_id: str


FleetEvent = NodeReported | TimePassed | NodeDrained | NodeForgotten


class Fleet(msgspec.Struct, frozen=True):
    """All nodes and, by canonical model name, the replicas on usable nodes.

    `unusable` holds the replicas of known nodes that cannot be used now (offline, draining,
    engine not answering), so that a refusal can say why. `revision` grows with each change.
    """

    nodes: Mapping[str, Node] = MappingProxyType({})
    replicas: Mapping[str, tuple[Replica, ...]] = MappingProxyType({})
    unusable: Mapping[str, tuple[Replica, ...]] = MappingProxyType({})
    revision: int = 0


def apply(fleet: Fleet, event: FleetEvent, now_s: float) -> Fleet:
    """The fleet after `event`; the same object when the event changes nothing."""
    match event:
        case NodeReported():
            return _reported(fleet, event, now_s)
        case TimePassed():
            return _aged(fleet, event.interval_s, now_s)
        case NodeDrained():
            return _drained(fleet, event)
        case NodeForgotten():
            if event.node_id not in fleet.nodes:
                return fleet
            return _with_nodes(fleet, {k: v for k, v in fleet.nodes.items() if k != event.node_id})


def needs_full_report(fleet: Fleet, report: NodeReport) -> bool:
    """True when a delta cannot be understood: its base is not known here."""
    known = fleet.nodes.get(report.node_id)
    is_delta = report.engines is None or report.vitals is None or report.platform is None
    return is_delta and (known is None or known.boot != report.boot)


def is_stale(fleet: Fleet, report: NodeReport) -> bool:
    """True for a report that is not newer than the last one of its node."""
    known = fleet.nodes.get(report.node_id)
    return known is not None and (report.boot, report.seq) <= (known.boot, known.seq)


def restored(nodes: Iterable[Node], now_s: float) -> Fleet:
    """The last known fleet after a restart: usable at once, offline if nobody reports soon."""
    known = {
        node.node_id: msgspec.structs.replace(
            node,
            status=NodeStatus.OFFLINE if node.status is NodeStatus.OFFLINE else NodeStatus.RESTORED,
            first_seen_s=now_s,
            last_report_s=now_s,
        )
        for node in nodes
    }
    return _with_nodes(Fleet(), known)


def _reported(fleet: Fleet, event: NodeReported, now_s: float) -> Fleet:
    report = event.report
    if is_stale(fleet, report) or needs_full_report(fleet, report):
        return fleet
    known = fleet.nodes.get(report.node_id)
    status = NodeStatus.OFFLINE if report.leaving else NodeStatus.ONLINE
    node = Node(
        node_id=report.node_id,
        name=report.name or (known.name if known else report.node_id),
        address=event.address,
        status=status,
        boot=report.boot,
        seq=report.seq,
        first_seen_s=known.first_seen_s if known else now_s,
        last_report_s=now_s,
        agent_version=report.agent_version or (known.agent_version if known else ""),
        relay_port=report.relay_port or (known.relay_port if known else 0),
        relay_key=report.relay_key or (known.relay_key if known else ""),
        draining=known.draining if known else False,
        platform=_said(report.platform, known.platform if known else None, Platform()),
        vitals=_said(report.vitals, known.vitals if known else None, Vitals()),
        engines=_said(report.engines, known.engines if known else None, ()),
    )
    nodes = {**fleet.nodes, node.node_id: node}
    if known is not None and _serves_the_same(known, node):
        return msgspec.structs.replace(
            fleet, nodes=MappingProxyType(nodes), revision=fleet.revision + 1
        )
    return _with_nodes(fleet, nodes)


def _said(new: _Section | None, known: _Section | None, default: _Section) -> _Section:
    if new is not None:
        return new
    return known if known is not None else default


def _serves_the_same(before: Node, after: Node) -> bool:
    """Whether the replica indexes stay as they are."""
    return (
        (before.engines is after.engines or before.engines == after.engines)
        and (before.status in USABLE) == (after.status in USABLE)
        and before.address == after.address
        and before.relay_port == after.relay_port
        and before.relay_key == after.relay_key
        and before.draining == after.draining
    )


def _aged(fleet: Fleet, interval_s: float, now_s: float) -> Fleet:
    changed = {}
    for node in fleet.nodes.values():
        status = _status_at(node, now_s - node.last_report_s, interval_s)
        if status is not node.status:
            changed[node.node_id] = msgspec.structs.replace(node, status=status)
    if not changed:
        return fleet
    return _with_nodes(fleet, {**fleet.nodes, **changed})


def _status_at(node: Node, silent_s: float, interval_s: float) -> NodeStatus:
    if node.status is NodeStatus.OFFLINE or silent_s > OFFLINE_AFTER_INTERVALS * interval_s:
        return NodeStatus.OFFLINE
    if node.status is NodeStatus.ONLINE and silent_s > LATE_AFTER_INTERVALS * interval_s:
        return NodeStatus.LATE
    return node.status


def _drained(fleet: Fleet, event: NodeDrained) -> Fleet:
    node = fleet.nodes.get(event.node_id)
    if node is None or node.draining == event.draining:
        return fleet
    changed = msgspec.structs.replace(node, draining=event.draining)
    return _with_nodes(fleet, {**fleet.nodes, node.node_id: changed})


def _with_nodes(fleet: Fleet, nodes: Mapping[str, Node]) -> Fleet:
    usable: dict[str, list[Replica]] = {}
    unusable: dict[str, list[Replica]] = {}
    for node in nodes.values():
        node_usable = node.status in USABLE and not node.draining
        for engine in node.engines:
            target = usable if node_usable and not engine.error else unusable
            for replica in engine_replicas(node, engine):
                target.setdefault(canonical_name(replica.model.name), []).append(replica)
    return Fleet(
        nodes=MappingProxyType(dict(nodes)),
        replicas=_frozen(usable),
        unusable=_frozen(unusable),
        revision=fleet.revision + 1,
    )


def _frozen(index: dict[str, list[Replica]]) -> Mapping[str, tuple[Replica, ...]]:
    return MappingProxyType({name: tuple(found) for name, found in index.items()})


def engine_replicas(node: Node, engine: EngineReport) -> list[Replica]:
    """One replica a model of the engine; aliases of loaded weights count as loaded.

    Ollama's `/api/ps` names only the first alias of a runner, so loaded is matched by weights.
    """
    loaded_by_runner: dict[str, LoadedModel] = {}
    runner_of = {
        canonical_name(model.name): model.weights or canonical_name(model.name)
        for model in engine.models
    }
    for loaded in engine.loaded:
        key = canonical_name(loaded.name)
        loaded_by_runner.setdefault(runner_of.get(key, key), loaded)
    endpoint = engine_endpoint(node, engine)
    return [
        Replica(
            node_id=node.node_id,
            engine_id=engine.engine_id,
            kind=engine.kind,
            model=model,
            runner=runner_of[canonical_name(model.name)],
            loaded=loaded_by_runner.get(runner_of[canonical_name(model.name)]),
            slots=engine.slots,
            max_loaded=engine.max_loaded,
            endpoint=endpoint,
        )
        for model in engine.models
    ]


def engine_endpoint(node: Node, engine: EngineReport) -> Endpoint:
    """A report never names a host: the router connects only to where the report came from.

    An engine on the router's own machine, or one that listens on the node's address, is reached
    directly; every other one through the node's relay.
    """
    is_local = node.address in _LOOPBACK and engine.reach is not Reach.REMOTE
    if is_local or engine.reach is Reach.LAN:
        return Endpoint(host=node.address, port=engine.port)
    return Endpoint(
        host=node.address, port=node.relay_port, tunnel=engine.engine_id, key=node.relay_key
    )
