"""The signals of a routing decision, each in seconds of expected cost; their sum ranks places.

    cost = wait + load + evict + prefill + decode + 1.5 others + future + 4 cache lost

with the reload for another context length shown apart, and prefill and decode split into what
was learned, what is slower now, and what the prefix cache saves. Weights are those of the
routing study; the optimum is flat, halving or doubling one changes results by 1 to 3 %.
"""

from collections.abc import Mapping, Sequence

from ollama_herd.core.eviction import eviction, loss_s
from ollama_herd.core.inflight import SAMPLE, ReplicaLoad
from ollama_herd.core.load import Load
from ollama_herd.core.node import Node
from ollama_herd.core.place import Place, Priced
from ollama_herd.core.predict import PREFILL_CHUNK, attention_tokens
from ollama_herd.core.prefix import BLOCK_TOKENS, MIN_LOST_TOKENS, Continuation
from ollama_herd.core.remaining import (
    LEAST_S,
    WITNESSES,
    ends_in_s,
    remaining_s,
    remaining_times,
    witnesses,
)
from ollama_herd.core.request import InferenceRequest
from ollama_herd.core.runner import adopted_context, needs_reload

OTHERS_WEIGHT = 1.5
CACHE_LOST_WEIGHT = 4.0
RELOAD_PAUSE_S = 2.0
"""Unloading before a reload with other options takes this long on top."""

Held = Mapping[ReplicaLoad, Sequence[float]]


class Ask:
    """What one request needs, computed once for all places."""

    __slots__ = (
        "attention",
        "block_tokens",
        "chain",
        "continuation",
        "load",
        "nodes",
        "now_s",
        "options",
        "output",
        "prompt",
        "request",
    )

    def __init__(
        self, request: InferenceRequest, nodes: Mapping[str, Node], load: Load, now_s: float
    ) -> None:
        lengths = load.predictor.lengths
        self.request = request
        self.nodes = nodes
        self.load = load
        self.now_s = now_s
        self.prompt = lengths.prompt_tokens(request)
        self.output = lengths.output_tokens(request)
        self.attention = attention_tokens(self.prompt, 0.0)
        self.chain = request.prefix
        self.block_tokens = 0.0
        if request.prefix and request.prompt_tokens:
            self.block_tokens = BLOCK_TOKENS * self.prompt / request.prompt_tokens
        self.options = request.load_options
        self.continuation: Continuation | None = load.continuations.get(request.model_key)


def price(place: Place, ask: Ask, held: Sequence[float] = ()) -> Priced:
    """All terms of sending the request to `place` now.

    `held` are the predicted finish times (router seconds) of requests already reserved there.
    What most places are in is priced in one go, as `price_any` says it (tested).
    """
    replica, node = place.load, place.node
    if held or node.reserved is not None or replica.loading_until_s:
        return price_any(place, ask, held)
    is_hot = replica.is_hot
    if is_hot and (ask.options or replica.options or place.options) and needs_reload(place, ask):
        return price_any(place, ask)
    running = len(replica.running)
    if running:
        is_free = running < replica.slots
        # Behind more than the sample holds the wait is estimated.
        if is_hot and len(node.active) == 1 and (is_free or running <= SAMPLE):
            return (_price_beside if is_free else _price_behind)(place, ask, running)
    elif not node.in_flight and is_hot:
        return _price_idle(place, ask)
    elif node.loading is None:
        return _price_apart(place, ask)
    return price_any(place, ask)


def _price_idle(place: Place, ask: Ask) -> Priced:
    """Of a loaded model on a node where nothing runs."""
    priced = _alone(place, ask, 1)
    priced.affinity = place.node.busy_share * (priced.prefill + priced.decode)
    priced.total = priced.history + priced.trend + priced.affinity + priced.prefix
    return priced


def _alone(place: Place, ask: Ask, models: int) -> Priced:
    """The service where nothing of the model runs yet; `models` are active then."""
    replica, pace = place.load, place.node.pace
    rates = replica.rates
    decode = ask.output * rates.step_s
    prefill = ask.attention * rates.inv_prefill_s
    if models > 1:
        decode *= models
        prefill *= models
    history = prefill + decode
    decode *= pace.slow_decode
    prefill *= pace.slow_prefill
    trend = prefill + decode - history
    priced = Priced(place, history, trend, prefill, decode)
    if replica.mirror.slots and ask.prompt:
        _credit(priced, ask, models, 0.0)
    return priced


