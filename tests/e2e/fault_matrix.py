"""Every fault at every endpoint: a herd of two nodes whose first one is bad, counted exactly.

Each cell has a model of its own, so that no replica's record of one cell reaches the next. Before
the fault, only the bad node has the model loaded, so that routing prefers it, and the cell begins
when it does. A cell in which no request met the fault has shown nothing: it says so.
"""

import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollama_herd import clock
from tests.e2e.fault_reading import Read, read
from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.models import FakeModel, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Response, call
from tests.fakes.state import Fault, Settings

CHAT = {"messages": [{"role": "user", "content": "Tell me"}]}
ANSWER_TOKENS = 12

LONE = "only-bad"
"""The model that the good node has not."""

MAX_WASTED = 3

LIMITS = {
    "HERD_HEDGE_FLOOR_S": "0.4",
    "HERD_HEDGE_CEILING_S": "2",
    "HERD_STALL_FLOOR_S": "0.4",
    "HERD_STALL_CEILING_S": "1",
}
"""Patience for engines that answer in milliseconds."""

REFUSE = "refuse"
FAULTS: tuple[str, ...] = (
    Fault.ERROR_500,
    Fault.BUSY_503,
    REFUSE,
    Fault.CLOSE,
    Fault.RESET,
    Fault.HALF_HEADER,
    Fault.SILENCE,
    Fault.GARBAGE,
    Fault.WEB_PAGE,
    Fault.EMPTY,
    Fault.CUT_MID_STREAM,
    Fault.CLEAN_END,
    Fault.ERROR_MID_STREAM,
    Fault.STALL_MID_STREAM,
    Fault.GARBAGE_MID_STREAM,
)
MID_STREAM = frozenset(
    {
        Fault.CUT_MID_STREAM,
        Fault.CLEAN_END,
        Fault.ERROR_MID_STREAM,
        Fault.STALL_MID_STREAM,
        Fault.GARBAGE_MID_STREAM,
    }
)
"""In an answer that is no stream they break it in its middle."""

RUNS = 3
"""A cell whose fault no request met is run again: an engine's node may have told of it first."""


SPARE = 40
"""Models for cells that are run again, or for more tests than there are cells."""


@dataclass(frozen=True)
class Form:
    """One endpoint, streamed or not."""

    path: str
    is_stream: bool

    @property
    def name(self) -> str:
        return f"{self.path} {'stream' if self.is_stream else 'whole'}"

    def body(self, name: str) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": name, "stream": self.is_stream}
        if self.path == "/api/embed":
            return {"model": name, "input": "Tell me"}
        if self.path in ("/api/generate", "/v1/completions"):
            return {**asked, "prompt": "Tell me"}
        if self.path == "/v1/responses":
            return {**asked, "input": "Tell me"}
        if self.path == "/v1/messages":
            return {**asked, **CHAT, "max_tokens": ANSWER_TOKENS}
        if self.path == "/v1/chat/completions" and self.is_stream:
            asked["stream_options"] = {"include_usage": True}
        return {**asked, **CHAT}


PATHS = (
    "/api/chat",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
)
FORMS = (
    *(Form(path, is_stream) for path in PATHS for is_stream in (True, False)),
    Form("/api/embed", is_stream=False),
)


def cells() -> list[tuple[str, Form]]:
    """All of them: an embedding has no stream, so no line of one that tells of an error."""
    return [(f, form) for f in FAULTS for form in FORMS if not _is_void(f, form)]


def _is_void(fault: str, form: Form) -> bool:
    return form.path == "/api/embed" and fault == Fault.ERROR_MID_STREAM


def is_continued(fault: str, form: Form) -> bool:
    """Whether a whole answer is promised; `/v1/responses` gets an error once text was said."""
    is_cut_text = fault in MID_STREAM and form.is_stream
    return not (is_cut_text and form.path == "/v1/responses")


@dataclass
class Cell:
    """What its requests came to. `told` ended with an error, `silent` looked whole but was not.

    `met` are requests that had to do with the bad node after it went bad, `wasted` the attempts
    that reached it. `added_ms` is what the fault cost those that met it, on average.
    """

    fault: str
    form: Form
    requests: int = 0
    at_once: int = 1
    completed: int = 0
    met: int = 0
    told: int = 0
    silent: int = 0
    wrong_text: int = 0
    wrong_counts: int = 0
    wasted: int = 0
    added_ms: float = 0.0
    worst_ms: float = 0.0
    seen: list[str] = field(default_factory=list)

    @property
    def is_proof(self) -> bool:
        """Whether the herd did here what it promises, and had to."""
        most_wasted = MAX_WASTED + self.at_once - 1  # some were on their way when it was barred
        lost = self.silent or self.wrong_text or self.wrong_counts or self.wasted > most_wasted
        answered = self.completed + (0 if is_continued(self.fault, self.form) else self.told)
        return self.met > 0 and not lost and answered == self.requests


