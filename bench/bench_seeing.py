"""What seeing everything costs a request: traces, counting and an open dashboard.

    python bench/bench_seeing.py [--rounds 15] [--seconds 2] [--plain]

A real `herd` process on one core under as many small requests as it can take, engines and load on
the other core, as `make bench` has it; its core is compiled unless `--plain` is given. The same
process is measured without what it does at the end of a request, with counting, with traces too,
and with a dashboard that follows `/dashboard/events` and lists the newest 60 requests at each
change, as the page Requests does. A round has all four, one after the other; CPU is that of all
threads until what was written is on disk. Costs are medians over the rounds of the difference
within a round, because a machine's speed changes from minute to minute.
"""

import argparse
import gc
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import compiled
import dashboards
import procs
from herd import Herd
from session import Session
from switched_herd import LEVELS

SETTLE_S = 0.5
"""Until what has waited for the writer is written (`store.thread.GATHER_S`)."""

ORDER = ("nothing", "counted", "kept", "seen")

_PROGRAM = Path(__file__).parent / "switched_herd.py"


class Measured:
    """One router and its load; `round` measures every way once."""

    def __init__(self, session: Session, herd: Herd, seconds: int) -> None:
        self._session = session
        self._herd = herd
        self._seconds = seconds
        self._level = 0

    def round(self) -> dict[str, float]:
        """CPU (us) a request of each way. Raises RuntimeError for wrong answers."""
        found = {}
        for way in ORDER:
            self._switch_to("kept" if way == "seen" else way)
            with dashboards.dashboards(self._session, self._herd.port, int(way == "seen")):
                found[way] = self._cpu_us()
        return found

    def _switch_to(self, level: str) -> None:
        while LEVELS[self._level] != level:
            self._herd.process.send_signal(signal.SIGUSR1)
            self._level = (self._level + 1) % len(LEVELS)
            time.sleep(0.05)  # one signal after the other

    def _cpu_us(self) -> float:
        pids = procs.tree(self._herd.process.pid)
        before_s = procs.cpu_s(pids)
        if self._session.wrk:
            used = self._session.run_wrk(self._herd.fast_port, pids, self._seconds)
            wrong = used["errors"]
        else:
            used = self._session.load(
                "requests", self._herd.port, pids, connections=32, seconds=self._seconds
            )
            wrong = used["problems"]
        if wrong:
            raise RuntimeError(f"wrong answers: {wrong}")
        time.sleep(SETTLE_S)
        return (procs.cpu_s(pids) - before_s) / used["requests"] * 1e6


def costs(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians (us) over the rounds of what each way costs more than the one before."""

    def more(way: str, than: str) -> float:
        return statistics.median(one[way] - one[than] for one in rounds)

    return {
        "counting (metrics, health)": more("counted", "nothing"),
        "traces": more("kept", "counted"),
        "one open dashboard": more("seen", "kept"),
        "together": more("seen", "nothing"),
    }


def _compiled(folder: Path) -> Path:
    made = compiled.unpacked(folder)
    if isinstance(made, Path):
        return made
    raise RuntimeError(f"the core was not compiled: {made}; --plain measures without")


def measured(given: argparse.Namespace) -> list[dict[str, float]]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herd-bench-")))
        session = Session(home, quick=False, use_wrk=True, tick=lambda: None)
        stack.callback(session.close)
        herd = Herd(
            home / "herd",
            session.engines,
            session.fast_engines,
            session.proxy_core,
            site=None if given.plain else _compiled(home / "compiled"),
            program=_PROGRAM,
        )
        stack.callback(herd.stop)
        ways = Measured(session, herd, given.seconds)
        ways.round()  # connections, caches, and learned rates
        found = []
        for number in range(given.rounds):
            found.append(ways.round())
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plain", action="store_true", help="without a compiled core")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    procs.raise_file_limit()
    gc.freeze()
    try:
        rounds = measured(given)
    except RuntimeError as failed:
        print(failed, file=sys.stderr)
        return 1
    found = costs(rounds)
    core = "plain Python" if given.plain else "a compiled core"
    print(f"CPU a small request with {core}, {given.rounds} rounds:")
    for name, value in found.items():
        print(f"{name:28} {value:6.2f} us")
    if given.json:
        given.json.write_text(json.dumps({"costs_us": found, "rounds_us": rounds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