def _with_load(priced: Priced, ask: Ask) -> None:
    """Add the load, where nothing else loads."""
    place = priced.place
    replica = place.load
    if (
        replica.plan_until_s > ask.now_s
        and replica.plan_version == place.node.version
        and replica.plan_report is ask.nodes[place.node.node.node_id]
    ):
        evict, blocked_s = replica.plan
    else:
        evict, blocked_s = eviction(place, ask.nodes, ask.load, ask.now_s)
    load = replica.rates.load_s
    priced.load = load
    priced.evict = evict
    if blocked_s:
        priced.is_blocked = True
        priced.wait = blocked_s
        priced.starts_now = False
    priced.total += blocked_s + load + evict


def _price_beside(place: Place, ask: Ask, running: int) -> Priced:
    """Of a free slot beside others of the same model: what most requests on a busy fleet ask of
    every node.
    """
    replica, node, now_s = place.load, place.node, ask.now_s
    rates, pace = replica.rates, node.pace
    alpha, step_s, slow_decode = pace.alpha, rates.step_s, pace.slow_decode
    batched = 1 + alpha * (running - 1)
    stall = step_s * batched / PREFILL_CHUNK
    prefill = ask.attention * rates.inv_prefill_s + ask.prompt * stall
    decode = ask.output * step_s * (1 + alpha * running)
    history = prefill + decode
    decode *= slow_decode
    prefill *= pace.slow_prefill
    trend = prefill + decode - history
    priced = Priced(place, history, trend, prefill, decode)
    if replica.mirror.slots and ask.prompt:
        _credit(priced, ask, 1, stall)
        prefill = priced.prefill
    rest_step_s, share, delay = step_s * batched * slow_decode, alpha / batched, 0.0
    asked = replica.sample
    if len(asked) > WITNESSES:
        asked = asked[::3]
    for run in asked:
        if run.first_byte_s < 0 and run.first_due_s > now_s:
            rest = run.output * rest_step_s + (run.first_due_s - now_s)
        else:
            rest = remaining_s(run, now_s, rest_step_s, node)
        delay += prefill if prefill < rest else rest  # noqa: FURB136 - twice as fast as min()
        delay += (decode if decode < rest else rest) * share  # noqa: FURB136
    delay *= running / len(asked)
    priced.affinity = OTHERS_WEIGHT * delay + node.busy_share * (prefill + decode)
    priced.total = history + trend + priced.affinity + priced.prefix
    return priced


def _price_behind(place: Place, ask: Ask, running: int) -> Priced:
    """Of the first slot that frees, where all are taken by requests of the same model.

    Spelt out like `_price_beside`: calls for what they share are what both are there to save.
    """
    replica, node, now_s = place.load, place.node, ask.now_s
    rates, pace, slots = replica.rates, node.pace, replica.slots
    alpha, step_s, slow_decode = pace.alpha, rates.step_s, pace.slow_decode
    rest_step_s = step_s * (1 + alpha * (running - 1)) * slow_decode
    rests = []
    for run in replica.sample:
        if run.first_byte_s < 0 and run.first_due_s > now_s:
            rests.append(run.output * rest_step_s + (run.first_due_s - now_s))
        else:
            rests.append(remaining_s(run, now_s, rest_step_s, node))
    wait = max(sorted(rests)[running - slots], LEAST_S)
    weight = running / len(rests)
    prefill, decode = ask.attention * rates.inv_prefill_s, ask.output * step_s
    batched, stall = 1.0, 0.0
    if slots > 1:
        batched = 1 + alpha * (slots - 2)
        stall = step_s * batched / PREFILL_CHUNK
        prefill += ask.prompt * stall
        decode *= 1 + alpha * (slots - 1)
    history = prefill + decode
    decode *= slow_decode
    prefill *= pace.slow_prefill
    trend = prefill + decode - history
    priced = Priced(place, history, trend, prefill, decode, wait)
    priced.starts_now = False
    if replica.mirror.slots and ask.prompt:
        _credit(priced, ask, 1, stall)
        prefill = priced.prefill
    share, delay = alpha / batched, 0.0
    for rest in rests:
        delay += prefill if prefill < rest else rest  # noqa: FURB136 - twice as fast as min()
        delay += (decode if decode < rest else rest) * share  # noqa: FURB136
    delay *= weight
    priced.affinity = OTHERS_WEIGHT * delay + node.busy_share * (prefill + decode)
    priced.total = wait + history + trend + priced.affinity + priced.prefix
    return priced


