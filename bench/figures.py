"""What is measured, in which unit, and what it must reach; medians and verdicts of a run."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Target(NamedTuple):
    """`limit` for the herd's ratio to nginx, or for its own value; never to be exceeded."""

    limit: float
    is_ratio: bool
    is_worst: bool = False  # over all rounds the worst, not the median, must hold it

    def text(self, unit: str) -> str:
        if self.is_ratio:
            return f"≤ {self.limit:g} x nginx"
        return f"≤ {self.limit:g} {unit}".rstrip()


class Figure(NamedTuple):
    """A number of a scenario: `key` in what its measurement gives."""

    key: str
    label: str
    unit: str = ""
    digits: int = 1
    target: Target | None = None


_UNDER_1_MS = Target(1000, is_ratio=False)

_SLOW = (
    Figure("core_percent", "CPU of one core", "%", 0),
    Figure("cpu_us", "CPU per chunk", "µs"),
    Figure("rss_before_mb", "memory before", "MB", 0),
    Figure("peak_rss_mb", "memory at the peak", "MB", 0),
    Figure("delay_p50_us", "chunk delay p50", "µs", 0),
    Figure("delay_p99_us", "chunk delay p99", "µs", 0),
    Figure("over_ideal", "time taken / ideal", "x", 2),
    Figure("dropped", "streams dropped", "", 0, Target(0, is_ratio=False, is_worst=True)),
)

FIGURES: Mapping[str, Sequence[Figure]] = {
    "small": (
        Figure("cpu_us", "CPU per request", "µs", 1, Target(5, is_ratio=True)),
        Figure("per_s", "requests per second", "", 0),
        Figure("idle_rss_mb", "memory when idle", "MB", 0),
    ),
    "stream": (
        Figure("cpu_us", "CPU per chunk", "µs", 1, Target(1.5, is_ratio=True)),
        Figure("per_s", "chunks per second", "", 0),
        Figure("chunks_per_read", "chunks per read of the client", "", 2),
        Figure("delay_p50_us", "chunk delay p50", "µs", 0),
        Figure("delay_p99_us", "chunk delay p99", "µs", 0),
    ),
    "flood": (
        Figure("cpu_us", "CPU per chunk", "µs", 2),
        Figure("per_s", "chunks per second", "", 0),
    ),
    "latency": (
        Figure("added_p50_us", "added to the first byte p50", "µs", 0),
        Figure(
            "added_p99_us", "added to the first byte p99", "µs", 0, Target(1000, is_ratio=False)
        ),
        Figure("stream_added_p50_us", "added to a stream's first chunk p50", "µs", 0),
        Figure("chunk_delay_p50_us", "chunk delay p50, kept-alive stream", "µs", 0),
        # Nagle against a delayed acknowledgement would show as 40 ms and more.
        Figure(
            "chunk_delay_p99_us",
            "chunk delay p99, kept-alive stream",
            "µs",
            0,
            Target(30_000, is_ratio=False),
        ),
    ),
    "slow1000": _SLOW,
    "slow5000": _SLOW,
    "disconnect": (
        Figure("mid_p50_ms", "mid-stream p50", "ms"),
        Figure("gap_p50_ms", "between two chunks p50", "ms"),
        Figure("before_p50_ms", "before a stream's first byte p50", "ms"),
        Figure("plain_p50_ms", "before a plain answer p50", "ms"),
        Figure("max_ms", "slowest of all", "ms", 1, Target(50, is_ratio=False, is_worst=True)),
    ),
    "body20mb": (
        Figure("cpu_ms", "CPU per request", "ms", 0),
        Figure("wall_ms", "time per request", "ms", 0),
        Figure("peak_rss_mb", "memory at the peak, some at once", "MB", 0),
    ),
    "backpressure": (
        Figure("taken_mb", "taken from the engine", "MB", 0),
        Figure("growth_mb", "memory growth", "MB", 1),
    ),
}

TITLES: Mapping[str, str] = {
    "small": "Small requests: 1 KB in, 1 KB out, 32 connections",
    "stream": "Token streams: 64 at once, a chunk each 4 ms",
    "flood": "Streams at full speed: 64 at once",
    "latency": "Latency at low load: one connection",
    "slow1000": "1,000 slow streams: a chunk each 100 ms",
    "slow5000": "5,000 slow streams: a chunk each 100 ms",
    "disconnect": "Client gone -> engine's connection closed",
    "body20mb": "20 MB body",
    "backpressure": "Client that stops reading",
}


class Spread(NamedTuple):
    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def summarise(scenario: str, rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[Any]:
    """One row a figure: spreads of each proxy and of the rounds' ratios, and the verdict; where the
    herd ran in plain Python too, a second row for a figure that has a target beside nginx.

    `rounds` maps a proxy's name to its values; ratios are taken within a round, where both ran
    one after the other.
    """
    rows = []
    for figure in FIGURES[scenario]:
        rows.append(_row(scenario, figure, rounds, "herd"))
        has_plain = any("plain" in one for one in rounds)
        if has_plain and figure.target is not None and figure.target.is_ratio:
            rows.append(_row(scenario, figure, rounds, "plain"))
    return rows


def _row(
    scenario: str,
    figure: Figure,
    rounds: Sequence[Mapping[str, Mapping[str, Any]]],
    herd: str,
) -> dict[str, Any]:
    """`herd` is the name under which the herd's values are: of the target is said how the compiled
    one stands to it.
    """
    values = {
        name: [one[name][figure.key] for one in rounds if figure.key in one.get(name, {})]
        for name in ("nginx", herd)
    }
    ratios = [
        one[herd][figure.key] / one["nginx"][figure.key]
        for one in rounds
        if one.get("nginx", {}).get(figure.key, 0) > 0 and figure.key in one.get(herd, {})
    ]
    target = figure.target if herd == "herd" else None
    return {
        "scenario": scenario,
        "figure": figure.key if herd == "herd" else f"{figure.key} {herd}",
        "label": figure.label if herd == "herd" else f"{figure.label} in plain Python",
        "unit": figure.unit,
        "digits": figure.digits,
        "nginx": spread(values["nginx"]),
        "herd": spread(values[herd]),
        "ratio": spread(ratios),
        "target": target.text(figure.unit) if target else "",
        "met": _is_met(target, spread(values[herd]), spread(ratios)),
    }


def _is_met(target: Target | None, herd: Spread | None, ratio: Spread | None) -> bool | None:
    """None where there is no target or nothing to judge it by."""
    judged = ratio if target is not None and target.is_ratio else herd
    if target is None or judged is None:
        return None
    return (judged.high if target.is_worst else judged.median) <= target.limit
