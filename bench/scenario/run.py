"""A day in the life: eight simulated machines behind the real router, under several policies.

Run: `.venv/bin/python bench/scenario/run.py`, with `--traces PATH` for public traces (a file, or a
folder of them) in the formats that `herd simulate` reads; without, made-up workloads. Every policy
gets the same requests at the same times from a router that is started anew. All runs on a clock
that is `--speed` times as fast; all times in the tables are those of the simulated machines.
"""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import outcomes  # noqa: E402
from pictures import Pictures  # noqa: E402
from play import play  # noqa: E402

from ollama_herd.simulate import comparison, machines, traces, workloads  # noqa: E402
from ollama_herd.simulate.world import Conditions  # noqa: E402

POLICIES = ("expected-completion", "least-requests", "round-robin")
WORKLOADS = ("chat", "agents", "completion", "bursts")
NAMES = {"expected-completion": "herd", "least-requests": "least-connections"}
"""What everyone else calls them."""


def main() -> None:
    options = _options()
    console = Console(width=170)
    cases = _cases(options)
    policies = options.policies.split(",")
    last = len(cases) - 1 - bool(options.check_speed)
    known = _known(options.json)
    runs: list[outcomes.Run] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for number, (case, speed) in enumerate(cases):
            folder = options.pictures if number == last else None
            for place, policy in enumerate(policies):
                shot_to = folder if place == 0 else None
                run = known.get((case.name, NAMES.get(policy, policy), speed))
                runs.append(run or _run(case, policy, speed, (options.seed, shot_to), progress))
            _print(console, runs[-len(policies) :])
            if options.json:
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(runs)))
    _print_together(console, runs)
    if options.write_docs:
        outcomes.write_between_marks(options.write_docs, outcomes.markdown(runs, _command()))
    sys.exit(1 if any(run.failed for run in runs) else 0)


def _known(file: Path | None) -> dict[tuple[str, str, float], outcomes.Run]:
    """Runs of an earlier, interrupted call with the same options."""
    if file is None or not file.exists():
        return {}
    runs = msgspec.json.decode(file.read_bytes(), type=list[outcomes.Run])
    return {(run.case, run.policy, run.speed): run for run in runs}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", default="f8", choices=sorted(machines.FLEETS))
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="made-up ones")
    parser.add_argument("--traces", type=Path, help="replay this file, or all of this folder")
    parser.add_argument("--mix", default="few", choices=sorted(workloads.MIXES))
    parser.add_argument("--load", type=float, default=0.5)
    parser.add_argument("--horizon", type=float, default=400.0, help="simulated seconds")
    parser.add_argument("--requests", type=int, default=300, help="at most, for each trace")
    parser.add_argument("--speed", type=float, default=10.0, help="simulated seconds a second")
    parser.add_argument("--rate", type=float, default=12.5, help="requests a real second at most")
    parser.add_argument("--check-speed", type=float, help="the first trace once more, at this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", default=",".join(POLICIES), help="ratios are to the first")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the open dashboard")
    parser.add_argument(
        "--json",
        type=Path,
        help="write all figures to this file, and take over those that it has already",
    )
    parser.add_argument("--write-docs", type=Path, help="write the tables into this page")
    return parser.parse_args()


def _command() -> str:
    """As it would be repeated elsewhere: without the folders of this machine."""
    given = [Path(text).name if text.startswith("/") else text for text in sys.argv[1:]]
    return shlex.join([".venv/bin/python", "bench/scenario/run.py", *given])


def _cases(options: argparse.Namespace) -> list[tuple[comparison.Case, float]]:
    sources: list[tuple[str, workloads.Source]] = []
    if options.traces:
        files = [options.traces]
        if options.traces.is_dir():
            files = [f for f in sorted(options.traces.iterdir()) if f.suffix == ".gz"]
        sources = [(f.name.split(".")[0], traces.source(f)) for f in files]
    else:
        sources = [(name, workloads.BUILT_IN[name]) for name in options.workloads.split(",")]
    cases = [_case(options, *source) for source in sources]
    made = [(case, _speed(case, options)) for case in cases]
    if options.check_speed:
        first = msgspec.structs.replace(made[0][0], name=made[0][0].name + outcomes.SLOWER)
        made.append((first, options.check_speed))
    return made


def _speed(case: comparison.Case, options: argparse.Namespace) -> float:
    """As asked for, less where requests would come too fast to be answered in time."""
    scenario = comparison.scenario(case, options.seed)
    count = sum(len(c.turns) for c in scenario.conversations)
    most = options.rate * scenario.conditions.horizon_s / count
    return round(min(options.speed, most), 1)


def _case(options: argparse.Namespace, name: str, source: workloads.Source) -> comparison.Case:
    return comparison.Case(
        name=name,
        fleet=machines.fleet(options.fleet),
        source=source,
        mix=workloads.MIXES[options.mix],
        load=options.load,
        conditions=Conditions(horizon_s=options.horizon),
        most=options.requests,
    )


def _run(
    case: comparison.Case,
    policy: str,
    speed: float,
    own: tuple[int, Path | None],
    progress: Progress,
) -> outcomes.Run:
    seed, folder = own
    scenario = comparison.scenario(case, seed)
    total = sum(len(c.turns) for c in scenario.conversations)
    task = progress.add_task(f"{case.name}: {policy}", total=total)
    horizon_s = scenario.conditions.horizon_s
    pictures = Pictures(folder, horizon_s / speed) if folder else None
    told: Callable[[int], None] = lambda done: progress.update(task, completed=done)  # noqa: E731
    watch = pictures.start if pictures else lambda _port: None
    played = asyncio.run(play(scenario, policy, speed, told, watch))
    progress.remove_task(task)
    if pictures and (trouble := pictures.wait()):
        progress.console.print(f"no pictures: {trouble}")
    return outcomes.run_of(case.name, NAMES.get(policy, policy), speed, horizon_s, played)


def _print(console: Console, runs: list[outcomes.Run]) -> None:
    title = f"{runs[0].case}: simulated s"
    rows = [outcomes.cells(run, runs[0]) for run in runs]
    console.print(outcomes.table(title, outcomes.HEADINGS, rows))
    rows = [outcomes.clock_cells(run) for run in runs]
    title = "added: simulated s of a first token that are the bench's and the router's own work"
    console.print(outcomes.table(title, outcomes.CLOCK_HEADINGS, rows))


def _print_together(console: Console, runs: list[outcomes.Run]) -> None:
    title = "ratios to the first policy, geometric means"
    console.print(outcomes.table(title, outcomes.TOGETHER, outcomes.together(runs)))


if __name__ == "__main__":
    main()
