"""The fleet cut into parts that change at different times, for views that follow it live.

A node's vitals change with every report, its list of models hardly ever: each is a part of its own,
so that following a fleet costs what changed and not what is known.
"""

from collections.abc import Mapping

import msgspec

from ollama_herd.core.fleet import Fleet, engine_endpoint
from ollama_herd.core.health.values import Health, Severity
from ollama_herd.core.node import (
    EngineKind,
    EngineReport,
    LoadedModel,
    Model,
    Node,
    NodeStatus,
    Platform,
    Vitals,
)
from ollama_herd.core.queue import QueueView, ReplicaQueue

DIGEST_CHARS = 12
"""As much of a digest as people compare; Ollama shows as many."""

WAITING_SHOWN = 50
"""Waiting requests that are listed one by one; the counts are of all."""


class NodePart(msgspec.Struct, frozen=True):
    """A machine without its engines. `heard_s` is when it last reported, seconds since 1970."""

    node_id: str
    name: str
    address: str
    status: NodeStatus
    draining: bool
    heard_s: float
    agent_version: str
    platform: Platform
    vitals: Vitals
    has_agent: bool = True


class ModelPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model on disk. `digest` is cut to DIGEST_CHARS."""

    name: str
    digest: str = ""
    size_bytes: int = 0
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    context_length: int = 0
    capabilities: tuple[str, ...] = ()


class LoadedPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model in memory. `expires_at` is RFC 3339 text, as the engine wrote it."""

    name: str
    size_bytes: int = 0
    vram_bytes: int = 0
    context_length: int = 0
    expires_at: str = ""


class NodeHead(msgspec.Struct, frozen=True):
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
    has_agent: bool = True


class EngineHead(msgspec.Struct, frozen=True):
    """One engine; `path` says how the router reaches it (direct or relay)."""

    engine_id: str
    kind: EngineKind
    version: str
    path: str
    address: str
    slots: int | None
    error: str


class EnginePart(EngineHead, frozen=True):
    """An engine with its models in full."""

    models: tuple[ModelPart, ...]
    loaded: tuple[LoadedPart, ...]


class WaitingPart(msgspec.Struct, frozen=True):
    """A waiting request. `since_s` is seconds since 1970, `expected_wait_s` from now."""

    request_id: str
    model: str
    client: str
    position: int
    since_s: float
    expected_wait_s: int
    node_id: str


class QueuePart(msgspec.Struct, frozen=True):
    """Who runs and who waits. `requests` are the first WAITING_SHOWN that wait."""

    in_flight: int
    waiting: int
    replicas: tuple[ReplicaQueue, ...]
    requests: tuple[WaitingPart, ...]


class TotalsPart(msgspec.Struct, frozen=True):
    """The line above everything. `models` counts names that can be asked for now, `requests` those
    that have ended since the router was started, traced or not.
    """

    version: str
    nodes: int
    nodes_usable: int
    models: int
    requests: int


class HealthPart(msgspec.Struct, frozen=True):
    """How all is: the worst severity, and how many checks have which."""

    overall: Severity
    counts: Mapping[Severity, int]


def health_part(health: Health) -> HealthPart:
    return HealthPart(health.overall, health.counts)


def usable_nodes(fleet: Fleet) -> int:
    """How many nodes take requests."""
    nodes = fleet.nodes.values()
    return sum(
        n.status is not NodeStatus.OFFLINE and not n.draining and not n.vitals.quiet_until
        for n in nodes
    )


def totals_part(fleet: Fleet, version: str, requests: int) -> TotalsPart:
    return TotalsPart(
        version=version,
        nodes=len(fleet.nodes),
        nodes_usable=usable_nodes(fleet),
        models=len(fleet.replicas),
        requests=requests,
    )


def node_part(node: Node, wall_offset_s: float) -> NodePart:
    """`wall_offset_s` is seconds since 1970 less router seconds."""
    return NodePart(
        node_id=node.node_id,
        name=node.name,
        address=node.address,
        status=node.status,
        draining=node.draining,
        heard_s=round(node.last_report_s + wall_offset_s, 1),
        agent_version=node.agent_version,
        platform=node.platform,
        vitals=node.vitals,
        has_agent=node.has_agent,
    )


def engine_parts(node: Node) -> tuple[EnginePart, ...]:
    """All engines of a node."""
    return tuple(_engine(node, engine) for engine in node.engines)


def queue_part(queue: QueueView, wall_s: float) -> QueuePart:
    """`wall_s` is now, seconds since 1970."""
    return QueuePart(
        in_flight=queue.in_flight,
        waiting=queue.waiting,
        replicas=queue.replicas,
        requests=tuple(
            WaitingPart(
                request_id=one.request_id,
                model=one.model_key,
                client=one.client,
                position=one.position,
                since_s=round(wall_s - one.waited_s),
                expected_wait_s=round(one.expected_wait_s),
                node_id=one.node_id,
            )
            for one in queue.requests[:WAITING_SHOWN]
        ),
    )


def engine_head(node: Node, engine: EngineReport) -> EngineHead:
    """An engine without its models."""
    endpoint = engine_endpoint(node, engine)
    return EngineHead(
        engine_id=engine.engine_id,
        kind=engine.kind,
        version=engine.version,
        path="relay" if endpoint.tunnel else "direct",
        address=f"{endpoint.host}:{endpoint.port}",
        slots=engine.slots,
        error=engine.error,
    )


def _engine(node: Node, engine: EngineReport) -> EnginePart:
    return EnginePart(
        **msgspec.structs.asdict(engine_head(node, engine)),
        models=tuple(map(model_part, engine.models)),
        loaded=tuple(map(loaded_part, engine.loaded)),
    )


def model_part(model: Model, name: str = "") -> ModelPart:
    """A model; `name` instead of its own."""
    details = model.details
    return ModelPart(
        name=name or model.name,
        digest=model.digest.removeprefix("sha256:")[:DIGEST_CHARS],
        size_bytes=model.size_bytes,
        family=details.family,
        parameter_size=details.parameter_size,
        quantization=details.quantization_level,
        context_length=details.context_length,
        capabilities=model.capabilities,
    )


def loaded_part(loaded: LoadedModel) -> LoadedPart:
    """A model in memory."""
    return LoadedPart(
        name=loaded.name,
        size_bytes=loaded.size_bytes,
        vram_bytes=loaded.size_vram_bytes,
        context_length=loaded.context_length,
        expires_at=loaded.expires_at,
    )
