"""Which model to load where before any request is sent there: another host for a busy model.

A load is worth its time when the hosts of a model are near their limit, or when those who wait
would be served a good deal sooner. Only models on the node's disk, only where nothing busy has to
go, and only for models that are loaded somewhere: what engines unloaded by their own keep-alive,
or clients by theirs, stays unloaded until somebody asks for it.
"""

from collections import Counter
from collections.abc import Collection, Iterator

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.inflight import Options, ReplicaLoad
from ollama_herd.core.load import Load
from ollama_herd.core.node import EngineKind
from ollama_herd.core.place import Place, Priced
from ollama_herd.core.predict import SlotKey
from ollama_herd.core.request import Dialect, InferenceRequest, Kind
from ollama_herd.core.signals import Ask, price
from ollama_herd.core.waiting import WaitingRoom

PLACE_EVERY_S = 5.0
BACKLOG = 3
"""Waiting requests of a model that make another host worth a look (routing study)."""

SOONER = 0.8
"""The backlog has to be gone in so much of the time it takes without the new host."""

FULL = 0.6
"""Share of its hosts' capacity beyond which a model gets another host."""

RATE_MIN = 1 / 900
BUSY_MAX = 0.6
SLOWER_MAX = 4.0
EVICTION_SHARE = 0.25
"""An eviction may cost so much of the load time: more, and two models would chase each other."""

LOOKS = 32
"""Hosts and other places of a model looked at in one plan, however large the fleet is."""

EMBEDDING_ONLY = ("embedding",)

PAUSE_S = 60.0
"""A replica is not loaded twice within a minute, whatever became of the first time."""


class Residency:
    """Plans loads. `plan` is asked at each tick; its answers are carried out or dropped."""

    def __init__(self) -> None:
        self._placed_s = float("-inf")
        self._tried: dict[SlotKey, float] = {}

    def plan(self, load: Load, room: WaitingRoom, fleet: Fleet, now_s: float) -> list[ReplicaLoad]:
        """Replicas to load now, at most one for each model and node."""
        self._tried = {key: at for key, at in self._tried.items() if now_s - at < PAUSE_S}
        is_due = now_s - self._placed_s >= PLACE_EVERY_S
        if is_due:
            self._placed_s = now_s
        models = {key for key, queue in room.models.items() if queue.count >= BACKLOG}
        if is_due:
            models |= {r.request.model_key for r in load.running.values()}
        chosen: list[ReplicaLoad] = []
        taken: set[str] = set()
        for model_key in sorted(models):
            sites = _Sites(model_key, load, fleet, now_s, self._tried.keys())
            queue = room.models.get(model_key)
            waiting = queue.count if queue is not None else 0
            best = sites.for_backlog(waiting) if waiting >= BACKLOG else None
            if best is None and is_due:
                best = sites.for_demand()
            if best is not None and best.key[0] not in taken:
                taken.add(best.key[0])
                self._tried[best.key] = now_s
                chosen.append(best)
        return chosen


class _Sites:
    """The hosts of a model, and where else it could be loaded now."""

    def __init__(
        self,
        model_key: str,
        load: Load,
        fleet: Fleet,
        now_s: float,
        tried: Collection[SlotKey],
    ) -> None:
        board = load.board(model_key, fleet)
        places = board.places if board is not None else []
        self.rate_s = sum(place.load.rate_per_s(now_s) for place in places)
        self.hosts: list[Priced] = []
        self.others: list[Priced] = []
        hosts = 0
        ask = Ask(usual_request(model_key, load, now_s), fleet.nodes, load, now_s)
        for place in places:
            replica = place.load
            if replica.is_hot or replica.loading_until_s:
                hosts += 1
                if hosts <= LOOKS:
                    self.hosts.append(price(place, ask))
            elif len(self.others) < LOOKS and replica.key not in tried and _may_load(place, now_s):
                self.others.append(price(place, ask))
        each_s = sum(_per_s(host) for host in self.hosts)
        self.carried_s = each_s * hosts / len(self.hosts) if hosts else 0.0

    def for_backlog(self, waiting: int) -> ReplicaLoad | None:
        """The place that gets those who wait served soonest, if that is soon enough."""
        carried = self.carried_s
        if not carried:
            return None
        drain_s = waiting / carried
        gains = []
        for priced in self._affordable():
            with_it_s = _drain_with(waiting, carried, priced)
            if with_it_s < SOONER * drain_s and priced.load < drain_s:
                gain = 0.5 * waiting * (drain_s - with_it_s) - priced.evict
                service_s = priced.prefill + priced.decode
                gain -= 0.5 * service_s * len(priced.place.node.active)
                gains.append((gain, priced))
        best = max(gains, key=lambda found: found[0], default=None)
        return best[1].place.load if best is not None and best[0] > 0 else None

    def for_demand(self) -> ReplicaLoad | None:
        """The cheapest further host of a model whose hosts are near their limit."""
        carried = self.carried_s
        if not carried or self.rate_s < RATE_MIN or self.rate_s <= FULL * carried:
            return None
        least_s = min(_service_s(host) for host in self.hosts)
        costs = [
            (_lasting_s(p) * (1 + 2 * p.place.node.busy_share) + 0.3 * p.evict, p)
            for p in self._affordable()
            if p.place.node.busy_share <= BUSY_MAX and _service_s(p) <= SLOWER_MAX * least_s
        ]
        best = min(costs, key=lambda found: found[0], default=None)
        return best[1].place.load if best is not None else None

    def _affordable(self) -> Iterator[Priced]:
        for priced in self.others:
            replica = priced.place.load
            if replica.displaces and replica.replica.model.capabilities == EMBEDDING_ONLY:
                continue  # small and soon loaded: nothing has to go for another one of it
            if not priced.is_blocked and priced.evict <= EVICTION_SHARE * priced.load:
                yield priced


