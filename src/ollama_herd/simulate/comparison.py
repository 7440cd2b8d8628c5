"""One workload on one fleet under several policies and seeds."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

import msgspec

from ollama_herd.simulate import capacity, machines, results
from ollama_herd.simulate.policies import POLICIES
from ollama_herd.simulate.workloads import Conversation, Mix, Source, mean_lengths, scaled
from ollama_herd.simulate.world import Conditions, Outcome, Scenario, World

SAMPLED = 600
"""Conversations looked at for a workload's mean lengths."""


class Case(msgspec.Struct, frozen=True):
    """A fleet, a workload, a load. `most` bounds the requests: a shorter horizon if it must."""

    name: str
    fleet: tuple[machines.Machine, ...]
    source: Source
    mix: Mix
    load: float
    conditions: Conditions = Conditions()
    most: int = 2500
    # Requests as they were, at their own times: then source, mix, load and bound do not count.
    fixed: tuple[Conversation, ...] = ()
    specs: Mapping[str, machines.ModelSpec] = machines.MODELS


def scenario(case: Case, seed: int) -> Scenario:
    """The case's requests for a seed. Raises ValueError when the fleet cannot run the models."""
    if case.fixed:
        return _replayed(case, seed)
    shares = {
        model: share
        for model, share in case.mix.shares.items()
        if any(machines.fits(m, machines.MODELS[model]) for m in case.fleet)
    }
    if not shares:
        raise ValueError("no machine of the fleet can run a model of the mix")
    sample = []
    for conversation in case.source(Random(f"lengths-{seed}")):
        sample.append(conversation)
        if len(sample) >= SAMPLED:
            break
    truth = machines.Truth(case.fleet, seed, case.conditions.wrong_ln)
    rate_s = case.load * capacity.requests_s(case.fleet, truth, shares, *mean_lengths(sample))
    horizon_s = min(case.conditions.horizon_s, case.most / rate_s)
    rng = Random(f"workload-{seed}")
    conversations = scaled(case.source(rng), rng, Mix(shares), rate_s, horizon_s)
    conditions = msgspec.structs.replace(case.conditions, horizon_s=horizon_s)
    return Scenario(case.fleet, tuple(conversations), conditions, seed)


def _replayed(case: Case, seed: int) -> Scenario:
    """Without the requests for models that no machine has any more."""
    able = {
        name
        for name, spec in case.specs.items()
        if any(machines.fits(machine, spec) for machine in case.fleet)
    }
    kept = tuple(conversation for conversation in case.fixed if conversation.model in able)
    if not kept:
        raise ValueError("no machine of the fleet has a model that was asked for")
    horizon_s = max(conversation.at_s for conversation in kept) + 1.0
    conditions = msgspec.structs.replace(case.conditions, horizon_s=horizon_s)
    return Scenario(case.fleet, kept, conditions, seed, case.specs)


def run(case: Case, policy: str, seed: int, told: Callable[[float], None] | None = None) -> Outcome:
    """One run. Raises KeyError for a policy that does not exist."""
    made = POLICIES[policy](Random(f"policy-{seed}"))
    return World(scenario(case, seed), made).run(told)


def compare(
    case: Case,
    policies: Sequence[str],
    seeds: Sequence[int],
    told: Callable[[str, int, float], None] | None = None,
) -> list[results.Summary]:
    """Every policy on every seed; ratios are to the first policy.

    `told` hears of policy, seed and the share of that run that is done.
    """
    found: dict[str, list[results.Figures]] = {}
    for policy in policies:
        for seed in seeds:

            def share(done: float, policy: str = policy, seed: int = seed) -> None:
                if told is not None:
                    told(policy, seed, done)

            share(0.0)
            found.setdefault(policy, []).append(results.figures(run(case, policy, seed, share)))
            share(1.0)
    base = found[policies[0]]
    return [results.summary(policy, runs, base) for policy, runs in found.items()]
