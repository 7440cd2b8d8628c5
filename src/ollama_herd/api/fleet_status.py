"""The fleet as `/fleet/status` shows it: a view for people and scripts, without keys."""

import msgspec

from ollama_herd.core.fleet import Fleet, engine_endpoint
from ollama_herd.core.node import EngineKind, EngineReport, Node, NodeStatus, Platform, Vitals
from ollama_herd.core.scheduler import QueueView


class EngineView(msgspec.Struct, frozen=True):
    """One engine; `path` says how the router reaches it (direct or relay)."""

    engine_id: str
    kind: EngineKind
    version: str
    path: str
    address: str
    slots: int | None
    error: str
    models: tuple[str, ...]
    loaded: tuple[str, ...]


class NodeView(msgspec.Struct, frozen=True):
    """One machine; `last_report_age_s` is how long ago it was heard of."""

    node_id: str
    name: str
    address: str
    status: NodeStatus
    draining: bool
    last_report_age_s: float
    agent_version: str
    platform: Platform
    vitals: Vitals
    engines: tuple[EngineView, ...]


class FleetView(msgspec.Struct, frozen=True):
    """The whole fleet at `time_s` (seconds since 1970)."""

    time_s: float
    nodes_total: int
    nodes_usable: int
    models: int
    nodes: tuple[NodeView, ...]
    queue: QueueView


def fleet_status(fleet: Fleet, queue: QueueView, now_s: float, time_s: float) -> FleetView:
    """`now_s` is the router's monotonic time, by which the age of reports is told."""
    nodes = tuple(_node(node, now_s) for node in fleet.nodes.values())
    return FleetView(
        time_s=time_s,
        nodes_total=len(nodes),
        nodes_usable=sum(n.status is not NodeStatus.OFFLINE and not n.draining for n in nodes),
        models=len(fleet.replicas),
        nodes=nodes,
        queue=queue,
    )


def _node(node: Node, now_s: float) -> NodeView:
    return NodeView(
        node_id=node.node_id,
        name=node.name,
        address=node.address,
        status=node.status,
        draining=node.draining,
        last_report_age_s=round(now_s - node.last_report_s, 1),
        agent_version=node.agent_version,
        platform=node.platform,
        vitals=node.vitals,
        engines=tuple(_engine(node, engine) for engine in node.engines),
    )


def _engine(node: Node, engine: EngineReport) -> EngineView:
    endpoint = engine_endpoint(node, engine)
    return EngineView(
        engine_id=engine.engine_id,
        kind=engine.kind,
        version=engine.version,
        path="relay" if endpoint.tunnel else "direct",
        address=f"{endpoint.host}:{endpoint.port}",
        slots=engine.slots,
        error=engine.error,
        models=tuple(model.name for model in engine.models),
        loaded=tuple(loaded.name for loaded in engine.loaded),
    )