def usual_request(model_key: str, load: Load, now_s: float) -> InferenceRequest:
    """A request as those that run now: they stand for those to come."""
    runs = [r for r in load.running.values() if r.request.model_key == model_key]
    prompt = sum(run.prompt for run in runs) / len(runs) if runs else 500.0
    return InferenceRequest(
        request_id="usual",
        model=model_key,
        model_key=model_key,
        kind=runs[0].request.kind if runs else Kind.CHAT,
        dialect=Dialect.OLLAMA,
        path="/api/chat",
        arrived_s=now_s,
        stream=True,
        prompt_tokens=int(prompt),
    )


def options_in_demand(
    replica: ReplicaLoad, model_key: str, load: Load, room: WaitingRoom
) -> Options:
    """What most of its requests, running and waiting, ask to have it loaded with, else what the
    last one asked for; () for the engine's own defaults. So that the first request that comes need
    not load it anew.
    """
    runner = replica.key[2]
    asked = Counter(
        run.request.load_options
        for run in load.running.values()
        if run.replica.key[2] == runner and not run.request.is_load_only
    )
    asked.update(pending.request.load_options for pending in room.models.get(model_key, ()))
    if not asked:
        return _asked_last(replica, load)
    return max(asked, key=lambda options: (asked[options], options))


def _asked_last(replica: ReplicaLoad, load: Load) -> Options:
    """By the last request that the runner answered here, else on another node."""
    known = [replica, *load.by_runner.get(replica.key[2], ())]
    for one in known:
        last: Options = one.last.load_options if one.last is not None else one.last_options
        if last:
            return last
    return ()


def _may_load(place: Place, now_s: float) -> bool:
    """Whether a load there would disturb nothing that is under way or promised."""
    replica, node = place.load, place.node
    return (
        replica.replica.kind is EngineKind.OLLAMA
        and not replica.running
        and not replica.failures
        and replica.engine.out_since_s is None
        and node.loading is None
        and (node.reserved is None or node.reserved_until_s <= now_s)
    )


def _per_s(priced: Priced) -> float:
    """Requests a second with every slot of the place busy."""
    place = priced.place
    slots = place.load.slots
    running = min(len(place.load.running), slots - 1)
    alone_s = priced.decode / (1 + place.node.pace.alpha * running)
    together_s = slots * priced.prefill + alone_s * (1 + place.node.pace.alpha * (slots - 1))
    return slots / max(together_s, 1e-3)


def _service_s(priced: Priced) -> float:
    return priced.prefill + priced.decode


def _lasting_s(priced: Priced) -> float:
    """A service there in the next minutes, when the machine's usual user may be back."""
    return _service_s(priced) * priced.place.node.pace.slow_later


def _drain_with(waiting: int, carried: float, priced: Priced) -> float:
    """Seconds until the backlog is gone when the new host joins after its load."""
    more = _per_s(priced)
    together_s = (waiting + more * priced.load) / (carried + more)
    return together_s if together_s > priced.load else waiting / carried
