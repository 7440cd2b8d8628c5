"""The fleet as the router believes it: `apply(fleet, event, now_s)` gives the next one.

Only `router/registry.py` applies events. Everyone else reads the frozen result. The replica
indexes change only where a node's engines, status or address did: replicas that stay the same
are the same objects in the next fleet, and so are the tuples of models none of whose replicas
changed. Readers may keep what they made of a tuple for as long as they see that tuple.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec

from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import (
    Detour,
    Endpoint,
    EngineReport,
    LoadedModel,
    Model,
    Node,
    NodeReport,
    NodeStatus,
    Platform,
    Reach,
    Replica,
    StuckRunner,
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
    """A heartbeat arrived from `address` (the peer's IP address) at `wall_s` (seconds since 1970,
    0 where nobody looked at a clock).
    """

    report: NodeReport
    address: str
    wall_s: float = 0.0


class TimePassed(msgspec.Struct, frozen=True):
    """A tick: overdue nodes become late, then offline.

    `missed_s` is how long, since its start, the router was too busy (or asleep) to hear anything:
    no node can be blamed for that time.
    """

    interval_s: float
    missed_s: float = 0.0


class NodeDrained(msgspec.Struct, frozen=True):
    """An operator stops (or resumes) new requests to a node."""

    node_id: str
    draining: bool


class NodeRenamed(msgspec.Struct, frozen=True):
    """An operator gives a node another name."""

    node_id: str
    name: str


class NodeForgotten(msgspec.Struct, frozen=True):
    """An operator removes a node from the fleet."""

    node_id: str


class EngineRelisted(msgspec.Struct, frozen=True):
    """The router itself has read which models an engine has, after a change it made there."""

    node_id: str
    engine_id: str
    models: tuple[Model, ...]


class RunnersStuck(msgspec.Struct, frozen=True):
    """These runners hang now, and no others."""

    stuck: tuple[StuckRunner, ...]


FleetEvent = (
    NodeReported
    | TimePassed
    | NodeDrained
    | NodeRenamed
    | NodeForgotten
    | EngineRelisted
    | RunnersStuck
)


class Listed(msgspec.Struct, frozen=True):
    """A replica of a node, under which canonical model name, and whether it can be used now.

    `because` is what makes it unusable: another reason is another entry.
    """

    model_key: str
    replica: Replica
    is_usable: bool
    because: tuple[NodeStatus, bool, str, str] | None = None


class Fleet(msgspec.Struct, frozen=True):
    """All nodes and, by canonical model name, the replicas on usable nodes.

    `unusable` holds the replicas of known nodes that cannot be used now (offline, draining, quiet
    hours, engine not answering), so that a refusal can say why. `revision` grows with each change.
    `listed` has the same replicas by node; it is there for the next `apply`. `missed_s` is as of
    the last tick. `stuck` are runners that hang on engines that look healthy. Models that Ollama's
    cloud runs are `unusable` unless `cloud_models` is set.
    """

    nodes: Mapping[str, Node] = MappingProxyType({})
    replicas: Mapping[str, tuple[Replica, ...]] = MappingProxyType({})
    unusable: Mapping[str, tuple[Replica, ...]] = MappingProxyType({})
    revision: int = 0
    listed: Mapping[str, tuple[Listed, ...]] = MappingProxyType({})
    missed_s: float = 0.0
    stuck: tuple[StuckRunner, ...] = ()
    cloud_models: bool = False


def apply(fleet: Fleet, event: FleetEvent, now_s: float) -> Fleet:
    """The fleet after `event`; the same object when the event changes nothing."""
    match event:
        case NodeReported():
            return _reported(fleet, event, now_s)
        case TimePassed():
            return _aged(fleet, event, now_s)
        case NodeDrained() | NodeRenamed():
            return _decided(fleet, event)
        case EngineRelisted():
            return _relisted(fleet, event)
        case RunnersStuck():
            return _stuck(fleet, event)
        case NodeForgotten():
            return _forgotten(fleet, event)


def needs_full_report(fleet: Fleet, report: NodeReport) -> bool:
    """True when a delta cannot be understood: its base is not known here."""
    known = fleet.nodes.get(report.node_id)
    is_delta = report.engines is None or report.vitals is None or report.platform is None
    return is_delta and (known is None or known.boot != report.boot)


def is_stale(fleet: Fleet, report: NodeReport) -> bool:
    """True for a report that is not newer than the last one of its node."""
    known = fleet.nodes.get(report.node_id)
    return known is not None and (report.boot, report.seq) <= (known.boot, known.seq)


def restored(nodes: Iterable[Node], now_s: float, *, cloud_models: bool = False) -> Fleet:
    """The last known fleet after a restart: usable at once, offline if nobody reports soon."""
    known = {
        node.node_id: msgspec.structs.replace(
            node,
            status=NodeStatus.OFFLINE if node.status is NodeStatus.OFFLINE else NodeStatus.RESTORED,
            first_seen_s=now_s,
            last_report_s=now_s,
            missed_s=0.0,
        )
        for node in nodes
    }
    return _with_nodes(Fleet(cloud_models=cloud_models), known, known)


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
        missed_s=fleet.missed_s,
        agent_version=report.agent_version or (known.agent_version if known else ""),
        relay_port=report.relay_port or (known.relay_port if known else 0),
        relay_key=report.relay_key or (known.relay_key if known else ""),
        draining=known.draining if known else False,
        platform=_said(report.platform, known.platform if known else None, Platform()),
        vitals=_said(report.vitals, known.vitals if known else None, Vitals()),
        engines=_said(report.engines, known.engines if known else None, ()),
        clock_skew_s=_skew_s(event, known),
        has_left=report.leaving,
    )
    nodes = {**fleet.nodes, node.node_id: node}
    if known is not None and _serves_the_same(known, node):
        return msgspec.structs.replace(
            fleet, nodes=MappingProxyType(nodes), revision=fleet.revision + 1
        )
    return _with_nodes(fleet, nodes, (node.node_id,))


def _skew_s(event: NodeReported, known: Node | None) -> float:
    """Of the last few reports the skew nearest to 0, slowly forgotten: a report that was long under
    way looks like a clock that is behind.
    """
    sent_at_ms = event.report.sent_at_ms
    if not sent_at_ms or not event.wall_s:
        return 0.0
    skew_s = sent_at_ms / 1e3 - event.wall_s
    if known is not None and abs(known.clock_skew_s) < abs(skew_s):
        return known.clock_skew_s + 0.25 * (skew_s - known.clock_skew_s)
    return skew_s


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
        and before.vitals.quiet_until == after.vitals.quiet_until
    )


def _aged(fleet: Fleet, event: TimePassed, now_s: float) -> Fleet:
    missed_s = max(fleet.missed_s, event.missed_s)
    changed = {}
    for node in fleet.nodes.values():
        silent_s = now_s - node.last_report_s - (missed_s - node.missed_s)
        status = _status_at(node, silent_s, event.interval_s)
        if status is not node.status:
            changed[node.node_id] = msgspec.structs.replace(node, status=status)
    heard = fleet
    if missed_s != fleet.missed_s:
        heard = msgspec.structs.replace(fleet, missed_s=missed_s, revision=fleet.revision + 1)
    if not changed:
        return heard
    return msgspec.structs.replace(
        _with_nodes(fleet, {**fleet.nodes, **changed}, changed), missed_s=missed_s
    )


def _status_at(node: Node, silent_s: float, interval_s: float) -> NodeStatus:
    if node.status is NodeStatus.OFFLINE or silent_s > OFFLINE_AFTER_INTERVALS * interval_s:
        return NodeStatus.OFFLINE
    if node.status is NodeStatus.ONLINE and silent_s > LATE_AFTER_INTERVALS * interval_s:
        return NodeStatus.LATE
    return node.status


def _decided(fleet: Fleet, event: NodeDrained | NodeRenamed) -> Fleet:
    node = fleet.nodes.get(event.node_id)
    if node is None:
        return fleet
    if isinstance(event, NodeDrained):
        changed = msgspec.structs.replace(node, draining=event.draining)
    else:
        changed = msgspec.structs.replace(node, name=event.name)
    if (changed.draining, changed.name) == (node.draining, node.name):
        return fleet
    return _with_nodes(fleet, {**fleet.nodes, node.node_id: changed}, (node.node_id,))


def _relisted(fleet: Fleet, event: EngineRelisted) -> Fleet:
    node = fleet.nodes.get(event.node_id)
    if node is None:
        return fleet
    engines = tuple(
        msgspec.structs.replace(engine, models=event.models)
        if engine.engine_id == event.engine_id and engine.models != event.models
        else engine
        for engine in node.engines
    )
    if engines == node.engines:
        return fleet
    changed = msgspec.structs.replace(node, engines=engines)
    return _with_nodes(fleet, {**fleet.nodes, node.node_id: changed}, (node.node_id,))


def _forgotten(fleet: Fleet, event: NodeForgotten) -> Fleet:
    if event.node_id not in fleet.nodes:
        return fleet
    left = {k: v for k, v in fleet.nodes.items() if k != event.node_id}
    return _with_nodes(fleet, left, (event.node_id,))


def _stuck(fleet: Fleet, event: RunnersStuck) -> Fleet:
    if event.stuck == fleet.stuck:
        return fleet
    return msgspec.structs.replace(fleet, stuck=event.stuck, revision=fleet.revision + 1)


def _with_nodes(fleet: Fleet, nodes: Mapping[str, Node], changed: Collection[str]) -> Fleet:
    """The next fleet, in which the nodes named in `changed` are new, different or gone."""
    listed = dict(fleet.listed)
    touched: tuple[set[str], set[str]] = (set(), set())  # keys of unusable, of usable replicas
    fresh: dict[str, list[Listed]] = {}
    for node_id in changed:
        before = listed.pop(node_id, ())
        node = nodes.get(node_id)
        after = _list(node, before, cloud=fleet.cloud_models) if node is not None else ()
        if after:
            listed[node_id] = after
        kept = {id(entry) for entry in before} & {id(entry) for entry in after}
        for entry in (*before, *after):
            if id(entry) not in kept:
                touched[entry.is_usable].add(entry.model_key)
        for entry in after:
            fresh.setdefault(entry.model_key, []).append(entry)
    gone = frozenset(changed)
    return Fleet(
        nodes=MappingProxyType(dict(nodes)),
        replicas=_reindexed(fleet.replicas, touched[True], fresh, gone, is_usable=True),
        unusable=_reindexed(fleet.unusable, touched[False], fresh, gone, is_usable=False),
        revision=fleet.revision + 1,
        listed=MappingProxyType(listed),
        missed_s=fleet.missed_s,
        stuck=fleet.stuck,
        cloud_models=fleet.cloud_models,
    )


def _list(node: Node, before: tuple[Listed, ...], *, cloud: bool) -> tuple[Listed, ...]:
    """The node's replicas; entries that say the same as one of `before` are that one.

    Models of Ollama's cloud can be used where `cloud` says so.
    """
    known = {(entry.model_key, entry.replica.engine_id): entry for entry in before}
    quiet_until = node.vitals.quiet_until
    node_usable = node.status in USABLE and not node.draining and not quiet_until
    entries = []
    for engine in node.engines:
        engine_usable = node_usable and not engine.error
        because = (node.status, node.draining, engine.error, quiet_until)
        for replica in engine_replicas(node, engine):
            is_usable = engine_usable and (cloud or not replica.is_cloud)
            key = canonical_name(replica.model.name)
            entry = Listed(key, replica, is_usable, None if is_usable else because)
            same = known.get((entry.model_key, replica.engine_id))
            entries.append(same if same == entry else entry)
    return tuple(entries)


def _reindexed(
    index: Mapping[str, tuple[Replica, ...]],
    touched: Iterable[str],
    fresh: Mapping[str, list[Listed]],
    changed: frozenset[str],
    *,
    is_usable: bool,
) -> Mapping[str, tuple[Replica, ...]]:
    """`index` with the entries of `touched` models made anew; the same one when there are none."""
    made: dict[str, tuple[Replica, ...]] = {}
    for key in touched:
        others = [r for r in index.get(key, ()) if r.node_id not in changed]
        own = [e.replica for e in fresh.get(key, ()) if e.is_usable is is_usable]
        made[key] = tuple(others + own)
    if not made:
        return index
    merged = {**index, **made}
    return MappingProxyType({key: found for key, found in merged.items() if found})


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
            speaks_anthropic=engine.speaks_anthropic,
            default_context=engine.context_length,
            keep_alive=engine.keep_alive,
        )
        for model in engine.models
    ]


def engine_endpoint(node: Node, engine: EngineReport) -> Endpoint:
    """A report never names a host: the router connects only to where the report came from.

    An engine on the router's own machine, or one that listens on the node's address, is reached
    directly; every other one through the node's relay.
    """
    is_local = node.address in _LOOPBACK and engine.reach is not Reach.REMOTE
    if is_local:
        return Endpoint(host=node.address, port=engine.port)
    if engine.reach is Reach.LAN:
        way = Detour(port=node.relay_port, tunnel=engine.engine_id, key=node.relay_key)
        has_relay = node.relay_port and node.relay_key
        return Endpoint(node.address, engine.port, detour=way if has_relay else None)
    return Endpoint(
        host=node.address, port=node.relay_port, tunnel=engine.engine_id, key=node.relay_key
    )
