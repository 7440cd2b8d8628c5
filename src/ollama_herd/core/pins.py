"""Models an operator wants to be kept loaded: where, and what has to be done for it.

A pinned model is loaded where it is not, kept there without end, and never chosen to make room for
another. Only what is on a node's disk is loaded, never downloaded. Owned by the scheduler.
"""

from collections.abc import Collection
from math import inf

import msgspec

from ollama_herd.core.eviction import PINNED_LOSS_S, is_kept_for_ever
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.inflight import Options, ReplicaLoad
from ollama_herd.core.load import Load
from ollama_herd.core.node import EngineKind
from ollama_herd.core.place import Place, Priced
from ollama_herd.core.predict import SlotKey
from ollama_herd.core.request import Dialect, InferenceRequest, Kind
from ollama_herd.core.signals import Ask, price

PINS_EVERY_S = 2.0
USUAL_S = 300.0
"""What an engine is told to keep a model for that is not pinned any more: Ollama's default. Without
it the last keep-alive holds for as long as the model is loaded."""

AGAIN_S = 60.0
"""A replica is not loaded, nor asked to be kept, more than once a minute."""


class Pin(msgspec.Struct, frozen=True, order=True):
    """Keep `model_key` (a canonical name) loaded on this node, or on one of the router's choice."""

    model_key: str
    node_id: str = ""


class Pinned(msgspec.Struct, frozen=True):
    """How a pin stands: where it is kept ("" nowhere), and why it is not loaded if it is not."""

    pin: Pin
    node_id: str
    is_loaded: bool
    reason: str = ""


class Wish(msgspec.Struct, frozen=True):
    """A load to be sent ahead of requests. `keep_alive_s` as in a request: None says nothing. A
    renewal is for a model that is loaded, and loads nothing.
    """

    replica: ReplicaLoad
    keep_alive_s: float | None = None
    is_renewal: bool = False


class Pins:
    """The pins, and the replica that each has found."""

    def __init__(self) -> None:
        self._pins: tuple[Pin, ...] = ()
        self._held: dict[Pin, ReplicaLoad] = {}
        self._let_go: list[Pin] = []
        self._tried: dict[SlotKey, float] = {}
        self._planned_s = float("-inf")

    def replace(self, pins: tuple[Pin, ...]) -> None:
        """From now on these. What is not among them any more is let go in the engine's own time."""
        self._pins = pins
        self._planned_s = float("-inf")
        before = list(self._held.values())
        for pin in self._held.keys() - set(pins):
            replica = self._held.pop(pin)
            self._let_go.append(Pin(pin.model_key, replica.key[0]))
        _mark(before, self._held.values())

    def plan(self, load: Load, fleet: Fleet, now_s: float) -> list[Wish]:
        """What to send now, at most one load for each node."""
        if not (self._pins or self._let_go) or now_s - self._planned_s < PINS_EVERY_S:
            return []
        self._planned_s = now_s
        self._tried = {key: at for key, at in self._tried.items() if now_s - at < AGAIN_S}
        held = {pin: self._found(pin, load, fleet, now_s) for pin in self._pins}
        found = {pin: priced.place.load for pin, priced in held.items() if priced is not None}
        _mark(self._held.values(), found.values())
        self._held = found
        # By name: what a node reports of a model may have changed what stands for it.
        gone = [place.load for pin in self._let_go for place in _places(pin, load, fleet)]
        wishes = [Wish(r, USUAL_S) for r in gone if r.is_hot and not r.is_pinned]
        self._let_go = []
        taken: set[str] = set()
        for priced in held.values():
            if priced is None or not self._is_due(priced, load, fleet, now_s):
                continue
            replica = priced.place.load
            if replica.key[0] not in taken:
                taken.add(replica.key[0])
                self._tried[replica.key] = now_s
                wishes.append(Wish(replica, inf))
        return wishes

    def view(self, load: Load, fleet: Fleet) -> tuple[Pinned, ...]:
        """Each pin with where it is kept, or why it is not."""
        return tuple(self._stands(pin, load, fleet) for pin in self._pins)

    def _found(self, pin: Pin, load: Load, fleet: Fleet, now_s: float) -> Priced | None:
        """The replica to keep: where it was, else where it is loaded, else the cheapest."""
        places = _places(pin, load, fleet)
        if not places:
            return None
        before = self._held.get(pin)
        ask = Ask(keeping_request(pin.model_key, "pin", now_s, inf), fleet.nodes, load, now_s)
        priced = [price(place, ask) for place in places]
        return min(
            priced,
            key=lambda p: (
                p.place.load is not before or p.evict >= PINNED_LOSS_S,
                not p.place.load.is_hot,
                p.total,
            ),
        )

    def _is_due(self, priced: Priced, load: Load, fleet: Fleet, now_s: float) -> bool:
        """Whether it has to be loaded, or told that it is to be kept, and can be without harm to
        what runs or to another pin.
        """
        replica = priced.place.load
        if replica.running or replica.key in self._tried or replica.failures:
            return False
        if replica.is_hot:
            return replica.is_reported_hot and not is_kept_for_ever(replica)
        # Priced before its own pin and those before it were marked: once more, as things are.
        request = keeping_request(replica.replica.model.name, "pin", now_s, inf)
        again = price(priced.place, Ask(request, fleet.nodes, load, now_s))
        return again.starts_now and again.evict < PINNED_LOSS_S

    def _stands(self, pin: Pin, load: Load, fleet: Fleet) -> Pinned:
        replica = self._held.get(pin)
        if replica is None:
            if pin.model_key not in fleet.replicas and pin.model_key not in fleet.unusable:
                return Pinned(pin, "", is_loaded=False, reason="no node has it")
            if _places(pin, load, fleet):
                return Pinned(pin, "", is_loaded=False, reason="looked at within seconds")
            return Pinned(pin, "", is_loaded=False, reason="no node that has it can be used now")
        reason = ""
        if not replica.is_hot:
            reason = "loading" if replica.loading_until_s else "no room yet, or busy"
            if replica.failures:
                reason = "its engine fails"
        return Pinned(pin, replica.key[0], is_loaded=replica.is_hot, reason=reason)


def keeping_request(
    model_key: str,
    request_id: str,
    now_s: float,
    keep_alive_s: float | None,
    options: Options = (),
) -> InferenceRequest:
    """What a planned load is to the scheduler: a request of its own that generates nothing."""
    return InferenceRequest(
        request_id=request_id,
        model=model_key,
        model_key=model_key,
        kind=Kind.GENERATE,
        dialect=Dialect.OLLAMA,
        path="/api/generate",
        arrived_s=now_s,
        client="herd",
        is_load_only=True,
        keep_alive_s=keep_alive_s,
        load_options=options,
    )


def _mark(before: Collection[ReplicaLoad], now: Collection[ReplicaLoad]) -> None:
    """Eviction plans made before a mark changes are made anew: the node's version tells."""
    for replica in {*before, *now}:
        is_pinned = replica in now
        if replica.is_pinned != is_pinned:
            replica.is_pinned = is_pinned
            replica.node.version += 1


def _places(pin: Pin, load: Load, fleet: Fleet) -> list[Place]:
    """Where it could be kept: Ollamas only, as other engines keep what they serve anyway."""
    board = load.board(pin.model_key, fleet)
    return [
        place
        for place in (board.places if board is not None else ())
        if place.replica.kind is EngineKind.OLLAMA
        and pin.node_id in {"", place.replica.node_id}
        and place.load.engine.out_since_s is None
    ]
