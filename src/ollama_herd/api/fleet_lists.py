"""The nodes and the models of a fleet as lists, for scripts and the command line: every field that
`/fleet/nodes` and `/fleet/models` promise. Pure.
"""

from collections.abc import Iterator

import msgspec

from ollama_herd.api.fleet_parts import (
    EnginePart,
    LoadedPart,
    ModelPart,
    NodeHead,
    engine_parts,
    loaded_part,
    model_part,
)
from ollama_herd.core.abilities import purpose
from ollama_herd.core.digests import served_digest
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import EngineKind, Node, Replica


class NodeEntry(NodeHead, frozen=True, kw_only=True):
    """A machine with its engines, and their models in full."""

    engines: tuple[EnginePart, ...]


class NodeList(msgspec.Struct, frozen=True):
    """The answer of `/fleet/nodes`, by name. `time_s` is seconds since 1970, `version` is that of
    the router.
    """

    time_s: float
    nodes: tuple[NodeEntry, ...]
    version: str = ""


class ModelPlace(msgspec.Struct, frozen=True):
    """One engine that has the model. `digest_differs`: it holds another model under the name, and
    gets no requests for it.
    """

    node_id: str
    node: str
    engine_id: str
    engine_kind: EngineKind
    usable: bool
    digest_differs: bool
    loaded: LoadedPart | None


class ModelEntry(msgspec.Struct, frozen=True):
    """A model and all places that have it; `model` describes the one that is served. `kind` is
    what it is for: `text`, `embedding`, `image` or `speech`.
    """

    model: ModelPart
    places: tuple[ModelPlace, ...]
    kind: str = "text"


class ModelList(msgspec.Struct, frozen=True):
    """The answer of `/fleet/models`, by name."""

    models: tuple[ModelEntry, ...]


def node_list(fleet: Fleet, now_s: float, time_s: float, version: str) -> NodeList:
    """`now_s` is the router's monotonic time, `time_s` the same in seconds since 1970."""
    nodes = sorted(fleet.nodes.values(), key=lambda node: (node.name, node.node_id))
    return NodeList(time_s, tuple(node_entry(node, now_s) for node in nodes), version)


def node_entry(node: Node, now_s: float) -> NodeEntry:
    """One node; `now_s` as in `node_list`."""
    return NodeEntry(
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
        engines=engine_parts(node),
    )


def model_list(fleet: Fleet) -> ModelList:
    """All models that a node of the fleet has, also those that cannot be used now."""
    return ModelList(tuple(_models(fleet)))


def _models(fleet: Fleet) -> Iterator[ModelEntry]:
    for name in sorted({*fleet.replicas, *fleet.unusable}):
        usable, gone = fleet.replicas.get(name, ()), fleet.unusable.get(name, ())
        served = served_digest(usable or gone)
        replicas = [*usable, *gone]
        shown = next((r.model for r in replicas if r.model.digest == served), replicas[0].model)
        places = [_place(replica, served, fleet, usable=True) for replica in usable]
        places += [_place(replica, served, fleet, usable=False) for replica in gone]
        places.sort(key=lambda place: (place.node, place.node_id, place.engine_id))
        yield ModelEntry(model_part(shown, name), tuple(places), purpose(shown))


def _place(replica: Replica, served: str, fleet: Fleet, *, usable: bool) -> ModelPlace:
    node = fleet.nodes.get(replica.node_id)
    digest = replica.model.digest
    return ModelPlace(
        node_id=replica.node_id,
        node=node.name if node is not None else replica.node_id,
        engine_id=replica.engine_id,
        engine_kind=replica.kind,
        usable=usable,
        digest_differs=bool(digest) and digest != served,
        loaded=None if replica.loaded is None else loaded_part(replica.loaded),
    )
