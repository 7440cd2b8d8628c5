"""What runs on a replica and on a node, and what is believed of them: the parts of `Load`.

Changed by `Load` alone. Times are router monotonic seconds.
"""

from math import exp

from ollama_herd.core.engine_record import FAILURES_TO_BAR, EngineRecord
from ollama_herd.core.lengths import Lengths
from ollama_herd.core.node import EngineKind, Node, NoticedBy, Replica, StuckRunner
from ollama_herd.core.predict import (
    PREFILL_CHUNK,
    NodePace,
    Rates,
    SlotKey,
    attention_tokens,
)
from ollama_herd.core.prefix import SlotMirror
from ollama_herd.core.request import InferenceRequest
from ollama_herd.core.silence import Expectation

RATE_TAU_S = 300.0
"""Memory of arrival rates and of how busy a node is (routing study)."""

LATE_SHARE = 0.25
"""What is late by t is expected another t/4 later: it tends to stay late."""

PROBE_PAUSE_S = 30.0
PROBE_PAUSE_MAX_S = 3600.0
"""Pause after a probe that found no further slot; doubles each time."""

PAUSE_MIN_S = 120.0
PAUSES_MOST = 16
"""Pauses between requests of a model that are remembered: an engine may unload it in them."""

REPORT_LAG_S = 3.0
"""A report this soon after our own action may still describe the time before it."""

RESERVED_S = 2.5
"""A reservation lapses after two ticks without a word: its request left, or went elsewhere."""

BUSY_SHARE_MAX = 0.95

Options = tuple[tuple[str, int | bool], ...]

SAMPLE = 8
"""Running requests looked at one by one to price a place: all of them on engines of up to so many
slots; of more, so many stand for all.
"""


class Running:
    """One granted request on its replica. What comes first is known when it is sent."""

    __slots__ = (
        "cached",
        "dirty_s",
        "dispatched_s",
        "first_byte_s",
        "first_due_s",
        "is_alone",
        "is_cache_known",
        "is_cold",
        "is_prefill_clean",
        "is_probe",
        "node",
        "number",
        "options",
        "output",
        "overlapped",
        "prefill_s",
        "progress_s",
        "prompt",
        "replica",
        "request",
        "share_tokens",
        "stall_s",
        "step_s",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - by position: by name they would take twice as long
        self,
        request: InferenceRequest,
        replica: "ReplicaLoad",
        node: "NodeLoad",
        options: Options,
        dispatched_s: float,
        first_due_s: float,
        prompt: float,
        cached: float,
        output: float,
        prefill_s: float,
        step_s: float,
        stall_s: float,
        share_tokens: float,
        is_cold: bool,  # noqa: FBT001
        is_cache_known: bool,  # noqa: FBT001
        is_probe: bool,  # noqa: FBT001
    ) -> None:
        self.request = request
        self.replica = replica
        self.node = node
        self.options = options  # as they reach the engine
        self.dispatched_s = dispatched_s
        self.first_due_s = first_due_s
        self.prompt = prompt
        self.cached = cached
        self.output = output
        self.prefill_s = prefill_s  # predicted, without the node's bias
        self.step_s = step_s  # predicted, without the node's bias
        self.stall_s = stall_s
        self.share_tokens = share_tokens  # what it is expected to take, as `shares` counts it
        self.is_cold = is_cold
        self.is_cache_known = is_cache_known
        self.is_probe = is_probe  # one more than the known slots, to learn of another
        self.number = 0  # of all requests started on the node
        self.first_byte_s = -1.0
        self.is_alone = True
        self.is_prefill_clean = True
        self.overlapped = 0  # how many others still ran when its first byte came
        self.progress_s = 0.0
        self.dirty_s = 0.0

    def chunk_s(self) -> float:
        """What a chunk of its prompt takes alone."""
        new = max(self.prompt - self.cached, 1.0)
        whole_s = attention_tokens(new, self.cached) * self.replica.rates.inv_prefill_s
        return whole_s * min(1.0, PREFILL_CHUNK / new)

    def expectation(self) -> Expectation:
        """What was predicted of it when it was sent."""
        silent_s = self.replica.silent_s
        return Expectation(
            first_byte_s=self.first_due_s - self.dispatched_s,
            step_s=self.step_s * self.node.pace.bias_decode,
            output_tokens=self.output,
            max_tokens=self.request.max_tokens,
            hangs=silent_s is not None and silent_s > self.dispatched_s,
        )


