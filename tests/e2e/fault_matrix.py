"""Every fault at every endpoint: a herd of two nodes whose first one is bad, counted exactly.

Each cell has a model of its own, so that no replica's record of one cell reaches the next. Before
the fault, the bad node answers quicker than the good one, so that routing prefers it.
"""

import json
import statistics
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollama_herd import clock
from tests.e2e.processes import Herd, Node
from tests.fakes.models import embedding_model, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Response, call
from tests.fakes.state import Fault, Settings

CHAT = {"messages": [{"role": "user", "content": "Tell me"}]}
ANSWER_TOKENS = 12

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
    Fault.CUT_MID_STREAM,
    Fault.CLEAN_END,
    Fault.ERROR_MID_STREAM,
    Fault.STALL_MID_STREAM,
)
MID_STREAM = frozenset(
    {Fault.CUT_MID_STREAM, Fault.CLEAN_END, Fault.ERROR_MID_STREAM, Fault.STALL_MID_STREAM}
)


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
)
FORMS = (
    *(Form(path, is_stream) for path in PATHS for is_stream in (True, False)),
    Form("/api/embed", is_stream=False),
)


def cells() -> list[tuple[str, Form]]:
    """All that mean something: an embedding has no middle of a stream."""
    return [(f, form) for f in FAULTS for form in FORMS if not _is_void(f, form)]


def _is_void(fault: str, form: Form) -> bool:
    return form.path == "/api/embed" and fault in MID_STREAM


@dataclass
class Cell:
    """What twelve requests came to. `told` ended with an error, `silent` looked whole but was not.

    `wasted` are requests that reached the bad node after it went bad.
    """

    fault: str
    form: Form
    completed: int = 0
    told: int = 0
    silent: int = 0
    wrong_text: int = 0
    wrong_counts: int = 0
    wasted: int = 0
    added_ms: float = 0.0
    worst_ms: float = 0.0
    seen: list[str] = field(default_factory=list)


@dataclass
class Rig:
    """A router, a node that goes bad and one that stays good."""

    herd: Herd
    bad: FakeOllama
    good: FakeOllama
    used: int = 0

    def run(self, fault: str, form: Form, requests: int = 12) -> Cell:
        """One cell."""
        name = f"m{self.used}" if form.path != "/api/embed" else f"e{self.used}"
        self.used += 1
        body = form.body(name)
        wanted = read(form, self.good.direct(form.path, body))
        self._prefer_the_bad(form, body)
        healthy_ms = statistics.median(self.timed(form, body)[1] for _ in range(3))
        cell = Cell(fault, form)
        before = self.bad.counters.by_path[form.path]
        self._break(fault)
        times = []
        try:
            for _ in range(requests):
                answer, took_ms = self.timed(form, body)
                times.append(took_ms - healthy_ms)
                _count(cell, answer, wanted)
        finally:
            self._mend(fault)
        cell.wasted = self.bad.counters.by_path[form.path] - before
        cell.added_ms, cell.worst_ms = statistics.mean(times), max(times)
        return cell

    def _prefer_the_bad(self, form: Form, body: dict[str, Any]) -> None:
        """Both answer, the good one slower, until the other one is chosen whenever it is free."""
        for _ in range(10):
            both = [threading.Thread(target=self.timed, args=(form, body)) for _ in range(2)]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
            nodes = [self.timed(form, body)[0].header("x-herd-node") for _ in range(2)]
            if nodes == ["bad", "bad"]:
                return

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
            self.herd.wait_models("only-bad:latest")


class _Engine(FakeOllama):
    def direct(self, path: str, body: dict[str, Any]) -> Response:
        """Straight to it, past the herd."""
        return call(self.port, "POST", path, body)


@contextmanager
def rig(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Rig]:
    """A standing pair with enough models for every cell."""
    count = len(FAULTS) * len(FORMS) * 2
    shared = [model(f"m{i}") for i in range(count)]
    shared.append(model("only-for-hedges"))
    shared += [embedding_model(f"e{i}") for i in range(count)]
    common: dict[str, Any] = {
        "is_frozen": True,
        "num_parallel": 4,
        "max_loaded": 10_000,
        "answer_tokens": ANSWER_TOKENS,
    }
    bad = _Engine([*shared, model("only-bad")], Settings(**common))
    good = _Engine(shared, Settings(**common, prefill_ms=40))
    with bad.in_thread(), good.in_thread(), Herd(folder, env={**LIMITS, **(env or {})}) as herd:
        herd.ready()
        url, slots = f"http://127.0.0.1:{herd.port}", {"HERD_NODE_SLOTS": "4"}
        with (
            Node(folder, "bad", url, [bad.url], env=slots),
            Node(folder, "good", url, [good.url], env=slots),
        ):
            herd.wait_models("only-bad:latest")
            herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
            yield Rig(herd, bad, good)


@dataclass(frozen=True)
class Read:
    """What a client makes of an answer: its text, its token count, whether it is all there."""

    text: str
    tokens: int
    is_whole: bool
    error: str = ""


def read(form: Form, answer: Response) -> Read:
    """As an SDK would."""
    if answer.status != 200:
        return Read("", 0, is_whole=False, error=f"{answer.status} {answer.body[:200]!r}")
    if not answer.is_whole:
        return Read("", 0, is_whole=False, error="cut connection")
    if not form.is_stream:
        return _read_whole(form, answer.json())
    if form.path.startswith("/api/"):
        return _read_lines(answer.lines())
    return _read_events(form, answer.body)


def _read_whole(form: Form, body: dict[str, Any]) -> Read:
    usage = body.get("usage", {})
    if form.path == "/api/embed":
        return Read(str(body["embeddings"][0][:3]), body["prompt_eval_count"], is_whole=True)
    if form.path == "/v1/messages":
        return Read(body["content"][0]["text"], usage["output_tokens"], is_whole=True)
    if form.path.startswith("/v1/"):
        choice = body["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Read(text, usage["completion_tokens"], is_whole=True)
    text = body["message"]["content"] if "message" in body else body["response"]
    return Read(text, body["eval_count"], is_whole=body["done"])


def _read_lines(lines: list[dict[str, Any]]) -> Read:
    text, tokens, is_whole, error = "", 0, False, ""
    for line in lines:
        error = line.get("error", "") or error
        text += line["message"]["content"] if "message" in line else line.get("response", "")
        is_whole = line.get("done", False)
        tokens = line.get("eval_count", tokens)
    return Read(text, tokens, is_whole=is_whole and not error, error=error)


def _read_events(form: Form, body: bytes) -> Read:
    text, tokens, is_whole, error = "", 0, False, ""
    ids, roles = set(), 0
    for block in body.split(b"\n\n"):
        data = b"".join(line[6:] for line in block.split(b"\n") if line.startswith(b"data: "))
        if data == b"[DONE]":
            is_whole = True
            continue
        if not data:
            continue
        event = json.loads(data)
        error = str(event["error"]) if "error" in event else error
        if form.path == "/v1/messages":
            text += event.get("delta", {}).get("text", "")
            tokens = event.get("usage", {}).get("output_tokens", tokens)
            is_whole = is_whole or event["type"] == "message_stop"
            roles += event["type"] in ("message_start", "content_block_start")
            continue
        ids.add((event.get("id"), event.get("model"), event.get("created")))
        for choice in event.get("choices", ()):
            text += choice.get("delta", choice).get("content", choice.get("text", "")) or ""
            roles += "role" in choice.get("delta", {})
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not error and (roles > 2 or len({(i, m) for i, m, _ in ids}) > 1):
        error = "opened twice"
    return Read(text, tokens, is_whole=is_whole and not error, error=error)


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
