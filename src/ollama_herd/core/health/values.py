"""What health checks look at and what they say. Frozen values, in one shape for every surface."""

import enum
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.queue import QueueView
from ollama_herd.core.tally import Recent


class Severity(enum.StrEnum):
    """How bad it is; the overall state is the worst of all."""

    OK = "ok"  # nothing to see
    INFO = "info"  # worth knowing, nothing is wrong
    WARNING = "warning"  # works, but worse than it could, or not for long
    CRITICAL = "critical"  # requests fail, or will soon


RANK: Mapping[Severity, int] = MappingProxyType({one: n for n, one in enumerate(Severity)})


class RouterFacts(msgspec.Struct, frozen=True):
    """What a check may know of the router itself."""

    version: str = ""
    host: str = "127.0.0.1"  # what it listens on
    port: int = 0
    asks_for_keys: bool = False
    queue_limit: int = 1000


class StoreState(msgspec.Struct, frozen=True):
    """How the trace store does. `error` is "" while all is well; `dropped` is since the start."""

    is_on: bool = True
    error: str = ""
    dropped: int = 0
    dropped_recently: int = 0
    pending: int = 0


class LoadSeen(msgspec.Struct, frozen=True):
    """A model appeared in an engine's memory (or came back with another context length)."""

    node_id: str
    engine_id: str
    model: str
    at_s: float


class Stuck(msgspec.Struct, frozen=True):
    """A runner that did not answer a canary although its engine does."""

    node_id: str
    engine_id: str
    model: str
    detail: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """Everything checks look at. `now_s` is router monotonic seconds, as in the fleet; `recent` are
    the counts of the last minutes, `loads` of the last quarter of an hour.
    """

    now_s: float
    fleet: Fleet
    queue: QueueView
    recent: Recent = Recent()
    loads: tuple[LoadSeen, ...] = ()
    stuck: tuple[Stuck, ...] = ()
    store: StoreState = StoreState()
    router: RouterFacts = RouterFacts()


class Seen(msgspec.Struct, frozen=True):
    """One thing that a check found. `subject` tells it from others of the check and stays the same
    for as long as it is the same trouble; `name` is what people call it; `text` has the numbers.
    """

    severity: Severity
    subject: str
    name: str
    text: str
    advice: str = ""  # instead of the check's own
    node_id: str = ""
    model: str = ""


class Check(msgspec.Struct, frozen=True):
    """One question, declared: what it is called, what it means, what to do when it fires.

    What `look` finds is shown once it has been there for `visible_s` seconds.
    """

    code: str
    title: str
    meaning: str
    advice: str
    look: Callable[[Snapshot], Iterable[Seen]]
    visible_s: float = 0.0


class Finding(msgspec.Struct, frozen=True):
    """Something that is so now. `since_s` is seconds since 1970."""

    severity: Severity
    subject: str
    name: str
    seen: str
    advice: str
    since_s: float
    node_id: str = ""
    model: str = ""


class CheckState(msgspec.Struct, frozen=True):
    """A check and what it finds now, the worst first. `since_s` is when it left `ok` (or 0)."""

    code: str
    title: str
    severity: Severity
    seen: str
    since_s: float
    meaning: str
    advice: str
    findings: tuple[Finding, ...]


class Health(msgspec.Struct, frozen=True):
    """The answer of `/dashboard/api/health`: all checks, the worst first. `time_s` is seconds
    since 1970 of the last look, `counts` says how many checks are in which state.
    """

    overall: Severity
    time_s: float
    counts: Mapping[Severity, int]
    checks: tuple[CheckState, ...]


class Transition(msgspec.Struct, frozen=True):
    """A subject of a check changed its severity. `time_s` is seconds since 1970."""

    time_s: float
    code: str
    subject: str
    name: str
    before: Severity
    after: Severity
    seen: str