class ReplicaLoad:
    """One runner of one engine: its requests, its believed state, its learned rates."""

    __slots__ = (
        "arrivals_at_s",
        "arrivals_per_s",
        "barred_until_s",
        "changed_s",
        "chunk_s",
        "context_length",
        "displaced",
        "displaces",
        "engine",
        "evicted_s",
        "failures",
        "is_hot",
        "is_pinned",
        "is_reported_hot",
        "keep_alive_s",
        "key",
        "last",
        "last_options",
        "learned_context",
        "learned_slots",
        "loaded_s",
        "loading_until_s",
        "mirror",
        "node",
        "options",
        "overlaps",
        "pauses",
        "plan",
        "plan_report",
        "plan_until_s",
        "plan_version",
        "probe_pause_s",
        "probe_s",
        "progress_s",
        "prompts",
        "rates",
        "replica",
        "running",
        "sample",
        "silent_s",
        "slots",
        "stuck",
        "touched_s",
        "victims",
    )

    def __init__(self, replica: Replica, node: "NodeLoad", rates: Rates) -> None:
        self.key: SlotKey = replica.slot_key
        self.replica = replica
        self.node = node
        self.engine = node.engine(replica.engine_id)
        self.rates = rates
        self.slots = 1
        self.learned_slots = 1
        self.overlaps = 0
        self.probe_s = 0.0  # not before this time
        self.probe_pause_s = PROBE_PAUSE_S
        self.running: dict[str, Running] = {}
        self.sample: list[Running] = []
        self.is_hot = False
        self.is_reported_hot = False
        self.is_pinned = False
        self.keep_alive_s = 0.0  # after each use, if one of our requests said so; 0: engine's own
        self.loading_until_s = 0.0
        self.loaded_s = float("-inf")  # since when with these options, as far as we did it
        self.context_length = 0
        self.learned_context = 0  # what it has without being asked for one
        self.options: Options | None = None  # None: loaded by others
        self.changed_s = float("-inf")
        self.evicted_s = float("-inf")  # unloaded for another one, if no report knows better
        self.progress_s = 0.0
        self.prompts = 0  # streams that have not begun
        self.chunk_s = 0.0  # a chunk of the last prompt takes, alone
        self.mirror = SlotMirror()
        self.arrivals_per_s = 0.0
        self.arrivals_at_s = 0.0
        self.failures = 0
        self.barred_until_s = 0.0
        self.last: InferenceRequest | None = None  # answered by what is loaded now
        self.last_options: Options = ()  # of the last one answered by what was loaded before
        self.pauses: list[float] = []  # the longer ones between two requests, oldest first
        self.touched_s = float("-inf")  # last used by a canary
        self.silent_s: float | None = None  # when it gave no answer, if it has not since
        self.stuck: StuckRunner | None = None
        # What would have to go for this model to load, kept by `signals` while it holds.
        self.plan = (0.0, 0.0)
        self.victims: tuple[ReplicaLoad, ...] = ()
        self.displaced: tuple[ReplicaLoad, ...] = ()
        self.displaces = 0  # models that have to go, whoever chooses them
        self.plan_version = -1
        self.plan_report: Node | None = None
        self.plan_until_s = 0.0

    def rate_per_s(self, now_s: float) -> float:
        """Arrivals of this model here, a second."""
        if not self.arrivals_per_s:
            return 0.0
        return self.arrivals_per_s * exp((self.arrivals_at_s - now_s) / RATE_TAU_S)

    def paused(self, pause_s: float) -> None:
        """It was asked again after so long a pause."""
        if len(self.pauses) >= PAUSES_MOST:
            del self.pauses[0]
        self.pauses.append(pause_s)

    def started(self, run: Running) -> None:
        """A request runs here."""
        self.running[run.request.request_id] = run
        if len(self.sample) < SAMPLE:
            self.sample.append(run)

    def ended(self, run: Running) -> None:
        """It left. In the sample the newest takes its place, so that of requests that come and go
        the sample shows the mixture of ages that all of them have.
        """
        del self.running[run.request.request_id]
        sample = self.sample
        if run not in sample:
            return
        sample.remove(run)
        if len(self.running) > len(sample):
            sample.append(next(r for r in reversed(self.running.values()) if r not in sample))

    def sampled_weight(self) -> float:
        """Running requests that each one of the sample stands for."""
        return len(self.running) / len(self.sample) if self.sample else 1.0

    def is_resting(self, now_s: float) -> bool:
        """Failed in a row, or its engine did: not asked for a while, then by one at a time until it
        answers. One that left a canary unanswered rests until it answers one.
        """
        if self.stuck is not None and self.stuck.noticed_by is NoticedBy.CANARY:
            return True
        if self.failures >= FAILURES_TO_BAR and (self.barred_until_s > now_s or self.running):
            return True
        engine = self.engine
        if not engine.is_failing:
            return False
        return engine.barred_until_s > now_s or self.node.is_running(engine)

    def is_going(self, reported_s: float) -> bool:
        """Whether it is unloaded for another model, and a report of then may not know it yet."""
        is_there = self.is_hot or self.loading_until_s > 0
        return not is_there and reported_s <= self.evicted_s + REPORT_LAG_S

    def became_cold(self) -> None:
        """Unloaded, reloaded elsewhere or lost: nothing is known of its slots any more."""
        self.is_hot = False
        self.ends_loading()
        self.context_length = 0
        self.options = None
        self.has_new_runner()
        self.keep_alive_s = 0.0
        self.mirror.clear()

    def has_new_runner(self) -> None:
        """What was seen of the one before says nothing of this one."""
        if self.last is not None:
            self.last_options = self.last.load_options
        self.last = None
        self.silent_s = None
        self.stuck = None

    def begin_loading(self, options: Options, until_s: float, now_s: float) -> None:
        """A request that makes the engine (re)load the model is on its way."""
        if self.replica.kind is EngineKind.OPENAI:
            return
        if self.is_hot:
            self.arrivals_per_s = 0.0  # of those who could use it as it was
        self.became_cold()
        self.loaded_s = now_s
        self.options = options
        self.context_length = int(dict(options).get("num_ctx", 0))
        self.loading_until_s = max(until_s, now_s + 1e-3)
        self.node.loading = self
        if self.node.reserved is self:
            self.node.reserved = None

    def ends_loading(self) -> None:
        """Loaded, or given up."""
        self.loading_until_s = 0.0
        if self.node.loading is self:
            self.node.loading = None

    def may_probe(self, now_s: float) -> bool:
        """Whether sending one request too many could tell if there is another slot.

        It does if its first byte is due well before anything running here ends.
        """
        return (
            self.replica.slots is None
            and self.is_hot
            and len(self.running) == self.slots
            and now_s >= self.probe_s
        )

    def probed_in_vain(self, now_s: float) -> None:
        self.overlaps = 0
        self.probe_s = now_s + self.probe_pause_s
        self.probe_pause_s = min(2 * self.probe_pause_s, PROBE_PAUSE_MAX_S)

    def set_slots(self) -> None:
        reported = self.replica.slots
        self.slots = max(1, reported) if reported is not None else self.learned_slots
        if self.replica.kind is EngineKind.OLLAMA and self.replica.model.capabilities == (
            "embedding",
        ):
            self.slots = 1  # Ollama runs embedding models without parallel sequences


