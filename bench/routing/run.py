"""The routing policies on a standard set of workloads and fleets: the tables of docs/routing.md.

Every line of it is deterministic: the same command gives the same table. `--quick` takes a fleet of
each size, two seeds and short runs: a look in a few minutes, no result.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import track

from ollama_herd.simulate import comparison, machines, traces, workloads
from ollama_herd.simulate.policies import STANDARD
from ollama_herd.simulate.results import Summary, geometric_mean
from ollama_herd.simulate.world import Conditions

CALM = Conditions()
WORKLOADS = (
    # name, workload, fleet, mix, load, conditions
    ("f3 chat 0.3", "chat", "f3", "two", 0.3, CALM),
    ("f3 chat 0.8", "chat", "f3", "few", 0.8, CALM),
    ("f4 completion 0.7", "completion", "f4", "few", 0.7, CALM),
    ("f4 long answers 0.6", "long-answers", "f4", "few", 0.6, CALM),
    ("f6 chat 0.6", "chat", "f6", "few", 0.6, CALM),
    ("f6 agents 0.5", "agents", "f6", "few", 0.5, CALM),
    ("f6 bursts 0.5", "bursts", "f6", "wide", 0.5, CALM),
    ("f6 big 0.7", "chat", "f6", "big", 0.7, CALM),
    ("f8 chat 0.9", "chat", "f8", "few", 0.9, CALM),
    ("f8 agents 0.7", "agents", "f8", "wide", 0.7, CALM),
    ("f8 long answers 0.4", "long-answers", "f8", "wide", 0.4, CALM),
    ("f8 chat 0.6, failures", "chat", "f8", "few", 0.6, Conditions(failures_per_h=6)),
    ("f8 chat 0.6, old reports", "chat", "f8", "wide", 0.6, Conditions(heartbeat_s=10)),
    ("f8 chat 0.6, wrong priors", "chat", "f8", "few", 0.6, Conditions(wrong_ln=1.4)),
    ("f50 chat 0.95", "chat", "f50", "few", 0.95, CALM),
    ("f50 agents 0.6", "agents", "f50", "wide", 0.6, CALM),
)
MORE = (
    # Other mixtures of the same, on which nothing was ever tried out.
    ("f3 bursts 0.4", "bursts", "f3", "few", 0.4, CALM),
    ("f4 big 0.5", "chat", "f4", "big", 0.5, CALM),
    ("f4 agents 0.6", "agents", "f4", "few", 0.6, CALM),
    ("f6 completion 0.6", "completion", "f6", "wide", 0.6, CALM),
    ("f6 long answers 0.7", "long-answers", "f6", "wide", 0.7, CALM),
    ("f8 agents, two models 0.8", "agents", "f8", "two", 0.8, CALM),
)
TRACES = (
    ("azure_llm_2023_conv.csv.gz", "f4", "few", 0.5),
    ("azure_llm_2023_conv.csv.gz", "f8", "wide", 0.8),
    ("azure_llm_2023_code.csv.gz", "f6", "few", 0.6),
    ("mooncake_conversation.jsonl.gz", "f8", "few", 0.6),
    ("mooncake_synthetic.jsonl.gz", "f6", "few", 0.7),
    ("claude_code_agentic.jsonl.gz", "f8", "few", 0.7),
    ("servegen_m-small.json.gz", "f6", "two", 0.7),
    ("servegen_m-mid.json.gz", "f50", "wide", 0.7),
)
COLUMNS = (
    ("mean TTFT", "ttft_mean_s"),
    ("p95 TTFT", "ttft_p95_s"),
    ("p99 TTFT", "ttft_p99_s"),
    ("mean end-to-end", "total_mean_s"),
    ("mean slowdown", "slowdown_mean"),
    ("loads/h", "loads_per_h"),
)
TARGETS = (
    # policy, figure, bound of the geometric mean over workloads of the herd's ratio to it
    ("reference", "ttft_mean_s", 1.1),
    ("reference", "ttft_p95_s", 1.1),
    ("reference", "slowdown_mean", 1.1),
    ("least-requests", "ttft_mean_s", 1 / 2.5),
    ("point-sum", "ttft_mean_s", 1 / 5),
)
"""What the herd is to reach."""

QUICK = (
    "f3 chat 0.8",
    "f4 completion 0.7",
    "f6 big 0.7",
    "f8 agents 0.7",
    "f50 chat 0.95",
)


def cases(folder: Path | None, most: int, *, more: bool = False) -> list[comparison.Case]:
    made = [
        comparison.Case(
            name,
            machines.fleet(fleet),
            workloads.BUILT_IN[workload],
            workloads.MIXES[mix],
            load,
            conditions,
            most,
        )
        for name, workload, fleet, mix, load, conditions in (MORE if more else WORKLOADS)
    ]
    for name, fleet, mix, load in TRACES if folder is not None and not more else ():
        source = traces.source(folder / name)
        title = f"{fleet} {name.split('.')[0]} {load:g}"
        made.append(
            comparison.Case(
                title,
                machines.fleet(fleet),
                source,
                workloads.MIXES[mix],
                load,
                CALM,
                most,
            )
        )
    return made


def one(
    job: tuple[Path | None, int, bool, int, list[str], list[int]],
) -> tuple[str, list[Summary]]:
    """A case by its place in the list: cases hold functions, which do not travel."""
    folder, most, more, index, policies, seeds = job
    case = cases(folder, most, more=more)[index]
    return case.name, comparison.compare(case, policies, seeds)


def ratios(found: dict[str, list[Summary]], policies: list[str]) -> list[str]:
    lines = [
        "| policy | " + " | ".join(title for title, _ in COLUMNS) + " | failed | starved |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for index, policy in enumerate(policies):
        rows = [summaries[index] for summaries in found.values()]
        cells = []
        for _, name in COLUMNS:
            values = [row.ratio[name] for row in rows]
            cells.append(f"{geometric_mean(values):.2f} ({min(values):.2f} to {max(values):.0f})")
        failed, starved = (sum(getattr(r.mean, n) for r in rows) for n in ("failed", "starved"))
        lines.append(f"| {policy} | " + " | ".join(cells) + f" | {failed:.1f} | {starved:.1f} |")
    return lines


def seconds(found: dict[str, list[Summary]], policies: list[str]) -> list[str]:
    """Mean time to first token of each case, and of the first policy also the rest."""
    first = ["mean TTFT s", "p95", "slowdown", "p99 slowdown", "loads/h"]
    lines = [
        "| workload | " + " | ".join([*first, *(f"{p}: ratio" for p in policies[1:])]) + " |",
        "|---" * (len(first) + len(policies)) + "|",
    ]
    for name, rows in found.items():
        mean, half = rows[0].mean, rows[0].half_width
        cells = [
            f"{mean.ttft_mean_s:.2f} ± {half.ttft_mean_s:.2f}",
            f"{mean.ttft_p95_s:.2f}",
            f"{mean.slowdown_mean:.2f}",
            f"{mean.slowdown_p99:.1f}",
            f"{mean.loads_per_h:.0f}",
        ]
        cells += [f"{row.ratio['ttft_mean_s']:.2f}" for row in rows[1:]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def against(found: dict[str, list[Summary]], policies: list[str]) -> list[str]:
    """The first policy's figures as ratios to the reference's, and its mean TTFT to that of the
    policies it has to beat; under the workloads their geometric means and their 95 % intervals.
    """
    named = [(p, figure) for p, figure, _ in TARGETS if p in policies]
    if not named:
        return []
    title = {name: text for text, name in COLUMNS}
    heads = [f"{title[figure]} to {policy}" for policy, figure in named]
    lines = [
        "| workload | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    each: list[list[float]] = [[] for _ in named]
    for name, rows in found.items():
        by = {row.policy: row for row in rows}
        ratios = [rows[0].ratio[figure] / by[policy].ratio[figure] for policy, figure in named]
        for values, value in zip(each, ratios, strict=True):
            values.append(value)
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in ratios) + " |")
    means = [f"**{geometric_mean(values):.2f}** ({_interval(values)})" for values in each]
    lines.append("| **geometric mean** | " + " | ".join(means) + " |")
    return lines


def _interval(ratios: list[float]) -> str:
    """Of the geometric mean, the workloads taken as drawn from all there could be."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = sum(logs) / len(logs)
    spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / max(1, len(logs) - 1))
    half = 2.0 * spread / math.sqrt(len(logs))
    return f"{math.exp(mean - half):.2f} to {math.exp(mean + half):.2f}"


