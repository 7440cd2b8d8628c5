"""Which idle model is used once more, so that its engine keeps it for those who will ask for it.

The use is an empty prompt with no keep-alive in it: the engine starts the time anew that it would
have given the model after any request. So nothing that a client or an operator has set is changed:
models for which a client named a keep-alive, and engines whose operator set one (or where that
cannot be read), are left alone.
"""

from collections.abc import Iterator, Sequence

from ollama_herd.core.eviction import is_kept_for_ever
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.inflight import ReplicaLoad
from ollama_herd.core.load import Load
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import EngineKind, Pressure
from ollama_herd.core.pins import USUAL_S, Wish
from ollama_herd.core.predict import SlotKey
from ollama_herd.core.times import NO_TIME, parse_time

DEFAULT = "default"
"""What a report says of an engine whose operator set no keep-alive."""

LEAD_S = 45.0
"""So long before it would go it is used: some heartbeats and looks, on clocks that differ a bit."""

HORIZON_S = 900.0
"""A model that is asked again within a quarter of an hour, more likely than not, is worth its
memory: a load costs its user some seconds to a minute each time.
"""

SLACK_S = 15.0
"""The time until it goes may differ so much from Ollama's usual five minutes since its last use."""

LOOK_EVERY_S = 5.0
AGAIN_S = 60.0
"""One whose engine does not say after a use that it keeps the model is left alone for a minute."""


class Renewals:
    """Plans these uses; `plan` is asked at each tick. Owned by the scheduler."""

    def __init__(self) -> None:
        self._looked_s = float("-inf")
        self._used: dict[SlotKey, float] = {}

    def plan(self, load: Load, fleet: Fleet, now_s: float) -> list[Wish]:
        """What to use now."""
        if not load.wall_s or now_s - self._looked_s < LOOK_EVERY_S:
            return []
        self._looked_s = now_s
        self._used = {key: at for key, at in self._used.items() if now_s - at < AGAIN_S}
        due = [r for r in due_replicas(load, fleet, now_s) if r.key not in self._used]
        self._used.update((replica.key, now_s) for replica in due)
        return [Wish(r, is_renewal=True) for r in due]


def is_expected(pauses: Sequence[float], idle_s: float) -> bool:
    """Whether a request is more likely than not to come within HORIZON_S, after a pause of `idle_s`
    so far: as the pauses before were that lasted as long; one more that never ended is assumed.
    """
    longer = [pause for pause in pauses if pause > idle_s]
    soon = sum(pause <= idle_s + HORIZON_S for pause in longer)
    return 2 * soon > len(longer) + 1


def due_replicas(load: Load, fleet: Fleet, now_s: float) -> Iterator[ReplicaLoad]:
    """Replicas to be used now, each a moment before its engine would unload it."""
    soon = [
        r for r in load.recurring if 0 < _usual_left_s(r, now_s) + SLACK_S <= LEAD_S + 2 * SLACK_S
    ]
    for replica in sorted(soon, key=lambda one: one.key):
        left_s = _left_s(replica, load.wall_s + now_s)
        is_usual = abs(_usual_left_s(replica, now_s) - left_s) <= SLACK_S
        is_due = is_usual and 0 < left_s <= LEAD_S and _is_free(replica)
        is_wanted = is_due and is_expected(replica.pauses, now_s - replica.arrivals_at_s)
        if is_wanted and _is_ours(replica, fleet):
            yield replica


def _is_ours(replica: ReplicaLoad, fleet: Fleet) -> bool:
    """Whether it is loaded by what the herd sent, and how long it stays is nobody's decision."""
    told = replica.replica
    if told.kind is not EngineKind.OLLAMA or told.keep_alive != DEFAULT:
        return False
    if replica.keep_alive_s or replica.is_pinned or is_kept_for_ever(replica):
        return False
    if not replica.is_reported_hot or replica.options is None:
        return False
    keys = fleet.replicas.get(canonical_name(told.model.name), ())
    return any(one.slot_key == replica.key for one in keys)


def _is_free(replica: ReplicaLoad) -> bool:
    """Whether its machine has room and time: nobody is at work there, nothing fails."""
    node = replica.node
    return (
        replica.is_hot
        and not replica.running
        and node.loading is None
        and node.reserved is None
        and node.pace.busy_since_s is None
        and node.node.vitals.pressure is Pressure.NORMAL
        and not replica.failures
        and replica.stuck is None
        and replica.engine.out_since_s is None
    )


def _left_s(replica: ReplicaLoad, time_s: float) -> float:
    """How long its engine will keep it, as it said; below 0 when it did not say."""
    loaded = replica.replica.loaded
    expires = parse_time(loaded.expires_at) if loaded is not None else NO_TIME
    if expires is NO_TIME:
        return -1.0
    return expires[0] + expires[1] / 1e9 - (time_s + replica.node.node.clock_skew_s)


def _usual_left_s(replica: ReplicaLoad, now_s: float) -> float:
    """How long it would, had nobody but the herd used it: another time is another's decision."""
    return max(replica.changed_s, replica.touched_s) + USUAL_S - now_s
