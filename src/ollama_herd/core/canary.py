"""Which idle replicas are asked for one token, to find a runner that hangs while the health checks
of its engine say that all is well.

A canary repeats model, kind and load options of the last request that the replica answered, in the
window that is loaded, so that the engine has nothing to load. It moves the time at which an idle
model is unloaded, since an engine counts from the last request: so an idle model gets none once it
has been idle for longer than it has left.
"""

import msgspec

from ollama_herd.core.abilities import IMAGE
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.inflight import REPORT_LAG_S, ReplicaLoad
from ollama_herd.core.load import Load
from ollama_herd.core.node import NoticedBy, Replica
from ollama_herd.core.predict import SlotKey
from ollama_herd.core.request import InferenceRequest, OutcomeKind
from ollama_herd.core.silence import SilenceLimits
from ollama_herd.core.times import parse_time

AT_ONCE = 4
"""Canaries under way in the whole fleet."""

LOOK_EVERY_S = 5.0
"""How often all replicas are looked at; those that were silent are looked at each time."""

RARER = 0.25
RAREST = 10.0
"""The pause grows to a quarter of the time that the replica has been idle, and to ten times the
setting: what has answered for hours is not asked every minute."""

UNTOLD_KEEP_S = 600.0
"""Engines that do not tell when they unload a model are asked for so long after a request."""

AGAIN_S = 5.0
AGAIN_MAX_S = 60.0
"""Pauses between canaries to a replica that is silent, as for those that fail."""


class CanarySettings(msgspec.Struct, frozen=True):
    """`every_s`: pause between the canaries of an idle replica, 0 for none at all."""

    every_s: float = 0.0
    silence: SilenceLimits = SilenceLimits()


class Canary(msgspec.Struct, frozen=True):
    """One request for one token: as `request`, but for its prompt. `patience_s` is how long its
    answer may take.
    """

    replica: Replica
    request: InferenceRequest
    patience_s: float
    started_s: float


class Canaries:
    """Plans canaries and takes in what came of them. Changes `load` alone."""

    def __init__(self, load: Load, settings: CanarySettings) -> None:
        self._load = load
        self.settings = settings
        self._looked_s = float("-inf")
        self._asked: dict[SlotKey, float] = {}
        self._unanswered: dict[SlotKey, int] = {}
        self._under_way: set[SlotKey] = set()

    def plan(self, fleet: Fleet, now_s: float, time_s: float) -> list[Canary]:
        """Canaries to send now; each ends in `ended`. `time_s` is seconds since 1970."""
        if not self.settings.every_s:
            return []
        load = self._load
        looks = [load.replicas[key] for key in sorted(load.barred)]
        looks = [replica for replica in looks if replica.silent_s is not None]
        if now_s - self._looked_s >= min(LOOK_EVERY_S, self.settings.every_s):
            self._looked_s = now_s
            self._forget()
            looks = list(load.replicas.values())
        planned: list[Canary] = []
        for replica in looks:
            if len(self._under_way) >= AT_ONCE:
                break
            found = self._place(replica, fleet)
            if found is not None and self._is_due(replica, found, now_s, time_s):
                planned.append(self._canary(replica, found, now_s))
        return planned

    def ended(self, canary: Canary, outcome: OutcomeKind, now_s: float) -> None:
        """What came of it: COMPLETED, CLIENT_ERROR (that cannot be asked there), SILENT or another
        failure.
        """
        key = canary.replica.slot_key
        self._under_way.discard(key)
        replica = self._load.replicas.get(key)
        if replica is None:
            return
        if outcome is OutcomeKind.UNREACHABLE:
            self._load.unreachable(replica, now_s)
        elif outcome is OutcomeKind.SILENT:
            self._unanswered[key] = self._unanswered.get(key, 0) + 1
            if replica.last is not None and replica.changed_s <= canary.started_s:
                self._load.stuck(replica, NoticedBy.CANARY, now_s)
        elif outcome in {OutcomeKind.COMPLETED, OutcomeKind.CLIENT_ERROR}:
            self._unanswered.pop(key, None)
            replica.touched_s = now_s
            if replica.silent_s is not None or replica.stuck is not None:
                self._load.absolve(replica)
            if outcome is OutcomeKind.CLIENT_ERROR:
                replica.last = None

    def _place(self, replica: ReplicaLoad, fleet: Fleet) -> Replica | None:
        """The idle, loaded replica to ask as the last request was; None when there is none."""
        last, node = replica.last, replica.node
        if last is None or replica.running or replica.key in self._under_way:
            return None
        if not (replica.is_hot and replica.is_reported_hot) or node.loading is not None:
            return None
        if node.in_flight and replica.silent_s is None:
            return None  # others would have to wait for it, and it for them
        reported_s, out_s = node.node.last_report_s, replica.engine.out_since_s
        # An older report may tell of another window than the one that is loaded now.
        is_news = reported_s > replica.changed_s + REPORT_LAG_S
        if not is_news or (out_s is not None and reported_s <= out_s):
            return None
        for found in fleet.replicas.get(last.model_key, ()):
            if found.slot_key == replica.key and found.loaded is not None:
                # For a model that makes pictures a word is enough to make a whole one.
                return None if IMAGE in found.model.capabilities else found
        return None

    def _is_due(self, replica: ReplicaLoad, found: Replica, now_s: float, time_s: float) -> bool:
        asked_s = self._asked.get(replica.key, float("-inf"))
        if replica.silent_s is not None or replica.stuck is not None:
            times = min(self._unanswered.get(replica.key, 0), 4)
            return now_s - asked_s >= min(AGAIN_S * 2.0**times, AGAIN_MAX_S)
        every_s = self.settings.every_s
        idle_s = now_s - replica.changed_s
        if idle_s > _left_s(found, time_s, idle_s):
            return False
        pause_s = min(max(every_s, RARER * idle_s), RAREST * every_s)
        return now_s - max(replica.changed_s, asked_s) >= pause_s

    def _canary(self, replica: ReplicaLoad, found: Replica, now_s: float) -> Canary:
        if replica.last is None:
            raise AssertionError("only what has answered is asked")
        limits = self.settings.silence
        is_suspect = replica.silent_s is not None
        patience_s = limits.hedge_floor_s if is_suspect else limits.hedge_ceiling_s
        self._asked[replica.key] = now_s
        self._under_way.add(replica.key)
        return Canary(found, replica.last, patience_s, now_s)

    def _forget(self) -> None:
        known = self._load.replicas.keys()
        self._asked = {key: at for key, at in self._asked.items() if key in known}
        self._unanswered = {key: n for key, n in self._unanswered.items() if key in known}


def _left_s(replica: Replica, time_s: float, idle_s: float) -> float:
    """How long the model stays loaded from now, if nobody asks for it."""
    expires_at = replica.loaded.expires_at if replica.loaded is not None else ""
    if not expires_at:
        return float("inf") if idle_s <= UNTOLD_KEEP_S else 0.0
    return parse_time(expires_at)[0] - time_s
