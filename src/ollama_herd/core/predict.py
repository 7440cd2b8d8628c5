"""How fast each machine runs each model, learned online from finished requests.

Rates are log-domain moving averages that start at a hardware prior. Only clean samples move one
rate alone; mixed ones move prefill and decode together (apart they run away). Failures never
reach this module. The scheduler owns the one `Predictor`; `state`/`restore` carry it over restarts.
"""

from collections.abc import Sequence
from math import exp, log

from ollama_herd.core import hardware as hw
from ollama_herd.core.hours import OwnerHours, present_share
from ollama_herd.core.learned import NodePaceState, PredictorState, RatesState, Service
from ollama_herd.core.lengths import Lengths
from ollama_herd.core.node import Node, Platform, Replica

GAIN = 0.12
LOAD_GAIN = 0.3
STEP_LIMIT = 1.6
PRIOR_FACTOR_LN = log(8)
"""A rate never leaves a factor of eight around its prior: no sample run can drive it off."""

COUNT_MAX = 1e6

SPEED_GAIN = 0.35
SPEED_LN_MIN = -2.5
SPEED_LN_MAX = 0.1
SPEED_TAU_S = 600.0
"""A node's momentary speed against what was learned; forgotten in ten minutes."""

BUSY_LN = -0.693
BUSY_BLEND_S = 60.0
BUSY_PERCENT = 40.0
"""Before anything was measured, an owner at work is taken to halve the speed."""

RETURNS = present_share(passes_s=300.0, stay_s=60.0)
RETURNS_LATER = present_share(passes_s=300.0, stay_s=600.0)
"""Of a usual user who is away: the part of the next minute (a request), and of the next ten minutes
(a model loaded ahead), for which he is back. Use of a machine comes in stretches of some minutes.
"""

BIAS_GAIN = 0.08
BIAS_LN_MIN = -0.4
BIAS_LN_MAX = 1.0

JOINT_GAIN = 0.25
JOINT_LIMIT = 0.7

BORROWED_SAMPLES = 5
"""Weight another model on the node has at most in correcting a new model's prior."""

ATTENTION_TOKENS = 32768.0
"""Context at which attention doubles the cost of a prompt token (routing study)."""

PREFILL_CHUNK = 512
"""Prompt tokens evaluated between two decode steps of the others (llama.cpp's batch size)."""

LOAD_OVERHEAD_S = 1.0
MIN_LOAD_SAMPLE_S = 1.5
"""Shorter loads are found-already-loaded, not loads (recorded: 0.05 to 0.1 s)."""

SlotKey = tuple[str, str, str]


class Estimate:
    """A positive quantity as a moving average of its logarithm around a prior."""

    __slots__ = ("count", "ln", "prior_ln")

    def __init__(self, prior: float, correction_ln: float = 0.0) -> None:
        self.prior_ln = log(prior)
        self.count = 1.0
        self.ln = 0.0
        self.set_ln(self.prior_ln + correction_ln)

    @property
    def value(self) -> float:
        return exp(self.ln)

    def learn(self, sample: float, weight: float = 1.0, gain: float = GAIN) -> None:
        """Move towards a sample of the quantity; nonsense (zero, infinite) is ignored."""
        if not 1e-12 < sample < 1e12 or weight <= 0:
            return
        step = log(sample) - self.ln
        if not -STEP_LIMIT < step < STEP_LIMIT:
            step = STEP_LIMIT if step > 0 else -STEP_LIMIT
        weight = min(weight, 1.0)
        count = self.count
        self.set_ln(self.ln + max(gain, 1 / (count + 1)) * weight * step)
        if count < COUNT_MAX:
            self.count = count + weight

    def shift(self, step_ln: float) -> None:
        """Move by a factor that was inferred together with another quantity."""
        self.set_ln(self.ln + step_ln)

    def set_ln(self, value_ln: float) -> None:
        away = value_ln - self.prior_ln
        if -PRIOR_FACTOR_LN <= away <= PRIOR_FACTOR_LN:
            self.ln = value_ln
        else:  # also what is no number at all
            self.ln = self.prior_ln + (PRIOR_FACTOR_LN if away > 0 else -PRIOR_FACTOR_LN)

    def rebase(self, prior: float) -> None:
        """The prior changed because the machine told more; what was learned stays."""
        moved = log(prior) - self.prior_ln
        self.prior_ln += moved
        self.set_ln(self.ln if self.count > 1 else self.ln + moved)

    @property
    def error_ln(self) -> float:
        return self.ln - self.prior_ln