def _price_apart(place: Place, ask: Ask) -> Priced:
    """Of a model that runs nothing, loaded or not, on a node where nothing loads."""
    replica, node, now_s = place.load, place.node, ask.now_s
    pace, active = node.pace, node.active
    models = len(active) + 1
    priced = _alone(place, ask, models)
    stay = priced.prefill + priced.decode
    delay = 0.0
    for other in active.values():
        sample = other.sample
        count = len(other.running)
        step_s = other.rates.step_s * (1 + pace.alpha * (count - 1))
        step_s *= (models - 1) * pace.slow_decode
        shared = 0.0
        for run in sample:
            if run.first_byte_s < 0 and run.first_due_s > now_s:
                rest = run.output * step_s + (run.first_due_s - now_s)
            else:
                rest = remaining_s(run, now_s, step_s, node)
            shared += stay if stay < rest else rest  # noqa: FURB136 - twice as fast as min()
        delay += shared if count == len(sample) else shared * count / len(sample)
    priced.affinity = OTHERS_WEIGHT * delay / models + node.busy_share * stay
    priced.total = priced.history + priced.trend + priced.affinity + priced.prefix
    if not replica.is_hot:
        _with_load(priced, ask)
    return priced


def price_any(place: Place, ask: Ask, held: Sequence[float] = ()) -> Priced:
    """The same, of a place in whatever state."""
    priced = Priced(place)
    replica = place.load
    _readiness(priced, ask, held)
    if place.node.reserved is not None:
        _yield(priced, ask)
    running = len(replica.running)
    if priced.wait and running >= replica.slots:
        running = replica.slots - 1
    models = len(place.node.active) + (replica.key not in place.node.active)
    _service(priced, ask, running, models)
    priced.affinity = OTHERS_WEIGHT * _others(priced, ask, running, models)
    priced.affinity += place.node.busy_share * (priced.prefill + priced.decode)
    priced.total = (
        priced.wait
        + priced.load
        + priced.evict
        + priced.context
        + priced.history
        + priced.trend
        + priced.affinity
        + priced.prefix
    )
    return priced


def _readiness(priced: Priced, ask: Ask, held: Sequence[float]) -> None:
    """Waiting for a slot, loading, evicting, reloading: what has to happen before the prompt."""
    place = priced.place
    replica, node, now_s = place.load, place.node, ask.now_s
    is_present = replica.is_hot or replica.loading_until_s > 0
    has_options = is_present and (ask.options or replica.options or place.options)
    if has_options and needs_reload(place, ask):
        priced.num_ctx = adopted_context(place, ask)
        if not priced.num_ctx:
            _reload(priced, ask, held)
            return
    ahead = len(replica.running) + len(held) - replica.slots
    if ahead >= 0:
        priced.wait = ends_in_s(replica, held, ahead, now_s)
        priced.starts_now = False
    if replica.is_hot and not replica.loading_until_s:
        return
    if replica.running:
        if ahead < 0:  # else the wait counts it
            priced.load = max(replica.loading_until_s - now_s, 0.0)
        return
    priced.load = replica.rates.load_s + node.load_ahead_s(now_s)
    if priced.load > replica.rates.load_s:
        priced.starts_now = False
    evict_s, blocked_s = eviction(place, ask.nodes, ask.load, now_s)
    priced.evict = evict_s
    if blocked_s:
        priced.is_blocked = True
        priced.wait = max(priced.wait, blocked_s)
        priced.starts_now = False


