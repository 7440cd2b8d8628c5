"""`herd` on a clock that runs faster: the same process and code, all its seconds shorter.

Run: `fast_herd.py SPEED BEHIND_S ARGUMENTS-OF-HERD`. The router's clock (`ollama_herd.clock`) and
its event loop's timers run `SPEED` times as fast; the clock on its wall starts `BEHIND_S` back, so
that a run can end about now and a browser agrees with it. Work takes as long as ever: an overhead
of 0.1 ms counts as `SPEED` times that, which the bench measures.
"""

import asyncio
import contextvars
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop

from ollama_herd import clock

_really_s = time.monotonic  # noqa: TID251 - the clock that everything here is made from


def main() -> None:
    speed, behind_s = float(sys.argv[1]), float(sys.argv[2])
    begun_s, wall_s = _really_s(), time.time() - behind_s  # noqa: TID251
    # Before anything else is imported: others may take the functions by name.
    clock.monotonic_s = lambda: _really_s() * speed
    clock.now_s = lambda: wall_s + (_really_s() - begun_s) * speed
    from ollama_herd.cli import herd, process  # noqa: PLC0415

    process._loop_factory = lambda: lambda: FastLoop(speed)  # noqa: SLF001
    sys.argv = ["herd", *sys.argv[3:]]
    herd.main()


class FastLoop(uvloop.Loop):
    """An event loop whose seconds are `speed` times shorter."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def time(self) -> float:
        return _really_s() * self._speed

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_later(delay / self._speed, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_later(max(when - self.time(), 0.0), callback, *args, context=context)


if __name__ == "__main__":
    main()