class NodeLoad:
    """One machine: what runs on it and how busy it has been."""

    __slots__ = (
        "active",
        "advanced_s",
        "busy_at_s",
        "busy_share",
        "dirty_s",
        "engines",
        "in_flight",
        "lengths",
        "loading",
        "node",
        "pace",
        "prefilling",
        "replicas",
        "reserved",
        "reserved_options",
        "reserved_until_s",
        "starts",
        "version",
    )

    def __init__(self, node: Node, pace: NodePace, lengths: Lengths) -> None:
        self.node = node
        self.pace = pace
        self.lengths = lengths
        self.replicas: dict[SlotKey, ReplicaLoad] = {}
        self.active: dict[SlotKey, ReplicaLoad] = {}
        self.engines: dict[str, EngineRecord] = {}
        self.in_flight = 0
        self.starts = 0
        self.prefilling = 0
        self.loading: ReplicaLoad | None = None
        self.reserved: ReplicaLoad | None = None  # next to load here; others keep out
        self.reserved_options: Options = ()
        self.reserved_until_s = 0.0
        self.dirty_s = 0.0
        self.advanced_s = 0.0
        self.busy_share = 0.0
        self.busy_at_s = 0.0
        self.version = 0

    def engine(self, engine_id: str) -> EngineRecord:
        """The record of one of its engines."""
        return self.engines.setdefault(engine_id, EngineRecord(engine_id))

    def is_running(self, engine: EngineRecord) -> bool:
        """Whether a request of any model runs on that engine."""
        return any(key[1] == engine.engine_id for key in self.active)

    def advance(self, now_s: float) -> None:
        """Account the time since the last event: decode progress, and what made it unclean."""
        passed = now_s - self.advanced_s
        self.advanced_s = now_s
        models = len(self.active)
        if not models or passed <= 0:
            return
        if models > 1 or self.prefilling:
            self.dirty_s += passed
        if self.loading is not None and models > 1 and self.loading.key in self.active:
            models -= 1  # what waits for its load takes no time of the others
        alpha = self.pace.alpha
        for replica in self.active.values():
            running = len(replica.running)
            prompts = replica.prompts
            if not prompts:
                replica.progress_s += passed / ((1 + alpha * (running - 1)) * models)
            elif prompts < running:  # a chunk of a prompt between two steps of the others
                batch = 1 + alpha * (running - prompts - 1) + replica.chunk_s / replica.rates.step_s
                replica.progress_s += passed / (batch * models)

    def reserve(self, replica: ReplicaLoad, options: Options, now_s: float) -> bool:
        """Let the node run dry for a model that waits to be loaded; renewed while it waits. False
        when it is kept for another one.
        """
        if self.reserved is None or self.reserved_until_s <= now_s:
            self.reserved = replica
            self.reserved_options = options
        return self.keep_reserved(replica, options, now_s)

    def keep_reserved(self, replica: ReplicaLoad, options: Options, now_s: float) -> bool:
        """Who it is for waits on. False when it is not kept for that one any more."""
        is_for_it = self.reserved is replica and self.reserved_options == options
        if is_for_it:
            self.reserved_until_s = now_s + RESERVED_S
        return is_for_it

    def load_ahead_s(self, now_s: float) -> float:
        """Until the load under way is done: loads on a machine happen one after the other."""
        if self.loading is None:
            return 0.0
        left_s = self.loading.loading_until_s - now_s
        return left_s if left_s > 0 else max(LATE_SHARE * -left_s, 0.1)

    def add_busy(self, stay_s: float, slots: int) -> None:
        """A request that will stay so long was sent here."""
        share = self.busy_share + stay_s / slots / RATE_TAU_S
        self.busy_share = min(BUSY_SHARE_MAX, share)

    def decay(self, now_s: float) -> None:
        """Let the busy share fade, and a reservation nobody renews."""
        if self.reserved is not None and self.reserved_until_s <= now_s:
            self.reserved = None
        passed = now_s - self.busy_at_s
        self.busy_at_s = now_s
        if passed > 0 and self.busy_share:
            self.busy_share *= exp(-passed / RATE_TAU_S)
