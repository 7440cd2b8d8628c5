"""The simulation itself: arrivals, engines, reports, failures, owners, and one policy."""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from random import Random

import msgspec

from ollama_herd.core.fleet import Fleet, NodeReported, TimePassed, apply
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import EngineReport, NodeReport
from ollama_herd.core.predict import attention_tokens
from ollama_herd.core.request import Dialect, InferenceRequest, Kind, OutcomeKind
from ollama_herd.simulate.engine import Engine, Job, kept_s
from ollama_herd.simulate.machines import MODELS, Machine, ModelSpec, Truth, fits
from ollama_herd.simulate.policy import Action, CountsTokens, Drop, Policy, Preload, Send, Unload
from ollama_herd.simulate.workloads import Conversation, Turn

TICK_S = 1.0
REFUSED_S = 0.005
"""A connection to a machine that is gone fails this soon."""

OWNER_SLOWS = 2.5
OWNER_PERCENT = 80.0
WARM_UP_SHARE = 0.1
"""Requests of the first tenth of the time are answered, but not measured."""

DRAIN_LIMIT = 6.0
DRAIN_MORE_S = 3600.0
"""A run ends after so many horizons and an hour, whoever still waits."""

STARVED_S = 3600.0
"""Requests that waited so long when it ended are starved: long sessions may go on till then."""


class Conditions(msgspec.Struct, frozen=True):
    """What goes on around the requests. Times in s; `wrong_ln` see `machines.Truth`."""

    horizon_s: float = 1200.0
    heartbeat_s: float = 5.0
    wrong_ln: float = 0.35
    estimate_ln: float = 0.2  # error of prompt lengths as the router estimates them
    failures_per_h: float = 0.0  # of each machine; it is back after two minutes
    outage_s: float = 120.0
    owners: bool = True


class Scenario(msgspec.Struct, frozen=True):
    """Everything but the policy. Equal scenarios give equal results."""

    machines: tuple[Machine, ...]
    conversations: tuple[Conversation, ...]
    conditions: Conditions
    seed: int
    specs: Mapping[str, ModelSpec] = MODELS


@dataclass(eq=False)
class Asked:
    """One request from arrival to its end."""

    request: InferenceRequest
    conversation: Conversation
    turns: Sequence[Turn]  # this one's first, then those to come
    key: str
    arrived_s: float
    ideal_s: float
    node: str = ""
    job: Job | None = None
    tries: int = 0
    first_s: float = -1.0
    done_s: float = -1.0


@dataclass
class Outcome:
    """What came of a scenario under a policy. Lists have an entry for each measured request."""

    ttft_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    slowdown: list[float] = field(default_factory=list)
    loads: int = 0
    failed: int = 0
    starved: int = 0
    requests: int = 0
    hours: float = 0.0


