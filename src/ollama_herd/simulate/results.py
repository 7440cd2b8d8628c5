"""Figures of a comparison: means, quantiles, ratios, and how far the seeds agree."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, log, sqrt

import msgspec

from ollama_herd.simulate.world import Outcome

# 97.5 % quantiles of Student's t by degrees of freedom.
_T975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_T975_MANY = 1.96


class Figures(msgspec.Struct, frozen=True):
    """One run, or the mean of several. Times in s, slowdown against the best machine, alone."""

    ttft_mean_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    total_mean_s: float
    slowdown_mean: float
    slowdown_p99: float
    loads_per_h: float
    failed: float
    starved: float
    requests: float


NAMES: tuple[str, ...] = Figures.__struct_fields__


def figures(outcome: Outcome) -> Figures:
    """What one run comes to."""
    return Figures(
        ttft_mean_s=_mean(outcome.ttft_s),
        ttft_p95_s=quantile(outcome.ttft_s, 0.95),
        ttft_p99_s=quantile(outcome.ttft_s, 0.99),
        total_mean_s=_mean(outcome.total_s),
        slowdown_mean=_mean(outcome.slowdown),
        slowdown_p99=quantile(outcome.slowdown, 0.99),
        loads_per_h=outcome.loads / outcome.hours,
        failed=float(outcome.failed),
        starved=float(outcome.starved),
        requests=float(outcome.requests),
    )


class Summary(msgspec.Struct, frozen=True):
    """A policy over several seeds: means, and half widths of their 95 % confidence intervals."""

    policy: str
    mean: Figures
    half_width: Figures
    ratio: Mapping[str, float]
    """Geometric mean over seeds of each figure to the reference policy's of the same seed."""


def summary(policy: str, runs: Sequence[Figures], reference: Sequence[Figures]) -> Summary:
    """`reference` are the runs, same seeds in the same order, that ratios are taken to."""
    ratios = {
        name: geometric_mean(
            [
                ratio(getattr(run, name), getattr(base, name))
                for run, base in zip(runs, reference, strict=True)
            ]
        )
        for name in NAMES
    }
    return Summary(policy, _each(runs, _mean), _each(runs, _half_width), ratios)


def ratio(value: float, base: float) -> float:
    """1 where both are next to nothing."""
    return (value + 1e-6) / (base + 1e-6)


def geometric_mean(values: Sequence[float]) -> float:
    return exp(sum(log(value) for value in values) / len(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them are; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _each(runs: Sequence[Figures], of: Callable[[Sequence[float]], float]) -> Figures:
    return Figures(*(of([getattr(run, name) for run in runs]) for name in NAMES))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _half_width(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean (Student's t); 0 for one value."""
    count = len(values)
    if count < 2:
        return 0.0
    mean = _mean(values)
    spread = sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    t = _T975[count - 2] if count - 2 < len(_T975) else _T975_MANY
    return t * spread / sqrt(count)
