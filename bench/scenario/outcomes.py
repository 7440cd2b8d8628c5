"""What the runs came to: figures, the tables on the screen and those of the documentation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from play import Played
from rich.table import Table

from ollama_herd.simulate.results import geometric_mean, quantile, ratio

WARM_UP_SHARE = 0.1
"""Requests of the first tenth of the time are answered, but not measured."""

MARKS = ("<!-- scenario: written by bench/scenario -->", "<!-- /scenario -->")
SLOWER = ", slower clock"
SHARES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


class Times(msgspec.Struct, frozen=True):
    """Simulated seconds."""

    mean: float
    p50: float
    p95: float
    p99: float


class Run(msgspec.Struct, frozen=True):
    """One policy on one trace. `added` is what the bench and the router's own work put in the way:
    s of simulated time in a first token that neither engine nor queue account for."""

    case: str
    policy: str
    speed: float
    requests: int
    failed: int
    starved: int
    loads: int
    ttft: Times
    whole: Times
    added: Times
    took_s: float
    router_cpu: float
    bench_cpu: float
    machine_cpu: float

    @property
    def added_share(self) -> float:
        """Of the mean time to first token."""
        return self.added.mean / max(self.ttft.mean, 1e-9)


def run_of(case: str, policy: str, speed: float, horizon_s: float, played: Played) -> Run:
    measured = played.measured
    answered = [m for m in measured if m.done_s >= 0]
    failed = [m for m in measured if m.done_s < 0 and (m.is_broken or m.status not in (0, 200))]
    counted = [m for m in answered if m.arrived_s >= WARM_UP_SHARE * horizon_s]
    added = []
    for one in counted:
        seen = played.seen[one.key]
        before_s = seen.received_s - one.arrived_s - one.queue_s
        added.append(max(before_s, 0.0) + one.first_s - seen.first_due_s)
    return Run(
        case,
        policy,
        speed,
        len(measured),
        len(failed),
        len(measured) - len(answered) - len(failed),
        played.loads,
        _times([m.first_s - m.arrived_s for m in counted]),
        _times([m.done_s - m.arrived_s for m in counted]),
        _times(added),
        played.took_s,
        played.router_cpu,
        played.bench_cpu,
        played.machine_cpu,
    )


def _times(values: Sequence[float]) -> Times:
    mean = sum(values) / len(values) if values else 0.0
    return Times(mean, *(quantile(values, share) for _, share in SHARES))


HEADINGS = (
    "policy",
    "requests",
    "failed",
    "starved",
    "loads",
    *(f"{what} {name}" for what in ("TTFT", "whole") for name in ("mean", "p50", "p95", "p99")),
    "TTFT ratio",
)
CLOCK_HEADINGS = (
    "policy",
    "speed",
    "added mean",
    "p50",
    "p95",
    "p99",
    "of TTFT",
    "router CPU",
    "bench CPU",
    "machine CPU",
)


def cells(run: Run, first: Run) -> list[str]:
    times = [getattr(of, name) for of in (run.ttft, run.whole) for name in Times.__struct_fields__]
    counts = [str(n) for n in (run.requests, run.failed, run.starved, run.loads)]
    share = ratio(run.ttft.mean, first.ttft.mean)
    return [run.policy, *counts, *(f"{value:.2f}" for value in times), f"{share:.2f}"]


def clock_cells(run: Run) -> list[str]:
    added = [f"{getattr(run.added, name):.3f}" for name in Times.__struct_fields__]
    added.append(f"{100 * run.added_share:.1f} %")
    cpu = [f"{100 * value:.0f} %" for value in (run.router_cpu, run.bench_cpu, run.machine_cpu)]
    return [run.policy, f"{run.speed:g}x", *added, *cpu]


def by_case(runs: Sequence[Run]) -> Mapping[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.case, []).append(run)
    return found


def together(runs: Sequence[Run]) -> list[list[str]]:
    """By policy: geometric means over the cases of the ratios to the first policy."""
    ratios: dict[str, list[tuple[float, ...]]] = {}
    for case, of_case in by_case(runs).items():
        base = of_case[0]
        if case.endswith(SLOWER):  # the first trace once more
            continue
        for run in of_case:
            pairs = [(run.ttft.mean, base.ttft.mean), (run.ttft.p95, base.ttft.p95)]
            pairs += [(run.whole.mean, base.whole.mean), (run.whole.p95, base.whole.p95)]
            ratios.setdefault(run.policy, []).append(tuple(ratio(*pair) for pair in pairs))
    rows = []
    for policy, found in ratios.items():
        columns = list(zip(*found, strict=True))
        rows.append([policy, *(f"{geometric_mean(values):.2f}" for values in columns)])
        rows[-1].append(f"{min(columns[0]):.2f} to {max(columns[0]):.2f}")
    return rows


TOGETHER = ("policy", "TTFT mean", "TTFT p95", "whole mean", "whole p95", "TTFT mean, by trace")


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    made = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="right" if number else "left")
    for row in rows:
        made.add_row(*row)
    return made


def markdown(runs: Sequence[Run], command: str) -> str:
    """The section between the marks."""
    lines = ["```sh", command, "```", "", "Ratios to the first policy, geometric means:", ""]
    lines += _lines(TOGETHER, together(runs))
    for case, of_case in by_case(runs).items():
        lines += ["", f"**{case}**", ""]
        lines += _lines(HEADINGS, [cells(run, of_case[0]) for run in of_case])
    lines += [
        "",
        "What the clock puts in (simulated s in a first token), and the load meanwhile:",
        "",
    ]
    rows = [[run.case, *clock_cells(run)] for run in runs]
    return "\n".join([*lines, *_lines(("trace", *CLOCK_HEADINGS), rows)])


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def write_between_marks(page: Path, text: str) -> None:
    """Raises ValueError when the page lacks the marks."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise ValueError(f"{page} has no place for the tables: {' … '.join(MARKS)}")
    page.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")
