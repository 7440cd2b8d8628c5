"""The hours at which this machine takes no new requests, by its own clock."""

from collections.abc import Callable, Iterable

from ollama_herd.clock import week_s
from ollama_herd.config import parse_quiet_hours, until_text


class QuietHours:
    """Knows whether they last, and tells people when that changes."""

    def __init__(
        self,
        texts: Iterable[str],
        say: Callable[[str], None],
        week_s: Callable[[], float] = week_s,
    ) -> None:
        """`texts` as in the settings. `week_s` gives the seconds since Monday 0:00."""
        self._ranges = parse_quiet_hours(texts)
        self._say = say
        self._week_s = week_s
        self._was_quiet = False

    def until(self) -> str:
        """When the quiet hours that last now end (`07:00`, `mon 07:00`), else ""."""
        until = until_text(self._ranges, int(self._week_s() // 60))
        if bool(until) != self._was_quiet:
            self._was_quiet = bool(until)
            self._say(
                f"quiet hours until {until}: this machine gets no new requests"
                if until
                else "quiet hours are over: this machine takes requests again"
            )
        return until
