"""Which model a name stands for when nodes hold different ones under it, and where they differ.

Routing, lists and `/api/show` all ask `served_digest`; health shows `digest_conflicts`.
"""

from collections.abc import Sequence

import msgspec

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import Replica
from ollama_herd.core.times import parse_time


class DigestConflict(msgspec.Struct, frozen=True):
    """A name under which usable nodes hold different models.

    `model` is the canonical name, `served` the digest that the fleet serves under it. `others` are
    the digests that are left out, each with the ids of the nodes that have it, both sorted.
    """

    model: str
    served: str
    others: tuple[tuple[str, tuple[str, ...]], ...]


def served_digest(replicas: Sequence[Replica]) -> str:
    """The digest that is served under the name these replicas share; "" when none tells one.

    The one that most nodes have, then the one modified last, then the greatest, so that every
    caller chooses the same. A replica that tells none has no say.
    """
    first = replicas[0].model.digest if replicas else ""
    if first and all(replica.model.digest == first for replica in replicas):
        return first
    holders = _holders(replicas)
    if len(holders) < 2:
        return next(iter(holders), "")
    newest: dict[str, tuple[int, int]] = {}
    for replica in replicas:
        model = replica.model
        if model.digest:
            modified = parse_time(model.modified_at)
            newest[model.digest] = max(newest.get(model.digest, modified), modified)
    return max(holders, key=lambda digest: (len(holders[digest]), newest[digest], digest))


def is_served(digest: str, served: str) -> bool:
    """Whether a model with this digest may answer for the name; what is unknown is no conflict."""
    return not digest or digest == served


def digest_conflicts(fleet: Fleet) -> tuple[DigestConflict, ...]:
    """Every name under which usable nodes hold different models, in order of names."""
    found = []
    for name in sorted(fleet.replicas):
        replicas = fleet.replicas[name]
        holders = _holders(replicas)
        if len(holders) > 1:
            served = served_digest(replicas)
            others = tuple((d, tuple(sorted(holders[d]))) for d in sorted(holders) if d != served)
            found.append(DigestConflict(name, served, others))
    return tuple(found)


def _holders(replicas: Sequence[Replica]) -> dict[str, set[str]]:
    """The nodes that have each digest."""
    holders: dict[str, set[str]] = {}
    for replica in replicas:
        if replica.model.digest:
            holders.setdefault(replica.model.digest, set()).add(replica.node_id)
    return holders