@dataclass
class Rig:
    """A router, a node that goes bad and one that stays good."""

    herd: Herd
    bad: FakeOllama
    good: FakeOllama
    used: int = 0

    def run(self, fault: str, form: Form, requests: int = 12, at_once: int = 1) -> Cell:
        """One cell, `at_once` requests at a time."""
        cell = Cell(fault, form)
        for _ in range(RUNS):
            cell = self._run(fault, form, requests, at_once)
            if cell.met:
                break
        return cell

    def _run(self, fault: str, form: Form, requests: int, at_once: int) -> Cell:
        kind = "e" if form.path == "/api/embed" else "m"
        body = form.body(f"{kind}{self.used}")
        self.used += 1
        wanted = read(form, call(self.bad.port, "POST", form.path, body))
        assert wanted.is_whole, wanted
        self.prefer_the_bad(form, body)
        healthy_ms = statistics.median(self.timed(form, body)[1] for _ in range(3))
        cell = Cell(fault, form, requests, at_once)
        before = self.bad.counters.by_path[form.path]
        self._break(fault)
        added_ms = []
        try:
            with ThreadPoolExecutor(at_once) as clients:
                for answer, took_ms in clients.map(
                    lambda _: self.timed(form, body), range(requests)
                ):
                    _count(cell, answer, wanted)
                    if _attempts(answer) > 1 or answer.header("x-herd-node") == "bad":
                        added_ms.append(took_ms - healthy_ms)
                    if fault == REFUSE:
                        cell.wasted += max(0, _attempts(answer) - 1)
        finally:
            self._mend(fault)
        if fault != REFUSE:
            cell.wasted = self.bad.counters.by_path[form.path] - before
        cell.met = len(added_ms)
        if added_ms:
            cell.added_ms, cell.worst_ms = statistics.mean(added_ms), max(added_ms)
        return cell

    def prefer_the_bad(self, form: Form, body: dict[str, Any]) -> None:
        """Until request after request goes there, however it was left by the cell before."""
        lone = Form("/api/chat", is_stream=False)
        answer, _ = self.timed(lone, lone.body(LONE))  # an answer ends the rest of its engine
        assert answer.status == 200, answer.body
        wait_until(
            lambda: {self.timed(form, body)[0].header("x-herd-node") for _ in range(2)} == {"bad"},
            10,
            "the node that will go bad to be preferred",
        )

    def timed(self, form: Form, body: dict[str, Any]) -> tuple[Response, float]:
        begun_s = clock.monotonic_s()
        answer = self.herd.call("POST", form.path, body, timeout_s=30)
        return answer, 1000 * (clock.monotonic_s() - begun_s)

    def _break(self, fault: str) -> None:
        if fault == REFUSE:
            self.bad.refuse()
        else:
            self.bad.fail_next(Fault(fault), times=-1, after_tokens=4)

    def _mend(self, fault: str) -> None:
        self.bad.heal()
        if fault == REFUSE:
            self.bad.listen()
            self.herd.wait_models(f"{LONE}:latest")


@contextmanager
def rig(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Rig]:
    """A standing pair with enough models for every cell."""
    count = len(cells()) + SPARE
    shared = [_small(f"m{i}", "completion") for i in range(count)]
    shared += [_small(f"e{i}", "embedding") for i in range(count)]
    shared.append(_small("only-for-hedges", "completion"))
    common: dict[str, Any] = {
        "num_parallel": 4,
        "max_loaded": 10_000,
        "answer_tokens": ANSWER_TOKENS,
    }
    # Not frozen: the ids of its answers are others than those of the good one.
    bad = FakeOllama([*shared, model(LONE)], Settings(**common))
    good = FakeOllama(shared, Settings(**common, is_frozen=True))
    with bad.in_thread(), good.in_thread(), Herd(folder, env={**LIMITS, **(env or {})}) as herd:
        _load_all(bad, shared)
        herd.ready()
        url, slots = f"http://127.0.0.1:{herd.port}", {"HERD_NODE_SLOTS": "4"}
        with (
            Node(folder, "bad", url, [bad.url], env=slots),
            Node(folder, "good", url, [good.url], env=slots),
        ):
            herd.wait_models(f"{LONE}:latest")
            herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
            yield Rig(herd, bad, good)


def _small(name: str, capability: str) -> FakeModel:
    """Room for all of them on any machine: none is ever unloaded for another."""
    return model(name, capabilities=(capability,), loaded_bytes=1_000_000, size_bytes=1_000_000)


def _load_all(engine: FakeOllama, models: list[FakeModel]) -> None:
    for one in models:
        kept: dict[str, Any] = {"model": one.name, "keep_alive": -1}
        if "embedding" in one.capabilities:
            path, body = "/api/embed", {**kept, "input": "x"}
        else:
            path, body = "/api/generate", kept
        answer = call(engine.port, "POST", path, body)
        assert answer.status == 200, answer.body


def _attempts(answer: Response) -> int:
    return int(answer.header("x-herd-attempts") or 0)


def _count(cell: Cell, answer: Response, wanted: Read) -> None:
    got = read(cell.form, answer)
    if got.error:
        cell.told += 1
        cell.seen.append(got.error)
    elif not got.is_whole:
        cell.silent += 1
        cell.seen.append(got.text)
    elif got.text != wanted.text:
        cell.wrong_text += 1
        cell.seen.append(got.text)
    else:
        cell.completed += 1
        if got.tokens != wanted.tokens:
            cell.wrong_counts += 1
            cell.seen.append(f"{got.tokens} tokens instead of {wanted.tokens}")
