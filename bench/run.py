"""`make bench`: the herd beside nginx, as real processes; a table, and JSON in bench/results/.

Ends with 1 when an answer was wrong or a stream was lost, not because of a ratio.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import compiled
import machine
import nginx
import pages
import procs
from figures import TITLES, summarise
from report import markdown, print_tables
from scenarios import SCENARIOS, Scenario
from session import Proxy, Session

_HERE = Path(__file__).parent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test of about a minute")
    parser.add_argument(
        "--only", action="append", choices=list(SCENARIOS), help="only this scenario (repeatable)"
    )
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument(
        "--proxy", default="herd,plain,nginx", help="of herd, plain (no compiled core) and nginx"
    )
    parser.add_argument("--rounds", type=int, help="rounds of every scenario")
    parser.add_argument(
        "--own-load", action="store_true", help="do not use wrk even where it is installed"
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    options = parser.parse_args()
    unknown = set(options.proxy.split(",")) - {"herd", "plain", "nginx"}
    if unknown:
        parser.error(f"--proxy knows herd, plain and nginx, not {', '.join(sorted(unknown))}")
    return options


def _proxies(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that can run, and a line for each that cannot."""
    import herd  # noqa: PLC0415

    present = {"nginx": nginx.executable(), "herd": herd.executable(), "plain": herd.executable()}
    missing = {
        "plain": "",
        "nginx": f"{nginx.HOW_TO_INSTALL}: no ratios",
        "herd": "the herd command is not in this environment (uv sync)",
    }
    return (
        [name for name in wanted if present[name]],
        [missing[name] for name in wanted if not present[name] and missing[name]],
    )


def _compiled(
    proxy_names: list[str], home: Path, console: Console
) -> tuple[Path | None, list[str], list[str]]:
    """Where the herd with a compiled core is, the proxies, and a line when it cannot be made: the
    herd is measured in plain Python then, and once.
    """
    if "herd" not in proxy_names:
        return None, proxy_names, []
    with console.status("compiling the core"):
        made = compiled.unpacked(home / "compiled")
    if isinstance(made, Path):
        return made, proxy_names, []
    without = [name for name in proxy_names if name != "plain"]
    return None, without, [f"the herd ran in plain Python, its core was not compiled: {made}"]


class Bars:
    """Progress over the expected seconds of all measurements."""

    def __init__(self, progress: Progress, total_s: float) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=total_s)
        self._done_s = self._expected_s = self._began_s = 0.0

    def begin(self, text: str, expected_s: float) -> None:
        self._done_s += self._expected_s
        self._expected_s = expected_s
        self._began_s = time.monotonic()  # noqa: TID251
        self._progress.update(self._task, description=text, completed=self._done_s)

    def tick(self) -> None:
        within_s = min(self._expected_s, time.monotonic() - self._began_s)  # noqa: TID251
        self._progress.update(self._task, completed=self._done_s + within_s)


def _measure(session: Session, scenario: Scenario, proxy: Proxy) -> dict[str, Any]:
    """The scenario's values and how busy others kept the proxy's core meanwhile."""
    pids = procs.tree(proxy.process.pid)
    core = session.proxy_core
    busy_s = procs.core_busy_s(core) if core is not None else None
    cpu_s, start_s = procs.cpu_s(pids), time.monotonic()  # noqa: TID251
    values = scenario.measure(session, proxy, pids)
    if core is not None and busy_s is not None:
        foreign_s = (procs.core_busy_s(core) or 0) - busy_s - (procs.cpu_s(pids) - cpu_s)
        took_s = time.monotonic() - start_s  # noqa: TID251
        values["foreign_percent"] = max(0.0, 100 * foreign_s / took_s)
    return values


