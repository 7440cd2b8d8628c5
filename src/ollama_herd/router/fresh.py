"""Answers that many dashboards ask for at the same moment: each is made once, for all of them.

News reaches every open dashboard at once, and each then reads the same newest requests.
"""

import threading
from collections.abc import Callable, Hashable

from ollama_herd.clock import monotonic_s

KEEP_S = 1.0
"""Dashboards that were told the same news ask within a moment; what another router on the same
database wrote is seen so much later."""

MAX_KEPT = 32
"""Different questions at a time; more are made anew. A page of traces is some 30 KB."""


class _Answer:
    def __init__(self, asked_s: float) -> None:
        self.asked_s = asked_s
        self.making = threading.Lock()
        self.body: bytes | None = None


class FreshAnswers:
    """For worker threads, several at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[Hashable, _Answer] = {}

    def get(self, question: Hashable, make: Callable[[], bytes]) -> bytes:
        """What was made for the same question within KEEP_S, else what `make` gives. While one
        thread makes it the others wait. Raises what `make` does.
        """
        answer = self._answer(question)
        with answer.making:
            if answer.body is None:
                answer.body = make()
            return answer.body

    def _answer(self, question: Hashable) -> _Answer:
        now = monotonic_s()
        with self._lock:
            known = self._answers.get(question)
            if known is not None and now - known.asked_s < KEEP_S:
                return known
            self._answers = {
                kept: answer
                for kept, answer in self._answers.items()
                if now - answer.asked_s < KEEP_S
            }
            made = _Answer(now)
            if len(self._answers) < MAX_KEPT:
                self._answers[question] = made
            return made