class Rates:
    """One runner on one engine of one node. The floats are what the hot path reads."""

    __slots__ = (
        "inv_prefill_s",
        "lessons",
        "load",
        "load_s",
        "prefill",
        "scale",
        "step",
        "step_s",
        "taught_s",
    )

    def __init__(self, prefill: Estimate, step: Estimate, load: Estimate) -> None:
        self.prefill = prefill  # tokens/s
        self.step = step  # s/token alone
        self.load = load  # s for a cold start
        self.scale = hw.ModelScale(hw.DEFAULT_SIZE_GB, 1.0, 1.0)
        self.lessons = 0
        self.taught_s = float("-inf")
        self.refresh()

    def refresh(self) -> None:
        self.inv_prefill_s = exp(-self.prefill.ln)
        self.step_s = exp(self.step.ln)
        self.load_s = exp(self.load.ln)


class NodePace:
    """What was learned of a node as a whole. `slow_*` multiply predicted times now."""

    __slots__ = (
        "alpha",
        "bias_decode",
        "bias_decode_ln",
        "bias_prefill",
        "bias_prefill_ln",
        "busy_ln",
        "busy_since_s",
        "gpus",
        "hardware",
        "hours",
        "load_rate",
        "platform",
        "runners",
        "sampled_s",
        "slow_decode",
        "slow_later",
        "slow_prefill",
        "speed",
        "speed_ln",
    )

    def __init__(self, node: Node) -> None:
        self.describe(node)
        hardware = self.hardware
        self.load_rate = Estimate(hw.LOAD_RATE_GB_S[hardware.compute])
        self.runners: dict[SlotKey, Rates] = {}
        self.speed_ln = 0.0
        self.sampled_s = float("-inf")
        self.busy_ln = BUSY_LN
        self.busy_since_s: float | None = None
        self.hours: OwnerHours | None = None  # once the node has told of its use
        self.bias_prefill_ln = 0.0
        self.bias_decode_ln = 0.0
        self.refresh(0.0)

    def describe(self, node: Node) -> None:
        self.hardware = hw.hardware_of(node.platform, node.vitals)
        self.platform: Platform = node.platform
        self.gpus = len(node.vitals.gpus)
        self.alpha = hw.BATCHING_SLOWDOWN[self.hardware.compute]

    def describes(self, node: Node) -> bool:
        """Whether the priors still rest on what the node says of itself."""
        vitals = node.vitals
        return (
            node.platform is self.platform
            and vitals.memory_total_bytes == self.hardware.memory_bytes
            and len(vitals.gpus) == self.gpus
        )

    def refresh(self, now_s: float) -> None:
        """Recompute the factors: speed is forgotten, an active owner is assumed to slow down, and
        one who usually works at this hour to come back.
        """
        age = max(0.0, now_s - self.sampled_s)
        ln = self.speed_ln * exp(-age / SPEED_TAU_S)
        if self.busy_since_s is not None:
            unknown = 1 - exp(-min(age, now_s - self.busy_since_s) / BUSY_BLEND_S)
            ln += unknown * (self.busy_ln - ln)
        self.speed = exp(hw.clipped(ln, SPEED_LN_MIN, SPEED_LN_MAX))
        self.bias_prefill = exp(self.bias_prefill_ln)
        self.bias_decode = exp(self.bias_decode_ln)
        slow = 1 / self.speed
        self.slow_later = 1.0
        if self.hours is not None and self.hours.share and self.busy_since_s is None:
            loss = self.hours.share * (exp(-self.busy_ln) - 1)
            slow *= 1 + RETURNS * loss
            self.slow_later += RETURNS_LATER * loss
        self.slow_prefill = self.bias_prefill * slow
        self.slow_decode = self.bias_decode * slow

    def saw_speed(self, ln: float, weight: float, now_s: float) -> None:
        """A clean decode ran `exp(ln)` times as fast as predicted at speed 1."""
        age = max(0.0, now_s - self.sampled_s)
        base = self.speed_ln * exp(-age / SPEED_TAU_S)
        moved = base + SPEED_GAIN * min(weight, 1.0) * (ln - base)
        self.speed_ln = hw.clipped(moved, SPEED_LN_MIN, SPEED_LN_MAX)
        self.sampled_s = now_s
        if self.busy_since_s is not None:
            towards = hw.clipped(ln, SPEED_LN_MIN, 0.0)
            self.busy_ln += GAIN * min(weight, 1.0) * (towards - self.busy_ln)


