"""What each client uses of the fleet, in requests of the usual size: the measure of fair share.

Counted in predicted tokens: those of its requests that run, and for a while of those that ran.
Owned by the scheduler. Times are router monotonic seconds.
"""

from math import exp

SERVED_TAU_S = 60.0
"""Memory of what a client was served: longer than most answers, so that one with many requests
one after the other stands back as one with many at a time does."""

PROMPT_SHARE = 0.1
"""A token of a prompt takes about a tenth of the time of one of an answer, or less."""

USUAL_GAIN = 0.02
USUAL_START = 200.0
"""The usual request before any was seen: the prior of answer lengths (routing study)."""

FORGOTTEN = 0.01


class Shares:
    """Tokens by client, running and served."""

    __slots__ = ("_running", "_served", "_usual")

    def __init__(self) -> None:
        self._running: dict[str, tuple[int, float]] = {}  # requests, tokens
        self._served: dict[str, tuple[float, float]] = {}  # tokens, as of when
        self._usual = USUAL_START

    def of(self, client: str, now_s: float) -> float:
        """What the client uses, in requests of the usual size."""
        running = self._running.get(client)
        tokens = running[1] if running is not None else 0.0
        served = self._served.get(client)
        if served is not None:
            tokens += served[0] * exp((served[1] - now_s) / SERVED_TAU_S)
        return tokens / self._usual

    def started(self, client: str, tokens: float) -> None:
        """A request of the client runs; `tokens` are what it is expected to take."""
        self._usual += USUAL_GAIN * (tokens - self._usual)
        count, sum_ = self._running.get(client, (0, 0.0))
        self._running[client] = (count + 1, sum_ + tokens)

    def ended(self, client: str, tokens: float, taken: float, now_s: float) -> None:
        """It ended: it was expected to take `tokens`, and took `taken`."""
        count, sum_ = self._running[client]
        if count > 1:
            self._running[client] = (count - 1, sum_ - tokens)
        else:
            del self._running[client]
        served, at_s = self._served.get(client, (0.0, now_s))
        self._served[client] = (served * exp((at_s - now_s) / SERVED_TAU_S) + taken, now_s)

    def forget(self, now_s: float) -> None:
        """Let go of clients that have used nothing for long."""
        least = FORGOTTEN * self._usual
        for client, (tokens, at_s) in list(self._served.items()):
            if tokens * exp((at_s - now_s) / SERVED_TAU_S) < least:
                del self._served[client]

    def __len__(self) -> int:
        return len(self._running.keys() | self._served.keys())


def work(prompt: float, cached: float, output: float) -> float:
    """The tokens of a request as they count here."""
    return output + PROMPT_SHARE * max(prompt - cached, 1.0)
