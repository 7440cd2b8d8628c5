"""A small world of engines with known speeds, driven by the scheduler under test.

Fluid: a model's decoding slows by `alpha` for each further sequence and by the number of models
busy on the machine; prompts are evaluated beside it. Reports come every two seconds.
"""

import itertools
from dataclasses import dataclass, field

import msgspec

from ollama_herd.core.fleet import Fleet, TimePassed, apply
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import LoadedModel
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Kind, OutcomeKind, Usage
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from tests.core.fleets import fleet_of

REPORT_S = 2.0


@dataclass
class Truth:
    """How fast a machine really is; `slow` multiplies every time there."""

    prefill_s: float = 1 / 800
    step_s: float = 1 / 60
    load_s: float = 4.0
    alpha: float = 0.4


@dataclass(eq=False)
class Job:
    request: object
    output: int
    node_id: str = ""
    runner: str = ""
    granted_s: float = -1.0
    first_s: float = -1.0
    done_s: float = -1.0
    phases: list = field(default_factory=list)  # [name, work left]
    spent: dict = field(default_factory=dict)
    refused: object = None


class World:
    def __init__(self, reports, truths, settings=None, predictor=None):
        self.now_s = 0.0
        self.reports = {r.node_id: r for r in reports}
        self.truths = truths
        self.scheduler = Scheduler(settings or QueueSettings(), predictor or Predictor())
        self.fleet = fleet_of(reports, 0.0, Fleet())
        self.seq = itertools.count(2)
        self.loaded = {
            r.node_id: {canonical_name(m.name) for e in r.engines for m in e.loaded}
            for r in reports
        }
        self.jobs = {}
        self.running = []
        self.done = []
        self.peak = {}

    def truth(self, job):
        return self.truths[job.node_id]

    def run(self, arrivals, until_s=float("inf")):
        """`arrivals`: (time, request, output tokens). Until all are done, or `until_s`."""
        arrivals = sorted(arrivals, key=lambda a: a[0])
        next_report = self.now_s + REPORT_S
        while self.now_s < until_s and (arrivals or self.open_jobs()):
            steps = [next_report - self.now_s]
            if arrivals:
                steps.append(arrivals[0][0] - self.now_s)
            steps += [job.phases[0][1] / self.rate(job) for job in self.running]
            self.advance(max(min(steps), 1e-9))
            if self.now_s >= next_report - 1e-9:
                next_report += REPORT_S
                self.report()
            while arrivals and arrivals[0][0] <= self.now_s + 1e-9:
                _, request, output = arrivals.pop(0)
                self.jobs[request.request_id] = Job(request, output)
                self.take(self.scheduler.on_request(request, self.fleet, self.now_s))
        return self.done

    def open_jobs(self):
        return [j for j in self.jobs.values() if j.done_s < 0 and j.refused is None]

    def rate(self, job):
        mates = [j for j in self.running if j.node_id == job.node_id]
        models = len({j.runner for j in mates})
        if job.phases[0][0] == "load":
            return 1.0
        rate = 1 / models
        if job.phases[0][0] == "decode":
            same = sum(1 for j in mates if j.runner == job.runner)
            rate /= 1 + self.truth(job).alpha * (same - 1)
        return rate

    def advance(self, seconds):
        rates = [(job, self.rate(job)) for job in self.running]
        self.now_s += seconds
        for job, rate in rates:
            phase = job.phases[0]
            phase[1] -= rate * seconds
            job.spent[phase[0]] = job.spent.get(phase[0], 0.0) + seconds
        for job, _ in rates:
            while job.phases and job.phases[0][1] <= 1e-9:
                job.phases.pop(0)
                if job.first_s < 0 and len(job.phases) <= 1:
                    job.first_s = self.now_s
                    if job.request.stream:
                        self.scheduler.on_first_byte(job.request.request_id, self.now_s)
            if not job.phases:
                self.finish(job)

    def finish(self, job):
        job.done_s = self.now_s
        self.running.remove(job)
        self.done.append(job)
        usage = Usage(
            prompt_tokens=job.request.prompt_tokens,
            output_tokens=job.output if job.request.kind is not Kind.EMBED else None,
            load_ms=1e3 * job.spent.get("load", 0.0),
            prefill_ms=1e3 * job.spent.get("prefill", 0.0),
            decode_ms=1e3 * job.spent.get("decode", 0.0),
        )
        self.take(
            self.scheduler.on_finished(
                job.request.request_id, OutcomeKind.COMPLETED, usage, self.fleet, self.now_s
            )
        )

    def take(self, effects):
        for effect in effects:
            job = self.jobs[effect.request_id]
            if not isinstance(effect, Grant):
                job.refused = effect.refusal
                continue
            replica = effect.decision.winner.replica
            job.node_id, job.runner = replica.node_id, replica.runner
            job.granted_s = self.now_s
            truth, key = self.truth(job), job.request.model_key
            if key not in self.loaded[job.node_id]:
                self.loaded[job.node_id].add(key)
                job.phases.append(["load", truth.load_s])
            job.phases.append(["prefill", job.request.prompt_tokens * truth.prefill_s])
            job.phases.append(["decode", job.output * truth.step_s])
            self.running.append(job)
            same = [j for j in self.running if (j.node_id, j.runner) == (job.node_id, job.runner)]
            slot = (job.node_id, job.runner)
            self.peak[slot] = max(self.peak.get(slot, 0), len(same))

    def report(self):
        for node_id, told in self.reports.items():
            engines = tuple(
                msgspec.structs.replace(
                    e,
                    loaded=tuple(
                        LoadedModel(name=m.name, size_bytes=m.size_bytes, context_length=4096)
                        for m in e.models
                        if canonical_name(m.name) in self.loaded[node_id]
                    ),
                )
                for e in told.engines
            )
            heard = msgspec.structs.replace(told, engines=engines, seq=next(self.seq))
            self.fleet = fleet_of([heard], self.now_s, self.fleet)
        self.fleet = apply(self.fleet, TimePassed(REPORT_S), self.now_s)
        self.take(self.scheduler.on_fleet(self.fleet, self.now_s))
