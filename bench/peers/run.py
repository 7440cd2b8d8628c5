"""The herd beside other routers on the same fake engines: costs, faults, what a client sees.

    .venv/bin/python bench/peers/run.py [--only NAME ...] [--quick] [--write-docs]

Installs each router into an environment of its own under `.venvs/peers/`, at the versions of
`requirements/`, and then runs all of it, our own router included, in a network namespace that has
loopback and nothing else. Prints tables, writes JSON. Ends with 1 when a router failed to run.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from rich.box import SIMPLE_HEAD  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table as Drawn  # noqa: E402

import machine  # noqa: E402
import nginx  # noqa: E402
import pages  # noqa: E402
import procs  # noqa: E402
from peers import closed, costs, environments, faults, probes, tables  # noqa: E402
from peers.kinds import KINDS, Kind  # noqa: E402

PARTS = ("costs", "faults", "probes")
_ROUNDS = (4, 1)
_WIDE = 240


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", action="append", choices=list(KINDS), help="only this router (repeatable)"
    )
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="only this part (repeatable)"
    )
    parser.add_argument(
        "--fault", action="append", choices=faults.FAULTS, help="only this fault (repeatable)"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--rounds", type=int, help="rounds of the costs")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/peers.md"
    )
    parser.add_argument(
        "--again",
        action="append",
        type=Path,
        help="run nothing, print the results of this file (repeatable: parts of several runs)",
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = _options()
    console = Console()
    if options.inside:
        return _inside(options, console)
    results = merged(options.again) if options.again else _run(options, console)
    show(results, console)
    if options.write_docs:
        pages.put(pages.DOCS / "peers.md", "peers", tables.markdown(results))
    return 1 if any(results["failed"].values()) else 0


def merged(files: list[Path]) -> dict[str, Any]:
    """One result of several; what a file lacks is taken from the next ones, cell by cell."""
    results, *others = (json.loads(file.read_text()) for file in files)
    for other in others:
        for part in ("costs", "probes"):
            results[part] = results[part] or other[part]
        for name, found in other["faults"].items():
            mine = results["faults"].setdefault(name, [])
            known = {(cell["form"], cell["fault"]) for cell in mine}
            mine += [cell for cell in found if (cell["form"], cell["fault"]) not in known]
        results["how"] = results["how"] or other["how"]
        results["is_closed"] = results["is_closed"] and other["is_closed"]
        results["failed"] = other["failed"] | results["failed"]
    return dict(results)


def _run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Install what is missing, measure in a closed place, keep the results."""
    failed: dict[str, str] = {}
    for name in options.only or KINDS:
        try:
            if KINDS[name].package:
                console.print(f"installing {name}", highlight=False)
                environments.install(KINDS[name].package)
            elif name == "nginx" and not nginx.executable():
                raise RuntimeError(nginx.HOW_TO_INSTALL)
        except (RuntimeError, OSError, subprocess.SubprocessError) as reason:
            failed[name] = str(reason)
    target = options.json or Path(__file__).parents[1] / "results" / time.strftime(
        "peers-%Y%m%d-%H%M%S.json"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"not installed": failed}))
    prefix = closed.prefix()
    command = [*(prefix or []), sys.executable, __file__, *sys.argv[1:], "--inside", str(target)]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise SystemExit(status)
    console.print(f"Results: {target}", highlight=False)
    results: dict[str, Any] = json.loads(target.read_text())
    return results


def _inside(options: argparse.Namespace, console: Console) -> int:
    """All measurements; the file names what is not installed and gets the results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    procs.raise_file_limit()
    closed.raise_loopback()
    missing: dict[str, str] = json.loads(options.inside.read_text())["not installed"]
    kinds = [KINDS[name] for name in options.only or KINDS if name not in missing]
    parts = options.part or PARTS
    failed: dict[str, dict[str, str]] = {"installing": missing}
    results: dict[str, Any] = {"costs": {}, "faults": {}, "probes": {}, "failed": failed}
    rounds = options.rounds or _ROUNDS[options.quick]

    def keep() -> None:
        """What there is so far: a part takes minutes."""
        options.inside.write_text(json.dumps(_described(results, kinds, options), indent=1))

    with tempfile.TemporaryDirectory(prefix="herd-peers-") as folder:
        home = Path(folder)
        if "costs" in parts:
            session = costs.PeerSession(home, quick=options.quick, use_wrk=True, tick=lambda: None)
            results["how"] = _how(rounds, session)
            results["costs"] = {kind.name: [] for kind in kinds}
            failed["costs"] = {}
            try:
                for name, reason in _costs(kinds, rounds, session, results["costs"], console):
                    failed["costs"] |= {name: reason} if reason else {}
                    keep()
            finally:
                session.close()
        if "probes" in parts:
            console.print("what a client sees")
            results["probes"], failed["probes"] = probes.run_all(kinds, home)
            keep()
        if "faults" in parts:
            console.print("faults")
            results["faults"], failed["faults"] = faults.run_all(
                kinds, home, quick=options.quick, only=options.fault or ()
            )
    keep()
    return 0


def _costs(
    kinds: list[Kind],
    rounds: int,
    session: costs.PeerSession,
    values: dict[str, list[Any]],
    console: Console,
) -> Iterator[tuple[str, str]]:
    """Fill in the rounds by router, each once in a round; a router and why it failed, or ""."""
    for number in range(rounds):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            say = f"round {number + 1}/{rounds} · {kind.title} · "
            where = session.home / f"costs-{number}-{kind.name}"
            measured: dict[str, Any] = {}
            why = ""
            try:
                measured = costs.measure(
                    kind, session, where, lambda text, say=say: console.print(say + text)
                )
            except (RuntimeError, OSError) as reason:
                why = str(reason)
            values[kind.name].append(measured)
            yield kind.name, why


def _how(rounds: int, session: costs.PeerSession) -> str:
    is_pinned = session.proxy_core is not None
    pinned = "the router on one core, engines and load on another" if is_pinned else "not pinned"
    return (
        f"Rounds: {rounds}, every router once in each, fresh; medians (least-greatest); "
        f"small requests by {session.generator}; {pinned}"
    )


def _described(
    results: dict[str, Any], kinds: list[Kind], options: argparse.Namespace
) -> dict[str, Any]:
    here = machine.described()
    versions = {kind.name: environments.version(kind.package) for kind in kinds if kind.package}
    versions |= {"nginx": here["nginx"], "herd": here["herd"], "engine": "itself"}
    return {
        "how": "",
        **results,
        "versions": versions,
        "machine": here,
        "where": f"{machine.line(here)}; load average at the end {here['load_average']}",
        "order": [kind.name for kind in kinds],
        "quick": options.quick,
        "is_closed": closed.is_closed(),
    }


def show(results: dict[str, Any], console: Console) -> None:
    """Tables and notes in the terminal."""
    wide = console if console.width >= _WIDE else Console(width=_WIDE)
    for table in tables.tables(results):
        drawn = Drawn(title=table.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for column in table.columns:
            drawn.add_column(column, overflow="fold")
        for row in table.rows:
            drawn.add_row(*row, style="bold" if row[0].startswith(tables.OURS) else None)
        wide.print(drawn, markup=False, highlight=False)
    for line in tables.notes(results):
        wide.print(f"- {line}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