def _reload(priced: Priced, ask: Ask, held: Sequence[float]) -> None:
    """The runner goes, with what it is worth to those who use it as it is, and comes back."""
    replica, node, now_s = priced.place.load, priced.place.node, ask.now_s
    ends = [*remaining_times(replica, now_s), *(at - now_s for at in held)]
    priced.wait = max(ends, default=0.0)
    priced.context = replica.rates.load_s + RELOAD_PAUSE_S + node.load_ahead_s(now_s)
    priced.evict = loss_s(replica, ask.load, now_s)
    priced.starts_now = not ends and node.loading is None


def _yield(priced: Priced, ask: Ask) -> None:
    """Keep out where another model has waited long to be loaded: it goes first."""
    node, now_s = priced.place.node, ask.now_s
    first = node.reserved
    if first is None or node.reserved_until_s <= now_s:
        return
    if first is priced.place.load and node.reserved_options == ask.options:
        return
    ends = [rest for other in node.active.values() for rest in remaining_times(other, now_s)]
    priced.wait = max(priced.wait, max(ends, default=0.0) + first.rates.load_s)
    priced.starts_now = False


def _service(priced: Priced, ask: Ask, running: int, models: int) -> None:
    """Prefill and decode: as learned without cache, as slow as the node is now, with cache."""
    place = priced.place
    replica = place.load
    rates, pace = replica.rates, place.node.pace
    step_s = rates.step_s
    decode = ask.output * step_s
    prefill = ask.attention * rates.inv_prefill_s
    stall = 0.0
    if running:
        stall = step_s * (1 + pace.alpha * (running - 1)) / PREFILL_CHUNK
        decode *= 1 + pace.alpha * running
        prefill += ask.prompt * stall
    if models > 1:
        decode *= models
        prefill *= models
        stall *= models
    slow = pace.slow_prefill
    history = prefill + decode
    decode_now = decode * pace.slow_decode
    prefill_now = prefill * slow
    priced.history = history
    priced.trend = prefill_now + decode_now - history
    priced.decode = decode_now
    priced.prefill = prefill_now
    if replica.mirror.slots and ask.prompt:
        _credit(priced, ask, models, stall)


def _credit(priced: Priced, ask: Ask, models: int, stall: float) -> None:
    """Prefill saved by what a slot holds of the prompt, less what its loss is expected to cost."""
    place = priced.place
    replica = place.load
    rates, pace = replica.rates, place.node.pace
    slot, common = replica.mirror.find(ask.chain, replica.slots)
    if common:
        cached = min(common * ask.block_tokens, ask.prompt - 1)
        new = ask.prompt - cached
        compute = attention_tokens(new, cached) * rates.inv_prefill_s * models
        whole = priced.prefill
        priced.prefill = (compute + new * stall) * pace.slow_prefill
        priced.prefix = priced.prefill - whole
        priced.cached = cached
    if slot is not None and ask.continuation is not None:
        tokens = (len(slot.chain) - common) * BLOCK_TOKENS
        if tokens >= MIN_LOST_TOKENS:
            chance = ask.continuation.chance(ask.now_s - slot.used_s)
            again = tokens * rates.inv_prefill_s / pace.speed * (1 + place.node.in_flight)
            priced.prefix += CACHE_LOST_WEIGHT * chance * again


def _others(priced: Priced, ask: Ask, running: int, models: int) -> float:
    """Delay caused to the requests already running on the node."""
    place = priced.place
    node, now_s = place.node, ask.now_s
    replica, alpha = place.load, node.pace.alpha
    delay = 0.0
    if replica.running:
        share = alpha / (1 + alpha * max(running - 1, 0))
        prefill, decode = priced.prefill, priced.decode
        is_full = len(replica.running) >= replica.slots
        rests = remaining_times(replica, now_s, None if is_full else witnesses(replica))
        for rest in rests:
            delay += min(prefill, rest) + min(decode, rest) * share
        return delay * len(replica.running) / len(rests)
    stay = priced.prefill + priced.decode
    for other in node.active.values():
        shared = 0.0
        for rest in remaining_times(other, now_s):
            shared += min(stay, rest)
        delay += shared * other.sampled_weight() / models
    return delay