class Predictor:
    """Rates by replica, pace by node, lengths by model and client. One writer: the scheduler."""

    def __init__(self) -> None:
        self.lengths = Lengths()
        self._paces: dict[str, NodePace] = {}
        self._restored: dict[str, NodePaceState] = {}

    def pace(self, node: Node) -> NodePace:
        """The node's figures, made from priors when it is new, rebased when it told more."""
        found = self._paces.get(node.node_id)
        if found is None:
            found = NodePace(node)
            self._paces[node.node_id] = found
            kept = self._restored.get(node.node_id)
            if kept is not None:
                _restore_pace(found, kept)
        else:
            self._rebase(found, node)
        return found

    def rates(self, node: Node, replica: Replica) -> Rates:
        """The replica's figures; a new model borrows the corrections other models showed here."""
        pace = self._paces.get(node.node_id) or self.pace(node)
        key = replica.slot_key
        found = pace.runners.get(key)
        if found is None:
            scale = hw.scale_of(replica.model)
            prefill_ln, step_ln = _borrowed(list(pace.runners.values()))
            found = Rates(
                Estimate(hw.prefill_tokens_s(pace.hardware, scale), prefill_ln),
                Estimate(hw.step_s(pace.hardware, scale), step_ln),
                Estimate(LOAD_OVERHEAD_S + scale.size_gb / pace.load_rate.value),
            )
            found.scale = scale
            kept = self._restored.get(node.node_id)
            if kept is not None:
                _restore_rates(found, key, kept)
            found.refresh()
            pace.runners[key] = found
        return found

    def learn(self, pace: NodePace, rates: Rates, seen: Service, now_s: float) -> None:
        """Take in one completed request."""
        _learn_load(pace, rates, seen)
        _learn_prefill(pace, rates, seen)
        _learn_decode(pace, rates, seen, now_s)
        _learn_bias(pace, seen)
        rates.refresh()
        pace.refresh(now_s)

    def forget(self, node_id: str) -> None:
        """The node left the fleet for good."""
        self._paces.pop(node_id, None)
        self._restored.pop(node_id, None)

    def state(self) -> PredictorState:
        """What was learned. Nodes restored but not seen since are kept as they were."""
        unseen = [kept for key, kept in self._restored.items() if key not in self._paces]
        seen = [
            NodePaceState(
                node_id=node_id,
                load_rate_ln=pace.load_rate.ln,
                load_rate_count=pace.load_rate.count,
                bias_prefill_ln=pace.bias_prefill_ln,
                bias_decode_ln=pace.bias_decode_ln,
                busy_ln=pace.busy_ln,
                runners=self._runners_state(node_id, pace),
                hours=pace.hours.state() if pace.hours is not None else (),
            )
            for node_id, pace in self._paces.items()
        ]
        return PredictorState(nodes=(*seen, *unseen), models=self.lengths.state())

    def _runners_state(self, node_id: str, pace: NodePace) -> tuple[RatesState, ...]:
        kept = self._restored.get(node_id)
        seen = {key[1:] for key in pace.runners}
        unseen = [r for r in kept.runners if (r.engine_id, r.runner) not in seen] if kept else []
        return (*(_rates_state(key, rates) for key, rates in pace.runners.items()), *unseen)

    def restore(self, state: PredictorState) -> None:
        """Start from what an earlier run learned; bounds around the priors still hold."""
        self._restored = {node.node_id: node for node in state.nodes}
        self._paces.clear()
        self.lengths.restore(state.models)

    def _rebase(self, pace: NodePace, node: Node) -> None:
        before = pace.hardware
        pace.describe(node)
        hardware = pace.hardware
        if hardware == before:
            return
        pace.load_rate.rebase(hw.LOAD_RATE_GB_S[hardware.compute])
        for rates in pace.runners.values():
            rates.prefill.rebase(hw.prefill_tokens_s(hardware, rates.scale))
            rates.step.rebase(hw.step_s(hardware, rates.scale))
            rates.refresh()


def _borrowed(others: Sequence[Rates]) -> tuple[float, float]:
    """Mean log errors of prefill rate and decode step on the node, shrunk by one sample of 0."""
    sums = [0.0, 0.0]
    weights = [1.0, 1.0]
    for rates in others:
        for i, estimate in enumerate((rates.prefill, rates.step)):
            weight = min(estimate.count - 1, BORROWED_SAMPLES)
            sums[i] += weight * estimate.error_ln
            weights[i] += weight
    return sums[0] / weights[0], sums[1] / weights[1]


def attention_tokens(tokens: float, cached: float) -> float:
    """Prompt tokens weighted by what attention over the context before them costs."""
    return tokens * (1 + (cached + tokens / 2) / ATTENTION_TOKENS)