def verdicts(found: dict[str, list[Summary]], policies: list[str]) -> Iterator[str]:
    """Each thing to be reached, and whether it is."""
    for policy, figure, most in TARGETS:
        if policy not in policies:
            continue
        column = policies.index(policy)
        value = geometric_mean(
            [rows[0].ratio[figure] / rows[column].ratio[figure] for rows in found.values()]
        )
        reached = "reached" if value <= most else "NOT reached"
        yield f"- {figure} to {policy}: {value:.2f}, at most {most:.2f} wanted: {reached}"
    if "least-requests" in policies:
        column = policies.index("least-requests")
        worse = [name for name, rows in found.items() if rows[column].ratio["ttft_mean_s"] < 1]
        yield f"- workloads where least-requests is better: {', '.join(worse) or 'none'}"
    lost = sum(rows[0].mean.failed + rows[0].mean.starved for rows in found.values())
    yield f"- failed or starved requests, mean of the seeds summed over workloads: {lost:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, help="folder of the public traces; without it, none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1500, help="at most so many in a run")
    parser.add_argument("--policies", default=",".join(STANDARD), help="ratios are to the first")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--more", action="store_true", help="six other workloads instead")
    parser.add_argument("--quick", action="store_true", help="few and short runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.requests = min(given.seeds, 2), min(given.requests, 300)
    policies = given.policies.split(",")
    seeds = list(range(given.first_seed, given.first_seed + given.seeds))
    names = [case.name for case in cases(given.traces, given.requests, more=given.more)]
    jobs = [
        (given.traces, given.requests, given.more, index, policies, seeds)
        for index, name in enumerate(names)
        if given.only in name and (name in QUICK or not given.quick)
    ]
    started = time.perf_counter()
    console = Console(stderr=True)
    with ProcessPoolExecutor(given.jobs) as pool:
        found = dict(track(pool.map(one, jobs), total=len(jobs), console=console, transient=True))
    tables = [
        ratios(found, policies),
        against(found, policies),
        seconds(found, policies),
    ]
    tables.insert(2, list(verdicts(found, policies)))
    print("\n\n".join("\n".join(table) for table in tables if table))
    took = time.perf_counter() - started
    console.print(f"{len(jobs)} workloads, {given.seeds} seeds each, {took:.0f} s")
    if given.json is not None:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)))


if __name__ == "__main__":
    sys.exit(main())
