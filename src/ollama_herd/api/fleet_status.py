"""The fleet as `/fleet/status` shows it: a view for people and scripts, without keys."""

import msgspec

from ollama_herd.api.fleet_parts import EngineHead, NodeHead, engine_head, usable_nodes
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import EngineReport, Node
from ollama_herd.core.scheduler import QueueView


class EngineView(EngineHead, frozen=True):
    """An engine with the names of its models; `stuck` are loaded ones that do not answer although
    the engine does.
    """

    models: tuple[str, ...]
    loaded: tuple[str, ...]
    stuck: tuple[str, ...] = ()


class NodeView(NodeHead, frozen=True, kw_only=True):
    """A machine with its engines, in short."""

    engines: tuple[EngineView, ...]


class KeptTotals(msgspec.Struct, frozen=True):
    """Bytes kept of answers under way, in case another node has to go on; their bound; and how many
    answers had to be let go since the start: should their node fail, nothing goes on.
    """

    bytes: int = 0
    limit_bytes: int = 0
    let_go: int = 0


class FleetView(msgspec.Struct, frozen=True):
    """The whole fleet at `time_s` (seconds since 1970)."""

    time_s: float
    nodes_total: int
    nodes_usable: int
    models: int
    nodes: tuple[NodeView, ...]
    queue: QueueView
    kept: KeptTotals


def fleet_status(
    fleet: Fleet, queue: QueueView, now_s: float, time_s: float, kept: KeptTotals
) -> FleetView:
    """`now_s` is the router's monotonic time, by which the age of reports is told."""
    nodes = tuple(_node(node, now_s, fleet) for node in fleet.nodes.values())
    return FleetView(
        time_s=time_s,
        nodes_total=len(nodes),
        nodes_usable=usable_nodes(fleet),
        models=len(fleet.replicas),
        nodes=nodes,
        queue=queue,
        kept=kept,
    )


def _node(node: Node, now_s: float, fleet: Fleet) -> NodeView:
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
        has_agent=node.has_agent,
        engines=tuple(_engine(node, engine, fleet) for engine in node.engines),
    )


def _engine(node: Node, engine: EngineReport, fleet: Fleet) -> EngineView:
    place = (node.node_id, engine.engine_id)
    return EngineView(
        **msgspec.structs.asdict(engine_head(node, engine)),
        models=tuple(model.name for model in engine.models),
        loaded=tuple(loaded.name for loaded in engine.loaded),
        stuck=tuple(s.model for s in fleet.stuck if (s.node_id, s.engine_id) == place),
    )
