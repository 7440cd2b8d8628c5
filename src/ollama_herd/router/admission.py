"""Who may join the herd as a node, and what came of those who may not.

A node that is known speaks with the key it is bound to (`Registry`); this is about all others, and
about those the owner has banned or renamed.
"""

import hashlib
import hmac
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

import msgspec
import structlog

from ollama_herd.api.joining import JoinMode, Turned
from ollama_herd.clock import now_s
from ollama_herd.core.access import JoinKey, NodeRule
from ollama_herd.core.node import NodeReport
from ollama_herd.router.gate import PRIVATE_NETWORKS, is_loopback, is_within

PENDING_MOST = 100
"""Nodes that wait for approval; of more, the oldest are dropped and come back by themselves."""

REMEMBERED_MOST = 100
"""Sources of refused reports that are shown; of more, those heard of longest ago are dropped."""

NODES_PER_ADDRESS = 16
"""New nodes behind one address; loopback is free. Containers share an address, machines do not."""

_log = structlog.get_logger(__name__)


class ReportRefused(Exception):  # noqa: N818 - an answer to an agent, not a defect
    """A heartbeat that is not believed; the message says why and what to do, `code` is stable."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Claim(msgspec.Struct, frozen=True):
    """Who says to be a node. `key_hash` is of the node's own key."""

    node_id: str
    name: str
    address: str
    key_hash: str
    join_key: str = ""


class Pending(msgspec.Struct, frozen=True):
    """A node that waits for approval. Times are seconds since 1970."""

    claim: Claim
    first_s: float
    last_s: float


class Admission:
    """Asked for each report, in the loop. `take` gives it the owner's decisions."""

    def __init__(
        self,
        mode: JoinMode,
        *,
        is_bound: Callable[[str], bool],
        bind: Callable[[str, str], bool],
        max_nodes: int,
    ) -> None:
        """`is_bound(node_id)`: it has a key; `bind(node_id, key_hash)`: give it one, or compare."""
        self.mode = mode
        self._is_bound = is_bound
        self._bind = bind
        self._max_nodes = max_nodes
        self._join_keys: tuple[JoinKey, ...] = ()
        self._rules: dict[str, NodeRule] = {}
        self._pending: OrderedDict[str, Pending] = OrderedDict()
        self._turned: OrderedDict[tuple[str, str, str], Turned] = OrderedDict()
        self.refused: Counter[str] = Counter()

    def take(self, join_keys: Iterable[JoinKey], rules: Iterable[NodeRule]) -> None:
        """What was decided about nodes, all of it."""
        self._join_keys = tuple(join_keys)
        self._rules = {rule.node_id: rule for rule in rules}
        for node_id in [one for one in self._pending if self.rule(one).is_banned]:
            del self._pending[node_id]

    def rule(self, node_id: str) -> NodeRule:
        return self._rules.get(node_id) or NodeRule(node_id)

    def admit(self, claim: Claim, known: Iterable[str]) -> None:
        """Let a node speak. `known` are the addresses of all nodes. Raises ReportRefused."""
        node_id = claim.node_id
        if self.rule(node_id).is_banned:
            raise self.turn(claim, "banned", _BANNED)
        if not self._is_bound(node_id):
            self._admit_new(claim, tuple(known))
        if not self._bind(node_id, claim.key_hash):
            raise self.turn(
                claim,
                "wrong_key",
                f"node id {node_id!r} belongs to another key: give this machine an id "
                "of its own (move its node.json away and start herd-node again)",
            )
        self._pending.pop(node_id, None)

    def _admit_new(self, claim: Claim, known: tuple[str, ...]) -> None:
        if len(known) >= self._max_nodes:
            raise self.turn(
                claim,
                "too_many_nodes",
                f"this herd has {len(known)} nodes and takes no more: forget those that are gone, "
                "or raise max_nodes",
            )
        if is_loopback(claim.address):
            return
        if known.count(claim.address) >= NODES_PER_ADDRESS:
            raise self.turn(
                claim,
                "too_many_here",
                f"{NODES_PER_ADDRESS} nodes have joined from {claim.address}, and no more may: "
                "forget those that are gone",
            )
        if self.mode is JoinMode.AUTO and not is_within(claim.address, PRIVATE_NETWORKS):
            raise self.turn(claim, "not_private", _NOT_PRIVATE)
        if self.mode is JoinMode.KEY and not self._is_join_key(claim.join_key):
            raise self.turn(claim, "join_key", _JOIN_KEY)
        if self.mode is JoinMode.APPROVE:
            self._wait(claim)
            raise self.turn(
                claim,
                "waits",
                "this node waits for approval; on the router's machine: "
                f"'herd nodes approve {claim.node_id}'",
            )

    def _is_join_key(self, shown: str) -> bool:
        shown_hash = hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()
        now = now_s()
        good = [key for key in self._join_keys if not key.until_s or now < key.until_s]
        return any(hmac.compare_digest(key.key_hash, shown_hash) for key in good)

    def _wait(self, claim: Claim) -> None:
        """The first key that a waiting node shows is the one that can be approved."""
        now = now_s()
        waiting = self._pending.pop(claim.node_id, None)
        if waiting is None:
            _log.info("node waits for approval", node=claim.name, address=claim.address)
            while len(self._pending) >= PENDING_MOST:
                self._pending.popitem(last=False)
            waiting = Pending(claim, now, now)
        elif waiting.claim.key_hash == claim.key_hash:
            waiting = Pending(claim, waiting.first_s, now)
        self._pending[claim.node_id] = waiting

    def turn(self, claim: Claim, code: str, reason: str) -> ReportRefused:
        """Count a refusal, and make it."""
        self.refused[code] += 1
        key = (code, claim.node_id, claim.address)
        before = self._turned.pop(key, None)
        if before is None and len(self._turned) >= REMEMBERED_MOST:
            self._turned.popitem(last=False)
        count = 1 if before is None else before.count + 1
        self._turned[key] = Turned(code, claim.node_id, claim.address, count, now_s())
        return ReportRefused(code, reason)

    def approve(self, asked: str) -> Pending | None:
        """Let a waiting node in, by its id or its name where only one has it; None for none."""
        found = self._pending.get(asked)
        if found is None:
            named = [one for one in self._pending.values() if one.claim.name == asked]
            found = named[0] if len(named) == 1 else None
        if found is not None:
            self._bind(found.claim.node_id, found.claim.key_hash)
            del self._pending[found.claim.node_id]
        return found

    def pending(self) -> tuple[Pending, ...]:
        return tuple(self._pending.values())

    def turned(self) -> tuple[Turned, ...]:
        """Who was refused, latest first."""
        return tuple(reversed(self._turned.values()))


def claim_of(report: NodeReport, address: str, key: str, join_key: str = "") -> Claim:
    """The claim that a report makes; of the keys only what has to be kept."""
    key_hash = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    return Claim(report.node_id, report.name, address, key_hash, join_key)


_BANNED = "this node was banned from the herd; its owner can let it in again: 'herd nodes unban'"

_NOT_PRIVATE = (
    "only machines of private networks join by themselves: start the router with --join key, and "
    "this node with the command that 'herd nodes join' prints there"
)

_JOIN_KEY = (
    "this herd asks nodes for a join key: run 'herd nodes join' on the router's machine and start "
    "this node with the command it prints"
)