class World:
    """One run. Make a new one for each."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self._scenario = scenario
        self._policy = policy
        conditions = scenario.conditions
        self._conditions = conditions
        self._truth = Truth(scenario.machines, scenario.seed, conditions.wrong_ln, scenario.specs)
        models = sorted({c.model for c in scenario.conversations})
        self.engines = {m.name: Engine(m, models, self._truth) for m in scenario.machines}
        self.fleet = Fleet()
        self.now_s = 0.0
        self.asked: dict[str, Asked] = {}
        self._open: set[str] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._wakes: dict[str, int] = {}
        self._told: dict[str, EngineReport] = {}
        self._seqs = itertools.count(1)
        self._busy_owner: set[str] = set()
        self._to_come = 0
        self._failed = 0
        self._estimates = Random(f"estimates-{scenario.seed}")
        if isinstance(policy, CountsTokens):
            policy.counts(self._streamed)
        self._plan()

    def run(self, progress: Callable[[float], None] | None = None) -> Outcome:
        """Until every request has ended. `progress` is told the share done now and then."""
        limit_s = DRAIN_LIMIT * self._conditions.horizon_s + DRAIN_MORE_S
        count = 0
        while self._events and (self._to_come or self._open):
            at_s, _, happen = heapq.heappop(self._events)
            if at_s > limit_s:
                break
            self.now_s = at_s
            happen()
            count += 1
            if progress is not None and count % 2000 == 0:
                progress(1 - (self._to_come + len(self._open)) / max(1, len(self.asked)))
        return self._outcome()

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._serial), happen))

    def _plan(self) -> None:
        scenario, conditions = self._scenario, self._conditions
        rng = Random(f"conditions-{scenario.seed}")
        for number, conversation in enumerate(scenario.conversations):
            self._expect(f"r{number}", conversation.at_s, conversation, conversation.turns)
        # mypy cannot type a lambda that binds a loop's variable by a default.
        for machine in scenario.machines:
            self._report(machine.name)
            self._every(
                conditions.heartbeat_s,
                rng.random() * conditions.heartbeat_s,
                lambda name=machine.name: self._report(name),  # type: ignore[misc]
            )
            for at_s in _times(rng, conditions.failures_per_h, conditions.horizon_s):
                self._at(at_s, lambda name=machine.name: self._crash(name))  # type: ignore[misc]
                self._at(
                    at_s + conditions.outage_s,
                    lambda name=machine.name: self._back(name),  # type: ignore[misc]
                )
            if machine.has_owner and conditions.owners:
                self._plan_owner(machine.name, rng)
        self._every(TICK_S, TICK_S, self._tick)

    def _plan_owner(self, name: str, rng: Random) -> None:
        at_s = rng.expovariate(1 / 300)
        while at_s < self._conditions.horizon_s:
            until_s = at_s + rng.uniform(120, 400)
            self._at(at_s, lambda: self._owner(name, is_busy=True))
            self._at(until_s, lambda: self._owner(name, is_busy=False))
            at_s = until_s + rng.expovariate(1 / 300)

    def _every(self, interval_s: float, first_s: float, happen: Callable[[], None]) -> None:
        def again() -> None:
            happen()
            self._at(self.now_s + interval_s, again)

        self._at(first_s, again)

    def _expect(
        self, key: str, at_s: float, conversation: Conversation, turns: Sequence[Turn]
    ) -> None:
        self._to_come += 1
        self._at(at_s, lambda: self._arrive(key, conversation, turns))

    def _arrive(self, key: str, conversation: Conversation, turns: Sequence[Turn]) -> None:
        self._to_come -= 1
        turn = turns[0]
        spec = self._truth.specs[conversation.model]
        error = exp(self._conditions.estimate_ln * self._estimates.gauss(0.0, 1.0))
        request = InferenceRequest(
            request_id=f"{key}.{len(turns)}",
            model=conversation.model,
            model_key=canonical_name(conversation.model),
            kind=Kind.EMBED if spec.is_embedding else Kind.CHAT,
            dialect=Dialect.OLLAMA,
            path="/api/embed" if spec.is_embedding else "/api/chat",
            arrived_s=self.now_s,
            stream=not spec.is_embedding,
            prompt_tokens=max(1, round(turn.prompt * error)),
            client=conversation.client,
            prefix=turn.chain,
        )
        ideal_s = min(
            _alone_s(self._truth, machine, conversation.model, turn)
            for machine in self._scenario.machines
            if fits(machine, spec)
        )
        self._ask(Asked(request, conversation, turns, key, self.now_s, ideal_s))

    def _ask(self, asked: Asked) -> None:
        request = asked.request
        self.asked[request.request_id] = asked
        self._open.add(request.request_id)
        self._do(self._policy.arrived(request, self.fleet, self.now_s))

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Drop():
                    self._open.discard(action.request_id)
                    self._failed += 1
                case Preload():
                    self._preload(action)
                case Unload():
                    name = action.replica.model.name
                    self._on_engine(action.replica.node_id, lambda e, n=name: e.unload(n))  # type: ignore[misc]

    def _preload(self, action: Preload) -> None:
        job = Job(action.request, action.request.model, 1, 0, 0, self.now_s)
        job.keep_alive_s = kept_s(action.request.keep_alive_s)
        name = action.replica.node_id
        if self.engines[name].is_up:
            self._on_engine(name, lambda engine: engine.submit(job))
        else:
            self._at(self.now_s + REFUSED_S, lambda: self._tell_end(job, OutcomeKind.UNREACHABLE))

    def _send(self, action: Send) -> None:
        asked = self.asked[action.request_id]
        node = action.replica.node_id
        asked.node = node
        asked.tries += 1
        engine = self.engines[node]
        if not engine.is_up:
            self._at(
                self.now_s + REFUSED_S,
                lambda: self._lost(action.request_id, OutcomeKind.UNREACHABLE),
            )
            return
        turn, is_embedding = asked.turns[0], asked.request.kind is Kind.EMBED
        context = int(dict(asked.request.load_options).get("num_ctx", 0))
        output = 0 if is_embedding else turn.output
        job = Job(asked.request, asked.request.model, turn.prompt, output, context, self.now_s)
        job.keep_alive_s = kept_s(action.keep_alive_s)
        asked.job = job
        self._on_engine(node, lambda engine: engine.submit(job))

    def _on_engine(self, name: str, act: Callable[[Engine], None]) -> None:
        engine = self.engines[name]
        if not engine.is_up:
            return
        self._advance(name)
        act(engine)
        self._wake_later(name)

    def _advance(self, name: str) -> None:
        for job, what in list(self.engines[name].advance(self.now_s)):
            self._happened(job, what)

    def _wake_later(self, name: str) -> None:
        at_s = self.engines[name].next_s()
        number = self._wakes[name] = self._wakes.get(name, 0) + 1
        if at_s < float("inf"):
            self._at(max(at_s, self.now_s), lambda: self._wake(name, number))

    def _wake(self, name: str, number: int) -> None:
        if self._wakes[name] == number and self.engines[name].is_up:
            self._advance(name)
            self._wake_later(name)

    def _happened(self, job: Job, what: str) -> None:
        if job.request.is_load_only:
            if what == "done":
                self._at(self.now_s, lambda: self._tell_end(job, OutcomeKind.COMPLETED))
            return
        asked = self.asked[job.request.request_id]
        if asked.job is not job:
            return
        if what == "first":
            if asked.first_s < 0:
                asked.first_s = self.now_s
            if job.request.stream:
                self._policy.first_byte(job.request.request_id, self.now_s)
            return
        asked.done_s = self.now_s
        self._open.discard(job.request.request_id)
        if len(asked.turns) > 1:
            rest = asked.turns[1:]
            self._expect(asked.key, self.now_s + rest[0].pause_s, asked.conversation, rest)
        # After this moment's events: the engine must not be changed while it is being asked.
        self._at(self.now_s, lambda: self._tell_end(job, OutcomeKind.COMPLETED))

    def _tell_end(self, job: Job, outcome: OutcomeKind) -> None:
        usage = job.usage(self.now_s) if outcome is OutcomeKind.COMPLETED else None
        request_id = job.request.request_id
        self._do(self._policy.finished(request_id, outcome, usage, self.fleet, self.now_s))

    def _streamed(self, request_id: str) -> int:
        """Tokens of the request's answer that have passed the router."""
        asked = self.asked.get(request_id)
        if asked is None or asked.job is None:
            return 0
        return asked.job.streamed(self.now_s - self.engines[asked.node].now_s)

    def _crash(self, name: str) -> None:
        engine = self.engines[name]
        if not engine.is_up:
            return
        self._advance(name)
        for job in engine.crash():
            request_id = job.request.request_id
            if job.request.is_load_only:
                self._tell_end(job, OutcomeKind.CLOSED_EARLY)
            elif job.first_s < 0:
                self._lost(request_id, OutcomeKind.CLOSED_EARLY)
            else:
                self._ask_again(job)

    def _ask_again(self, job: Job) -> None:
        """A cut answer: the client sends its request anew, and counts from the first time."""
        cut = self.asked.pop(job.request.request_id)
        self._open.discard(job.request.request_id)
        self._tell_end(job, OutcomeKind.TRUNCATED)
        request = msgspec.structs.replace(
            cut.request, request_id=f"{cut.request.request_id}+", arrived_s=self.now_s
        )
        self._ask(Asked(request, cut.conversation, cut.turns, cut.key, cut.arrived_s, cut.ideal_s))

    def _lost(self, request_id: str, outcome: OutcomeKind) -> None:
        self.asked[request_id].job = None
        self._do(self._policy.failed(request_id, outcome, self.fleet, self.now_s))

    def _back(self, name: str) -> None:
        engine = self.engines[name]
        engine.is_up = True
        engine.now_s = self.now_s
        self._report(name)

    def _owner(self, name: str, *, is_busy: bool) -> None:
        if self.engines[name].is_up:
            self._advance(name)
        self.engines[name].slow = OWNER_SLOWS if is_busy else 1.0
        if is_busy:
            self._busy_owner.add(name)
        else:
            self._busy_owner.discard(name)
        self._on_engine(name, lambda engine: engine.refresh())

    def _report(self, name: str) -> None:
        engine = self.engines[name]
        if not engine.is_up:
            return
        told = engine.report()
        is_first = name not in self._told
        percent = OWNER_PERCENT if name in self._busy_owner else 0.0
        report = NodeReport(
            node_id=name,
            boot=1,
            seq=next(self._seqs),
            name=name,
            relay_port=11436,
            platform=engine.machine.platform if is_first else None,
            vitals=engine.machine.vitals(engine.used_gb, percent),
            engines=None if self._told.get(name) == told else (told,),
        )
        self._told[name] = told
        self.fleet = apply(self.fleet, NodeReported(report, "10.0.0.1"), self.now_s)
        self._do(self._policy.passed(self.fleet, self.now_s))

    def _tick(self) -> None:
        heartbeat_s = min(self._conditions.heartbeat_s, 2.0)
        if self._conditions.heartbeat_s > heartbeat_s:
            heartbeat_s = self._conditions.heartbeat_s / 2
        self.fleet = apply(self.fleet, TimePassed(heartbeat_s), self.now_s)
        self._do(self._policy.passed(self.fleet, self.now_s))

    def _outcome(self) -> Outcome:
        horizon_s = self._conditions.horizon_s
        found = Outcome(failed=self._failed, hours=max(self.now_s, 1.0) / 3600)
        found.loads = sum(engine.loads for engine in self.engines.values())
        waited = (self.now_s - self.asked[key].arrived_s for key in self._open)
        found.starved = sum(seconds >= STARVED_S for seconds in waited)
        found.requests = len(self.asked)
        for asked in self.asked.values():
            if asked.arrived_s < WARM_UP_SHARE * horizon_s:
                continue
            first_s = asked.first_s if asked.first_s >= 0 else self.now_s
            done_s = asked.done_s if asked.done_s >= 0 else self.now_s
            found.ttft_s.append(first_s - asked.arrived_s)
            found.total_s.append(done_s - asked.arrived_s)
            found.slowdown.append((done_s - asked.arrived_s) / asked.ideal_s)
        return found


def _times(rng: Random, per_hour: float, horizon_s: float) -> Iterator[float]:
    at_s = 0.0
    while per_hour > 0:
        at_s += rng.expovariate(per_hour / 3600)
        if at_s >= horizon_s:
            return
        yield at_s


def _alone_s(truth: Truth, machine: Machine, model: str, turn: Turn) -> float:
    """The whole answer's time on this machine, loaded, idle, nothing cached."""
    rates = truth.rates(machine.name, model)
    prefill_s = attention_tokens(turn.prompt, 0.0) / rates.prefill_tokens_s
    if truth.specs[model].is_embedding:
        return prefill_s
    kv_s = rates.kv_s * (turn.prompt + turn.output / 2)
    return prefill_s + (turn.output - 1) * (rates.step_s + kv_s)