def _learn_load(pace: NodePace, rates: Rates, seen: Service) -> None:
    if seen.load_s is None or seen.load_s < MIN_LOAD_SAMPLE_S:
        return
    rates.load.learn(seen.load_s, gain=LOAD_GAIN)
    rate = rates.scale.size_gb / (seen.load_s - LOAD_OVERHEAD_S)
    pace.load_rate.learn(rate, gain=LOAD_GAIN)


def _learn_prefill(pace: NodePace, rates: Rates, seen: Service) -> None:
    new = seen.prompt_tokens - seen.cached_tokens
    if not seen.is_prefill_clean or seen.prefill_s is None or new < 64:
        return
    work_s = seen.prefill_s * pace.speed
    stall_s = new / 512 * seen.stall_tokens_s
    if stall_s >= work_s / 2:
        return
    rate = attention_tokens(new, seen.cached_tokens) / max(work_s - stall_s, 1e-6)
    weight = min(1.0, new / 400)
    if not seen.is_cache_known and rate * rates.inv_prefill_s > 1:
        # Part of the prompt may have been cached: the rate is an upper bound, hardly news.
        weight *= 0.1
    rates.prefill.learn(rate, weight)


def _learn_decode(pace: NodePace, rates: Rates, seen: Service, now_s: float) -> None:
    progress_s = seen.progress_s
    tokens = seen.output_tokens - 1  # the first comes out of the prompt evaluation
    if progress_s is None or progress_s <= 0 or tokens < 4:
        return
    if seen.is_decode_clean:
        weight = min(1.0, tokens / 80)
        rates.step.learn(progress_s * pace.speed / tokens, weight)
        pace.saw_speed(log(tokens * exp(rates.step.ln) / progress_s), weight, now_s)
        return
    predicted = progress_s * pace.speed / rates.step_s
    error = hw.clipped(log(tokens / max(predicted, 1e-9)), -JOINT_LIMIT, JOINT_LIMIT)
    step = JOINT_GAIN * error * min(1.0, predicted / 100)
    rates.prefill.shift(step)
    rates.step.shift(-step)


def _learn_bias(pace: NodePace, seen: Service) -> None:
    pace.bias_prefill_ln = _moved_bias(
        pace.bias_prefill_ln, seen.prefill_s, seen.predicted_prefill_s
    )
    pace.bias_decode_ln = _moved_bias(pace.bias_decode_ln, seen.decode_s, seen.predicted_decode_s)


def _moved_bias(bias_ln: float, actual_s: float | None, predicted_s: float) -> float:
    if actual_s is None or actual_s < 0.005 or predicted_s < 0.005:
        return bias_ln
    error = hw.clipped(log(actual_s / predicted_s), -STEP_LIMIT, STEP_LIMIT)
    return hw.clipped(bias_ln + BIAS_GAIN * (error - bias_ln), BIAS_LN_MIN, BIAS_LN_MAX)


def _rates_state(key: SlotKey, rates: Rates) -> RatesState:
    return RatesState(
        engine_id=key[1],
        runner=key[2],
        prefill_ln=rates.prefill.ln,
        prefill_count=rates.prefill.count,
        step_ln=rates.step.ln,
        step_count=rates.step.count,
        load_ln=rates.load.ln,
        load_count=rates.load.count,
    )


def _restore_pace(pace: NodePace, kept: NodePaceState) -> None:
    _restore(pace.load_rate, kept.load_rate_ln, kept.load_rate_count)
    pace.bias_prefill_ln = hw.clipped(kept.bias_prefill_ln, BIAS_LN_MIN, BIAS_LN_MAX)
    pace.bias_decode_ln = hw.clipped(kept.bias_decode_ln, BIAS_LN_MIN, BIAS_LN_MAX)
    pace.busy_ln = hw.clipped(kept.busy_ln, SPEED_LN_MIN, 0.0)
    if kept.hours:
        pace.hours = OwnerHours()
        pace.hours.restore(kept.hours)


def _restore_rates(rates: Rates, key: SlotKey, kept: NodePaceState) -> None:
    for state in kept.runners:
        if (state.engine_id, state.runner) == key[1:]:
            _restore(rates.prefill, state.prefill_ln, state.prefill_count)
            _restore(rates.step, state.step_ln, state.step_count)
            _restore(rates.load, state.load_ln, state.load_count)


def _restore(estimate: Estimate, ln: float, count: float) -> None:
    if count > 1:
        estimate.set_ln(ln)
        estimate.count = hw.clipped(count, 1.0, COUNT_MAX)
