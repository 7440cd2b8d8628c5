"""`herd simulate`: this version's routing against the standard policies, on simulated fleets."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ollama_herd.cli import show
from ollama_herd.cli.process import fail
from ollama_herd.simulate import comparison, machines, traces, workloads
from ollama_herd.simulate.policies import POLICIES, STANDARD
from ollama_herd.simulate.results import Summary
from ollama_herd.simulate.world import Conditions

BAR_CELLS = 12
MOST_SEEDS = 100

_COLUMNS = (
    ("TTFT mean s", "ttft_mean_s"),
    ("p95 s", "ttft_p95_s"),
    ("p99 s", "ttft_p99_s"),
    ("end-to-end s", "total_mean_s"),
    ("slowdown", "slowdown_mean"),
    ("loads/h", "loads_per_h"),
)


def simulate(  # noqa: PLR0913 - one parameter an option
    trace: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="trace files to replay (.csv, .jsonl, .json, each also .gz)"
        ),
    ] = None,
    *,
    workload: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"without a trace, one of: {', '.join(workloads.BUILT_IN)}"
        ),
    ] = "chat",
    fleet: Annotated[
        str, typer.Option(metavar="NAME", help=f"one of: {', '.join(machines.FLEETS)}")
    ] = "f6",
    mix: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"models asked for, one of: {', '.join(workloads.MIXES)}"
        ),
    ] = "few",
    load: Annotated[
        float, typer.Option(min=0.01, max=1.5, help="share of what the fleet can carry")
    ] = 0.6,
    policies: Annotated[
        str, typer.Option(metavar="NAMES", help="comma-separated; ratios are to the first one")
    ] = ", ".join(STANDARD),
    seeds: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="runs of each policy")] = 3,
    first_seed: Annotated[int, typer.Option(help="the same seed gives the same run")] = 1,
    requests: Annotated[int, typer.Option(min=20, help="at most so many in a run")] = 1500,
    wrong: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="log-sd of true speeds around what is expected")
    ] = 0.35,
    heartbeat: Annotated[float, typer.Option(min=1.0, max=30.0, help="s between reports")] = 5.0,
    failures: Annotated[float, typer.Option(min=0.0, help="of each machine, an hour")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="print JSON")] = False,
) -> None:
    """Compare routing policies on a simulated fleet; nothing is sent anywhere."""
    chosen = chosen_of(policies, POLICIES, "policy")
    chosen_of(fleet, machines.FLEETS, "fleet")
    chosen_of(mix, workloads.MIXES, "mix")
    chosen_of(workload, workloads.BUILT_IN, "workload")
    conditions = Conditions(heartbeat_s=heartbeat, wrong_ln=wrong, failures_per_h=failures)
    console = show.console(stderr=as_json)
    found: dict[str, list[Summary]] = {}
    for name, source in _sources(trace or (), workload):
        case = comparison.Case(
            name, machines.fleet(fleet), source, workloads.MIXES[mix], load, conditions, requests
        )
        try:
            numbers = range(first_seed, first_seed + seeds)
            found[name] = watched(console, case, chosen, numbers)
        except ValueError as error:
            fail(f"{name} cannot be simulated: {error}", code=2)
        if not as_json:
            console.print(table_of(f"{name} on {fleet}, load {load:g}", found[name], console))
    if as_json:
        typer.echo(msgspec.json.encode(found))


def chosen_of(text: str, known: Collection[str], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        fail(f"no {what} is named", code=2)
    for name in names:
        if name not in known:
            fail(f"there is no {what} '{name}'; there are: {', '.join(known)}", code=2)
    return names


def _sources(paths: Sequence[Path], workload: str) -> Iterator[tuple[str, workloads.Source]]:
    if not paths:
        yield workload, workloads.BUILT_IN[workload]
    for path in paths:
        try:
            yield path.name.split(".")[0], traces.source(path)
        except (traces.TraceError, OSError) as error:
            fail(f"the trace cannot be read: {error}", code=2)


def watched(
    console: Console, case: comparison.Case, policies: Sequence[str], seeds: Sequence[int]
) -> list[Summary]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(case.name, total=len(policies) * len(seeds))

        def told(policy: str, seed: int, done: float) -> None:
            before = policies.index(policy) * len(seeds) + seeds.index(seed)
            progress.update(task, description=f"{policy} {seed}", completed=before + done)

        return comparison.compare(case, policies, seeds, told)


def table_of(title: str, summaries: Sequence[Summary], console: Console) -> Table:
    """A row a policy: mean ± half of the 95 % confidence interval, and its ratio to the first."""
    headings = [f"{heading}>" for heading, _ in _COLUMNS]
    table = show.table("policy", *headings, "failed>", "TTFT ratio", title=title)
    table.caption = "±: 95 % confidence over the seeds; ratio: to the first row"
    table.columns[-1].no_wrap = True
    longest = max(s.ratio["ttft_mean_s"] for s in summaries)
    for s in summaries:
        cells = [f"{getattr(s.mean, name):.2f}" for _, name in _COLUMNS]
        if s.half_width.ttft_mean_s:
            cells[0] += f" ±{s.half_width.ttft_mean_s:.2f}"
        lost = f"{s.mean.failed + s.mean.starved:g}"
        times = s.ratio["ttft_mean_s"]
        bar = "█" * max(1, round(BAR_CELLS * times / longest))
        table.add_row(s.policy, *cells, lost, f"{times:7.2f} {bar}")
    return show.fitted(table, ("slowdown", "loads/h", "end-to-end s"), console)
