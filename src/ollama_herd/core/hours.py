"""When people use a machine themselves: the share of each hour of the week, learned from reports.

168 cells a node, each remembering some three weeks. A cell that has seen little leans on the same
hour of the other weekdays (or weekend days), and that on the whole week, and that on nobody: so
the first minute counts at once, and a week later only the very hour does.
"""

from array import array
from collections.abc import Sequence
from math import exp

HOURS = 168
DAY_HOURS = 24
WEEKDAY_HOURS = 120

MEMORY_S = 10_800.0
"""What an hour of the week remembers: three hours of watching, so the last three weeks or so."""

DOUBT_S = 600.0
"""A machine is taken to have been watched for ten minutes in which nobody used it."""

LEAN_S = 1800.0
"""Watching that an hour of its own needs to count as much as the hours it leans on."""

GAP_S = 60.0
"""Two looks further apart say nothing about the time between them."""

RENEW_S = 30.0
"""The share is reckoned anew twice a minute, and when the hour changes."""

HourState = tuple[int, float, float]
"""(hour of the week from Monday 0:00, seconds watched, seconds of them in use)."""


def present_share(passes_s: float, stay_s: float) -> float:
    """Part of the next `stay_s` for which a usual user is there who is away now.

    A machine's state is forgotten after `passes_s`; times the share of the hour it is the chance.
    """
    ratio = stay_s / passes_s
    return 1 - (1 - exp(-ratio)) / ratio


class OwnerHours:
    """How much of each hour of the week one machine is in use. `share` is that of the hour now."""

    __slots__ = ("_hour", "_looked_s", "_reckoned_s", "_seen", "_used", "share")

    def __init__(self) -> None:
        self._seen = array("f", bytes(4 * HOURS))
        self._used = array("f", bytes(4 * HOURS))
        self._hour = -1
        self._looked_s = float("-inf")
        self._reckoned_s = float("-inf")
        self.share = 0.0

    def saw(self, *, is_used: bool, hour: int, now_s: float) -> None:
        """A look at the machine; `hour` of the week (0 to 167) and monotonic seconds of it."""
        passed_s = now_s - self._looked_s
        self._looked_s = now_s
        if 0 < passed_s <= GAP_S:
            self._add(hour, passed_s, passed_s if is_used else 0.0)
        if hour != self._hour or now_s - self._reckoned_s >= RENEW_S:
            self._hour = hour
            self._reckoned_s = now_s
            self.share = self.share_at(hour)

    def share_at(self, hour: int) -> float:
        """Expected share (0 to 1) of this hour of the week for which somebody uses the machine."""
        used_s, seen_s = sum(self._used), sum(self._seen)
        if not used_s:
            return 0.0
        share = used_s / (seen_s + DOUBT_S)
        first, last = (0, WEEKDAY_HOURS) if hour < WEEKDAY_HOURS else (WEEKDAY_HOURS, HOURS)
        alike = slice(first + hour % DAY_HOURS, last, DAY_HOURS)
        share = (sum(self._used[alike]) + LEAN_S * share) / (sum(self._seen[alike]) + LEAN_S)
        return (self._used[hour] + LEAN_S * share) / (self._seen[hour] + LEAN_S)

    def state(self) -> tuple[HourState, ...]:
        """Each hour that was watched, to be kept over a restart."""
        return tuple(
            (hour, round(seen, 1), round(self._used[hour], 1))
            for hour, seen in enumerate(self._seen)
            if seen
        )

    def restore(self, kept: Sequence[HourState]) -> None:
        """Go on from what an earlier run saw; what cannot be true is left out."""
        for hour, seen_s, used_s in kept:
            if 0 <= hour < HOURS and 0 <= used_s <= seen_s <= 2 * MEMORY_S:
                self._add(hour, seen_s, used_s)

    def _add(self, hour: int, seen_s: float, used_s: float) -> None:
        seen, used = self._seen[hour] + seen_s, self._used[hour] + used_s
        kept = min(1.0, MEMORY_S / seen) if seen else 1.0
        self._seen[hour] = seen * kept
        self._used[hour] = min(used, seen) * kept
