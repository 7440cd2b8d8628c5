"""What a fake engine is told to do and what it has counted; shared by its parts and its tests."""

import enum
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ollama_herd import clock
from tests.pace import crowding


class Fault(enum.StrEnum):
    """What can go wrong with the next requests."""

    ERROR_500 = "error_500"  # the runner fails before a token
    BUSY_503 = "busy_503"  # the real text of a full queue
    CLOSE = "close"  # closed before the first byte
    RESET = "reset"  # reset before the first byte
    HALF_HEADER = "half_header"  # closed in the middle of the response head
    SILENCE = "silence"  # the connection stays open, nothing ever comes
    GARBAGE = "garbage"  # bytes that are not HTTP
    WEB_PAGE = "web_page"  # 200 with a page, as some proxy before the engine gives
    EMPTY = "empty"  # 200 with nothing
    CUT_MID_STREAM = "cut_mid_stream"  # closed behind k tokens, the chunked body unfinished
    CLEAN_END = "clean_end"  # a clean end behind k tokens, without the end marker
    ERROR_MID_STREAM = "error_mid_stream"  # the runner dies behind k tokens
    STALL_MID_STREAM = "stall_mid_stream"  # silence behind k tokens
    GARBAGE_MID_STREAM = "garbage_mid_stream"  # bytes behind k tokens that are no HTTP framing


BEFORE_FIRST_BYTE = frozenset(
    {
        Fault.ERROR_500,
        Fault.BUSY_503,
        Fault.CLOSE,
        Fault.RESET,
        Fault.HALF_HEADER,
        Fault.SILENCE,
        Fault.GARBAGE,
        Fault.WEB_PAGE,
        Fault.EMPTY,
    }
)


@dataclass
class FaultRule:
    """A fault for the next `times` requests (-1: until cleared); `path` "" means all inference."""

    fault: Fault
    times: int = 1
    after_tokens: int = 3
    path: str = ""


@dataclass
class Settings:
    """How the fake behaves; may be changed while it runs."""

    token_ms: float = 0.0
    prefill_ms: float = 0.0
    load_ms: float = 0.0
    num_parallel: int = 1
    max_loaded: int = 3
    max_queue: int = 512
    keep_alive_s: float = 300.0
    default_context: int = 4096
    version: str = "0.33.0-rc2"
    answer_tokens: int = 12
    continues: str = "on"
    """With an answer that was begun: reads `on` behind it, repeats it first (`echo`), or says it
    all `anew`, as a chat template does that closes the assistant's turn."""
    is_frozen: bool = False
    """Everything in an answer is a function of the request: times, ids and durations too."""


@dataclass
class Counters:
    """`started` counts requests that got a slot, `tokens` those that were produced."""

    received: int = 0
    started: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    tokens: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    waiting: int = 0
    loads: int = 0
    aborted_loads: int = 0
    evictions: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    by_path: Counter[str] = field(default_factory=Counter)
    max_in_flight_by_model: Counter[str] = field(default_factory=Counter)
    last_cancelled_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Scripted:
    """An answer said instead of the default one."""

    tokens: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = ()
    done_reason: str = "stop"


class State:
    """Settings, counters and faults; `changed()` wakes whoever waits for a count."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counters = Counters()
        self.faults: list[FaultRule] = []
        self.scripts: dict[str, Scripted] = {}
        self.requests: list[tuple[str, str, tuple[tuple[str, str], ...], bytes]] = []
        self._news = threading.Condition()

    def changed(self) -> None:
        with self._news:
            self._news.notify_all()

    def wait_for(
        self, holds: Callable[[Counters], bool], timeout_s: float = 5.0, what: str = ""
    ) -> float:
        """Block (not on the fake's loop) until the counters satisfy `holds`; the seconds it took.

        Raises TimeoutError with the counters when they do not in time.
        """
        start = clock.monotonic_s()
        with self._news:
            if not self._news.wait_for(lambda: holds(self.counters), timeout_s * crowding()):
                raise TimeoutError(f"{what or 'counters'} not reached: {self.counters}")
        return clock.monotonic_s() - start

    def take_fault(self, path: str, *, is_inference: bool) -> FaultRule | None:
        """The rule for this request, one of its `times` used up."""
        for rule in self.faults:
            fits = rule.path == path if rule.path else is_inference
            if fits and rule.times != 0:
                if rule.times > 0:
                    rule.times -= 1
                return rule
        return None
