"""One simulated machine with an Ollama: loads, evictions, slots, prompt caches, shared speed.

Fluid between events: the models busy on a machine share it evenly; a prompt is evaluated in
chunks of 512 tokens with one decode step of its neighbours between two chunks; each further
sequence slows a step by `alpha`. Loads happen one after the other, the first one waiting blocks
those behind it. All times are simulated seconds.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ollama_herd.core.node import EngineKind, EngineReport, LoadedModel
from ollama_herd.core.predict import attention_tokens
from ollama_herd.core.prefix import BLOCK_TOKENS, SlotMirror
from ollama_herd.core.request import InferenceRequest, Kind, Usage
from ollama_herd.simulate.machines import GB, Machine, Truth, fits

KEEP_ALIVE_S = 300.0
DEFAULT_CONTEXT = 16384
RELOAD_PAUSE_S = 2.0
PREFILL_CHUNK = 512
ENGINE_ID = "ollama-11434"
MAX_LOADED = 3
"""`OLLAMA_MAX_LOADED_MODELS`: three for each GPU."""

_DONE = 1e-9
_ROUNDING = 1e-6


def kept_s(keep_alive_s: float | None) -> float:
    """How long an idle model stays for a request that asks for this: negative is for ever."""
    if keep_alive_s is None:
        return KEEP_ALIVE_S
    return keep_alive_s if keep_alive_s >= 0 else float("inf")


@dataclass(eq=False)
class Job:
    """A request at an engine. `left` is work: s of loading or prefill, tokens of decode."""

    request: InferenceRequest
    model: str
    prompt: int
    output: int
    context: int
    sent_s: float
    phase: str = "queued"
    left: float = 0.0
    rate: float = 0.0
    chunk_s: float = 0.0
    kv_s: float = 0.0
    first_s: float = -1.0
    ready_s: float = -1.0
    began_s: float = -1.0
    was_cold: bool = False
    keep_alive_s: float = KEEP_ALIVE_S

    def streamed(self, passed_s: float) -> int:
        """Tokens that are out when its engine was last moved on so long ago."""
        if self.first_s < 0:
            return 0
        return max(1, int(self.output - max(0.0, self.left - self.rate * passed_s) + _ROUNDING))

    def usage(self, now_s: float) -> Usage:
        """What the engine says at the end."""
        return Usage(
            prompt_tokens=self.prompt,
            output_tokens=self.output or None,
            load_ms=1e3 * (self.ready_s - self.sent_s) if self.was_cold else 50.0,
            prefill_ms=1e3 * (self.first_s - self.began_s),
            decode_ms=1e3 * (now_s - self.first_s) if self.output else None,
        )


@dataclass(eq=False)
class Runner:
    """A model in memory, or on its way there (`ready_s` in the future)."""

    model: str
    context: int
    size_gb: float
    ready_s: float
    used_s: float
    is_ready: bool = False
    keep_alive_s: float = KEEP_ALIVE_S
    active: list[Job] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    caches: SlotMirror = field(default_factory=SlotMirror)

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.active and not self.waiting


class Engine:
    """The machine. `advance` moves it to a time and yields what happened to its jobs."""

    def __init__(self, machine: Machine, models: Iterable[str], truth: Truth) -> None:
        self.machine = machine
        self.models = tuple(m for m in models if fits(machine, truth.specs[m]))
        self.truth = truth
        self.runners: dict[str, Runner] = {}
        self.pending: deque[Job] = deque()
        self.is_up = True
        self.slow = 1.0
        self.loads = 0
        self.now_s = 0.0
        self._on_disk = tuple(truth.specs[m].on_disk() for m in self.models)

    def slots(self, model: str) -> int:
        return 1 if self.truth.specs[model].is_embedding else self.machine.slots

    def submit(self, job: Job) -> None:
        """A request arrived at the engine."""
        runner = self.runners.get(job.model)
        if runner is not None and job.context in {0, runner.context}:
            self._admit(runner, job)
        else:
            job.was_cold = True
            self.pending.append(job)
            self._serve_pending()
        self._set_rates()

    def unload(self, model: str) -> None:
        """A request with keep-alive 0: an idle model goes at once."""
        runner = self.runners.get(model)
        if runner is not None and runner.is_idle:
            del self.runners[model]

    def crash(self) -> list[Job]:
        """The machine is gone with all it held; its jobs."""
        lost = [job for r in self.runners.values() for job in (*r.active, *r.waiting)]
        lost += self.pending
        self.runners.clear()
        self.pending.clear()
        self.is_up = False
        return lost

    def refresh(self) -> None:
        """The machine's speed changed."""
        self._set_rates()

    def next_s(self) -> float:
        """When something happens here by itself."""
        at_s = float("inf")
        for runner in self.runners.values():
            if not runner.is_ready:
                at_s = min(at_s, runner.ready_s)
            elif runner.is_idle:
                at_s = min(at_s, runner.used_s + runner.keep_alive_s)
            for job in runner.active:
                if job.rate > 0:
                    at_s = min(at_s, self.now_s + max(job.left, 0.0) / job.rate)
        return at_s

    def advance(self, now_s: float) -> Iterator[tuple[Job, str]]:
        """Work until `now_s`, at most the next event; yields ("first" | "done") of jobs."""
        passed = now_s - self.now_s
        self.now_s = now_s
        happened: list[tuple[Job, str]] = []
        for runner in list(self.runners.values()):
            for job in list(runner.active):
                job.left -= job.rate * passed
                if job.left <= _DONE * max(1.0, now_s) and job.rate > 0:
                    self._phase_over(runner, job, happened)
            if not runner.is_ready and runner.ready_s <= now_s + _DONE:
                runner.is_ready = True
                runner.used_s = now_s
                self._start(runner)
            elif runner.is_idle and runner.used_s + runner.keep_alive_s <= now_s + _DONE:
                del self.runners[runner.model]
        self._serve_pending()
        self._set_rates()
        yield from happened

    def report(self) -> EngineReport:
        loaded = tuple(
            LoadedModel(
                name=r.model,
                size_bytes=int(r.size_gb * GB),
                size_vram_bytes=int(r.size_gb * GB),
                context_length=r.context,
            )
            for r in sorted(self.runners.values(), key=lambda r: r.model)
            if r.is_ready
        )
        return EngineReport(
            engine_id=ENGINE_ID,
            kind=EngineKind.OLLAMA,
            port=11434,
            version="0.12.0",
            models=self._on_disk,
            loaded=loaded,
            slots=self.machine.slots,
            max_loaded=MAX_LOADED,
        )

    @property
    def used_gb(self) -> float:
        return sum(r.size_gb for r in self.runners.values())

    def _phase_over(self, runner: Runner, job: Job, happened: list[tuple[Job, str]]) -> None:
        if job.phase == "prefill":
            job.first_s = self.now_s
            happened.append((job, "first"))
            job.phase, job.left = "decode", float(job.output - 1)
            if job.left > 0:
                return
        runner.active.remove(job)
        runner.used_s = self.now_s
        runner.caches.release(job.request.request_id, self.slots(job.model), self.now_s, kept=True)
        happened.append((job, "done"))
        self._start(runner)

    def _admit(self, runner: Runner, job: Job) -> None:
        runner.waiting.append(job)
        runner.keep_alive_s = job.keep_alive_s
        self._start(runner)

    def _start(self, runner: Runner) -> None:
        """Requests take free slots in the order they came."""
        slots = self.slots(runner.model)
        rates = self.truth.rates(self.machine.name, runner.model)
        while runner.is_ready and runner.waiting and len(runner.active) < slots:
            job = runner.waiting.popleft()
            job.ready_s = job.began_s = self.now_s
            chain = job.request.prefix
            common = runner.caches.take(chain, slots, job.request.request_id, self.now_s)
            cached = min(common * BLOCK_TOKENS, job.prompt - 1)
            new = job.prompt - cached
            job.phase = "prefill"
            job.left = attention_tokens(new, cached) / rates.prefill_tokens_s
            job.chunk_s = job.left * min(1.0, PREFILL_CHUNK / new)
            if job.request.kind is not Kind.EMBED:
                job.kv_s = rates.kv_s * (job.prompt + job.output / 2)
            runner.active.append(job)

    def _serve_pending(self) -> None:
        """The head of the line loads when there is room for it; those behind it wait."""
        while self.pending:
            job = self.pending[0]
            model, context = job.model, job.context
            runner = self.runners.get(model)
            if runner is not None and context in {0, runner.context}:
                self.pending.popleft()
                self._admit(runner, job)
                continue
            if any(not r.is_ready for r in self.runners.values()):
                return
            pause_s = 0.0
            if runner is not None:
                if not runner.is_idle:
                    return
                del self.runners[model]
                pause_s = RELOAD_PAUSE_S
            size_gb = self.truth.specs[model].resident_gb
            if not self._make_room(size_gb):
                return
            load_s = self.truth.rates(self.machine.name, model).load_s
            ready_s = self.now_s + pause_s + load_s
            self.runners[model] = Runner(
                model, context or DEFAULT_CONTEXT, size_gb, ready_s, self.now_s
            )
            self.loads += 1

    def _make_room(self, size_gb: float) -> bool:
        while (
            len(self.runners) >= MAX_LOADED or self.used_gb + size_gb > self.machine.room_gb
        ) and self.runners:
            idle = [r for r in self.runners.values() if r.is_idle]
            if not idle:
                return False
            del self.runners[min(idle, key=lambda r: r.used_s).model]
        return True

    def _set_rates(self) -> None:
        busy = [r for r in self.runners.values() if r.active]
        share = 1 / (len(busy) * self.slow) if busy else 0.0
        alpha = self.truth.alpha[self.machine.name]
        for runner in busy:
            decoding = [job for job in runner.active if job.phase == "decode"]
            prompts = [job for job in runner.active if job.phase == "prefill"]
            step_s = 0.0
            if decoding:
                own_s = self.truth.rates(self.machine.name, runner.model).step_s
                step_s = own_s * (1 + alpha * (len(decoding) - 1))
                step_s += sum(job.kv_s for job in decoding)
            turn_s = step_s + (prompts[0].chunk_s if prompts else 0.0)
            for job in decoding:
                job.rate = share / turn_s
            for job in prompts:
                job.rate = share * job.chunk_s / turn_s if job is prompts[0] else 0.0
