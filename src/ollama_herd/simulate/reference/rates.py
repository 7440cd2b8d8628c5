"""Estimators of the reference policy: rates in the log domain, speed now, bias, arrival rates."""

from collections.abc import Iterable
from math import exp, inf, log

from ollama_herd.core import hardware as hw
from ollama_herd.core.node import Node, Replica
from ollama_herd.simulate.machines import GB, KV_BANDWIDTH_SHARE, MODELS

GAIN = 0.12
LOAD_GAIN = 0.3
STEP_LIMIT = 1.6
FACTOR_LIMIT_LN = log(8)

SPEED_GAIN = 0.35
SPEED_LN_MIN, SPEED_LN_MAX = -2.5, 0.1
SPEED_TAU_S = 600.0
BUSY_LN = log(0.5)
BUSY_BLEND_S = 60.0
BUSY_PERCENT = 40.0
"""Of the processors taken by others, from which on a machine's user counts as active."""

BIAS_GAIN = 0.08
BIAS_LN_MIN, BIAS_LN_MAX = -0.4, 1.0

BORROWED_MOST = 5
RATE_TAU_S = 300.0
LOAD_OVERHEAD_S = 1.0
USUAL_KV_MB = 0.15


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


class LogRate:
    """An average of logarithms around a prior that counts as one sample."""

    __slots__ = ("count", "ln", "prior_ln", "value")

    def __init__(self, prior: float, correction_ln: float = 0.0) -> None:
        self.prior_ln = log(prior)
        self.count = 1.0
        self.ln = self.prior_ln
        self.value = prior
        self.shift(correction_ln)

    def learn(self, sample: float, weight: float = 1.0, gain: float = GAIN) -> None:
        """Move towards a sample; one that is not positive says nothing."""
        if sample <= 0 or weight <= 0:
            return
        step = clip(log(sample) - self.ln, -STEP_LIMIT, STEP_LIMIT)
        self.shift(max(gain, 1 / (self.count + 1)) * weight * step)
        self.count += weight

    def shift(self, step_ln: float) -> None:
        low, high = self.prior_ln - FACTOR_LIMIT_LN, self.prior_ln + FACTOR_LIMIT_LN
        self.ln = clip(self.ln + step_ln, low, high)
        self.value = exp(self.ln)

    @property
    def error_ln(self) -> float:
        return self.ln - self.prior_ln


class Decaying:
    """Events a second, forgotten with a time constant of 300 s."""

    __slots__ = ("at_s", "rate_s")

    def __init__(self) -> None:
        self.at_s = 0.0
        self.rate_s = 0.0

    def add(self, now_s: float, amount: float = 1.0) -> None:
        self.rate_s = self.of(now_s) + amount / RATE_TAU_S
        self.at_s = now_s

    def of(self, now_s: float) -> float:
        return self.rate_s * exp((self.at_s - now_s) / RATE_TAU_S) if self.rate_s else 0.0


class ModelRates:
    """One model on one machine: prefill in tokens/s, decode alone in s/token.

    `kv_s` is the time to read a token's KV cache, in each step.
    """

    __slots__ = ("decode", "kv_s", "prefill", "size_bytes", "size_gb")

    def __init__(self, hardware: hw.Hardware, replica: Replica, known: "list[ModelRates]") -> None:
        model = replica.model
        scale = hw.scale_of(model)
        prefill_ln = _borrowed(rates.prefill for rates in known)
        decode_ln = _borrowed(rates.decode for rates in known)
        self.prefill: LogRate = LogRate(hw.prefill_tokens_s(hardware, scale), prefill_ln)
        self.decode: LogRate = LogRate(hw.step_s(hardware, scale), decode_ln)
        self.size_gb = scale.size_gb
        self.size_bytes = hw.needed_bytes(int(scale.size_gb * GB))
        spec = MODELS.get(model.name)
        kv_mb = spec.kv_mb if spec is not None else USUAL_KV_MB
        self.kv_s = kv_mb / 1e3 / (KV_BANDWIDTH_SHARE * hardware.bandwidth_gb_s)


def _borrowed(others: Iterable[LogRate]) -> float:
    """Mean log error of the machine's other models, each of at most five samples, and one of 0."""
    total, weight = 0.0, 1.0
    for rate in others:
        samples = min(rate.count - 1, BORROWED_MOST)
        total += samples * rate.error_ln
        weight += samples
    return total / weight


class Pace:
    """A machine as a whole: loads, speed now, bias of predictions."""

    __slots__ = (
        "alpha",
        "bias_decode",
        "bias_prefill",
        "busy_ln",
        "hardware",
        "is_user_busy",
        "load_rate",
        "sampled_s",
        "slow_decode",
        "slow_prefill",
        "slow_unbiased",
        "speed",
        "speed_ln",
    )

    def __init__(self, node: Node) -> None:
        self.hardware = hw.hardware_of(node.platform, node.vitals)
        compute = self.hardware.compute
        self.alpha = hw.BATCHING_SLOWDOWN[compute]
        self.load_rate = LogRate(hw.LOAD_RATE_GB_S[compute])
        self.speed_ln = 0.0
        self.sampled_s = -inf
        self.is_user_busy = False
        self.busy_ln = BUSY_LN
        self.bias_prefill = 0.0
        self.bias_decode = 0.0
        self.refresh(0.0)

    def load_s(self, rates: ModelRates) -> float:
        """A load of the model from disk."""
        return LOAD_OVERHEAD_S + rates.size_gb / self.load_rate.value

    def note_user(self, foreign_percent: float | None) -> None:
        self.is_user_busy = foreign_percent is not None and foreign_percent >= BUSY_PERCENT

    def refresh(self, now_s: float) -> None:
        """`speed`, and the factors that predicted times have now."""
        age_s = now_s - self.sampled_s
        ln = self.speed_ln * exp(-age_s / SPEED_TAU_S)
        if self.is_user_busy:
            ln += (1 - exp(-age_s / BUSY_BLEND_S)) * (self.busy_ln - ln)
        self.speed = exp(clip(ln, SPEED_LN_MIN, SPEED_LN_MAX))
        self.slow_unbiased = 1 / self.speed
        self.slow_prefill = exp(self.bias_prefill) * self.slow_unbiased
        self.slow_decode = exp(self.bias_decode) * self.slow_unbiased

    def saw_speed(self, ln: float, now_s: float) -> None:
        """Tokens of the last seconds came `exp(ln)` times as fast as at speed 1."""
        base = self.speed_ln * exp((self.sampled_s - now_s) / SPEED_TAU_S)
        self.speed_ln = clip(base + SPEED_GAIN * (ln - base), SPEED_LN_MIN, SPEED_LN_MAX)
        self.sampled_s = now_s
        if self.is_user_busy:
            self.busy_ln += GAIN * (clip(ln, SPEED_LN_MIN, 0.0) - self.busy_ln)

    def saw_prefill(self, actual_s: float, predicted_s: float) -> None:
        self.bias_prefill = _biased(self.bias_prefill, actual_s, predicted_s)

    def saw_decode(self, actual_s: float, predicted_s: float) -> None:
        self.bias_decode = _biased(self.bias_decode, actual_s, predicted_s)


def _biased(bias: float, actual_s: float, predicted_s: float) -> float:
    if actual_s <= 0 or predicted_s <= 0:
        return bias
    moved = bias + BIAS_GAIN * (log(actual_s / predicted_s) - bias)
    return clip(moved, BIAS_LN_MIN, BIAS_LN_MAX)
