"""`herd` that forgets on demand what becomes of requests: to measure what seeing it costs.

Run: `switched_herd.py ARGUMENTS-OF-HERD`. Each SIGUSR1 goes on to the next of LEVELS, in turns; it
begins with all, as a router works. Nothing is left out but the call at the end of a request.
"""

import signal
import sys
from collections.abc import Callable

from ollama_herd.cli import herd
from ollama_herd.core.trace import Trace
from ollama_herd.router import app

LEVELS = ("kept", "nothing", "counted")
"""Counted and kept, neither, and counted for metrics and health without a trace."""

_Put = Callable[[Trace], None]


class _Switch:
    """Takes the place of what a router does at the end of a request."""

    def __init__(self) -> None:
        self._level = 0

    def turn(self, _signal: int, _frame: object) -> None:
        self._level = (self._level + 1) % len(LEVELS)

    def ended(self, count: _Put, keep: _Put, trace: Trace) -> None:
        level = self._level
        if level != 1:
            count(trace)
        if level == 0:
            keep(trace)


def main() -> None:
    switch = _Switch()
    signal.signal(signal.SIGUSR1, switch.turn)
    app._ended = switch.ended  # noqa: SLF001
    sys.argv = ["herd", *sys.argv[1:]]
    herd.main()


if __name__ == "__main__":
    main()
