"""What failed on an engine, and when that is reason to leave it alone."""

FAILURES_TO_BAR = 3
"""A replica that failed so often in a row, while others answered the same requests, rests."""


class EngineRecord:
    """What failed in a row on one engine, whatever the model, since it answered last.

    Faults of its server count alone; errors of models only when more than one has them.
    """

    __slots__ = ("barred_until_s", "engine_id", "failures", "faults", "out_since_s", "runners")

    def __init__(self, engine_id: str) -> None:
        self.engine_id = engine_id
        self.failures = 0
        self.faults = 0
        self.runners: set[str] = set()
        self.barred_until_s = 0.0
        self.out_since_s: float | None = None  # refused a connection

    @property
    def is_failing(self) -> bool:
        if self.faults >= FAILURES_TO_BAR:
            return True
        return self.failures >= FAILURES_TO_BAR and len(self.runners) > 1

    def failed(self, runner: str, *, is_fault: bool) -> None:
        self.failures += 1
        self.faults += is_fault
        self.runners.add(runner)

    def answered(self) -> None:
        self.out_since_s = None
        if self.failures:
            self.failures = self.faults = 0
            self.runners.clear()
            self.barred_until_s = 0.0
