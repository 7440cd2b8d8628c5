"""How many requests a second a fleet can carry: what a load of 1.0 means."""

from collections.abc import Mapping, Sequence
from math import exp

from ollama_herd.core.predict import attention_tokens
from ollama_herd.simulate.machines import Machine, Truth, fits

STEPS = 400
SHARPNESS = 12.0


def requests_s(
    machines: Sequence[Machine],
    truth: Truth,
    shares: Mapping[str, float],
    prompt: float,
    output: float,
) -> float:
    """The largest rate of requests, split over models as `shares`, that machine time allows.

    Each machine's time is divided among models so that the worst served model gets the most
    (max-min by multiplicative weights); loads, caches and chance are left out, so no policy
    reaches 1.0. Raises ValueError when a model runs nowhere.
    """
    rates = {
        (machine.name, model): _throughput(machine, truth, model, prompt, output)
        for machine in machines
        for model in shares
        if fits(machine, truth.specs[model])
    }
    for model in shares:
        if not any((machine.name, model) in rates for machine in machines):
            raise ValueError(f"no machine of the fleet can run {model}")
    total = sum(shares.values())
    wanted = {model: share / total for model, share in shares.items()}
    most = sum(max(rates.get((m.name, x), 0.0) for x in shares) for m in machines)
    carried = dict.fromkeys(shares, 0.0)
    for _ in range(STEPS):
        scale = SHARPNESS / most
        weight = {x: exp(-scale * carried[x] / wanted[x]) for x in shares}
        for machine in machines:
            options = [x for x in shares if (machine.name, x) in rates]
            if options:
                best = max(options, key=lambda x: weight[x] / wanted[x] * rates[machine.name, x])
                carried[best] += rates[machine.name, best] / STEPS
    return min(carried[x] / wanted[x] for x in shares)


def _throughput(machine: Machine, truth: Truth, model: str, prompt: float, output: float) -> float:
    """Requests a second with every slot busy."""
    rates = truth.rates(machine.name, model)
    slots = 1 if truth.specs[model].is_embedding else machine.slots
    prefill_s = attention_tokens(prompt, 0.0) / rates.prefill_tokens_s
    if truth.specs[model].is_embedding:
        return 1 / prefill_s
    kv_s = rates.kv_s * (prompt + output / 2)
    step_s = rates.step_s * (1 + truth.alpha[machine.name] * (slots - 1)) + kv_s * slots
    return slots / (slots * prefill_s + output * step_s)
