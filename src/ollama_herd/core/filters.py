"""Who cannot take a model's requests whatever they ask: the first step of a decision.

Only what is sound eliminates. Missing metadata never does, nor does a guess about what an engine
may be able to do: the engine's own answer is better than ours.
"""

from collections.abc import Mapping

from ollama_herd.core import hardware as hw
from ollama_herd.core.decision import Eliminated, Rejected
from ollama_herd.core.digests import is_served
from ollama_herd.core.inflight import ReplicaLoad
from ollama_herd.core.node import EngineKind, Node, NodeStatus, Replica
from ollama_herd.core.place import Place


class Board:
    """The places of one model, and who is left out whatever is asked. Rebuilt with the fleet."""

    __slots__ = ("node_ids", "places", "rejected", "replicas", "unusable")

    def __init__(
        self,
        replicas: tuple[Replica, ...],
        unusable: tuple[Replica, ...],
        places: list[Place],
        rejected: tuple[Rejected, ...],
    ) -> None:
        self.replicas = replicas
        self.unusable = unusable
        self.places = places
        self.node_ids = frozenset(place.replica.node_id for place in places)
        self.rejected = rejected


def never_fits(load: ReplicaLoad, replica: Replica, served: str) -> Rejected | None:
    digest = replica.model.digest
    if not is_served(digest, served):
        detail = f"has {digest[:12]}, the fleet serves {served[:12]}"
        return Rejected(replica.node_id, replica.engine_id, Eliminated.DIGEST_CONFLICT, detail)
    if replica.loaded is None and replica.kind is EngineKind.OLLAMA and replica.model.size_bytes:
        hardware = load.node.pace.hardware
        if not hw.fits_at_all(hardware, load.rates.scale):
            total = (hardware.memory_bytes + hardware.vram_bytes) / hw.GB
            detail = f"needs {load.rates.scale.size_gb:.1f} GB, has {total:.1f} GB"
            return Rejected(replica.node_id, replica.engine_id, Eliminated.DOES_NOT_FIT, detail)
    return None


def unusable(replica: Replica, nodes: Mapping[str, Node], *, cloud: bool) -> Rejected:
    """Why it cannot be used; `cloud`: models of Ollama's cloud may be."""
    node = nodes[replica.node_id]
    if node.status is NodeStatus.OFFLINE:
        reason, detail = Eliminated.OFFLINE, ""
    elif node.draining:
        reason, detail = Eliminated.DRAINING, ""
    elif node.vitals.quiet_until:
        reason, detail = Eliminated.QUIET_HOURS, f"until {node.vitals.quiet_until}"
    elif replica.is_cloud and not cloud:
        reason, detail = Eliminated.CLOUD_MODEL, replica.model.remote_host
    else:
        reason = Eliminated.ENGINE_ERROR
        errors = (e.error for e in node.engines if e.engine_id == replica.engine_id)
        detail = next(errors, "")
    return Rejected(replica.node_id, replica.engine_id, reason, detail)