def _run_scenario(
    session: Session, name: str, proxy_names: Sequence[str], rounds: int, bars: Bars
) -> list[dict[str, Any]]:
    """Every round starts both proxies anew and measures each, in turns first.

    Fresh ones, because memory that a proxy keeps from the last round is no baseline.
    """
    scenario = SCENARIOS[name]
    results = []
    for number in range(rounds):
        names = [one for one in proxy_names if one != "plain" or scenario.plain]
        order = names if number % 2 == 0 else list(reversed(names))
        proxies: dict[str, Proxy] = {}
        values = {}
        try:
            for proxy_name in order:
                proxies[proxy_name] = session.start(proxy_name)
            for proxy_name in order:
                bars.begin(
                    f"{name} · {proxy_name} · round {number + 1}/{rounds}",
                    scenario.seconds[session.quick],
                )
                values[proxy_name] = _measure(session, scenario, proxies[proxy_name])
        finally:
            for proxy in proxies.values():
                proxy.stop()
        results.append(values)
    return results


def _expected_s(
    names: Sequence[str],
    proxy_names: Sequence[str],
    rounds: Mapping[str, int],
    options: argparse.Namespace,
) -> float:
    measured = {name: len(proxy_names) for name in names}
    for name in names:
        measured[name] -= "plain" in proxy_names and not SCENARIOS[name].plain
    return sum(SCENARIOS[n].seconds[options.quick] * rounds[n] * measured[n] for n in names)


def _collect(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    names = options.only or list(SCENARIOS)
    proxy_names, skipped = _proxies(options.proxy.split(","))
    if not proxy_names:
        raise SystemExit("nothing to measure")
    rounds = {name: options.rounds or SCENARIOS[name].rounds[options.quick] for name in names}
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    scenarios = {}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herd-bench-")))
        site, proxy_names, plain = _compiled(proxy_names, home, console)
        skipped += plain
        for line in skipped:
            console.print(line, markup=False)
        bar = Progress(*columns, console=console, refresh_per_second=4)
        bars = Bars(stack.enter_context(bar), _expected_s(names, proxy_names, rounds, options))
        session = Session(
            home, quick=options.quick, use_wrk=not options.own_load, tick=bars.tick, site=site
        )
        stack.callback(session.close)
        for name in names:
            scenarios[name] = _run_scenario(session, name, proxy_names, rounds[name], bars)
        bars.begin("done", 0.0)
    cores = (session.proxy_core, session.load_core)
    return {
        "started": started,
        "quick": options.quick,
        "generator": session.generator,
        "pinning": f"proxy on core {cores[0]}, engines and load on core {cores[1]}"
        if cores[0] is not None else "nothing pinned",
        "machine": machine.described(),
        "skipped": skipped,
        "scenarios": scenarios,
    }  # fmt: skip


def _finish(results: dict[str, Any]) -> None:
    """Figures, foreign load and problems out of the rounds."""
    measured = [
        (scenario, number + 1, proxy, values)
        for scenario, rounds in results["scenarios"].items()
        for number, one in enumerate(rounds)
        for proxy, values in one.items()
    ]
    foreign = [values["foreign_percent"] for *_, values in measured if "foreign_percent" in values]
    results["foreign_percent"] = statistics.median(foreign) if foreign else 0.0
    results["problems"] = [
        f"{TITLES[scenario]} · round {number} · {proxy}: {problem}"
        for scenario, number, proxy, values in measured
        for problem in values["problems"]
    ]
    results["figures"] = [
        row
        for scenario, rounds in results["scenarios"].items()
        for row in summarise(scenario, rounds)
    ]


def main() -> int:
    options = _options()
    # So that a terminated run takes its processes along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    procs.raise_file_limit()
    console = Console()
    try:
        results = _collect(options, console)
    except RuntimeError as failed:
        console.print(f"{failed}", markup=False, style="red")
        return 1
    _finish(results)
    target = options.json or _HERE / "results" / time.strftime("%Y%m%d-%H%M%S.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1))
    print_tables(results, console)
    if options.write_docs:
        pages.put(pages.DOCS / "benchmarks.md", "beside nginx", markdown(results))
    console.print(f"Results: {target}")
    return 1 if results["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
