"""A scheduler on its own, with its fleet and its clock."""

from ollama_herd.core.node import Platform
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "m:7b"
USAGE = Usage(prompt_tokens=200, output_tokens=100, load_ms=1.0, prefill_ms=300.0, decode_ms=900.0)
FAST = Platform(system="darwin", machine="arm64", chip="Apple M3 Ultra")
SLOW = Platform(system="darwin", machine="arm64", chip="Apple M1")


def node(node_id="a", names=(NAME,), loaded=(NAME,), slots=1, **more):
    return report(node_id, [engine([model(n) for n in names], loaded, slots=slots)], **more)


class Case:
    """A scheduler, its fleet and its clock, with shorter names."""

    def __init__(self, *reports, **settings):
        self.scheduler = Scheduler(QueueSettings(**settings), Predictor())
        self.fleet = fleet_of(reports)
        self.now_s = 0.0
        self.asked = {}
        self.granted = {}  # request id -> (request, when)

    def take(self, effects):
        for effect in effects:
            if isinstance(effect, Grant):
                self.granted[effect.request_id] = (self.asked[effect.request_id], self.now_s)
        return effects

    def ask(self, name=NAME, **more):
        asked = request(name, self.now_s, **more)
        self.asked[asked.request_id] = asked
        effects = self.take(self.scheduler.on_request(asked, self.fleet, self.now_s))
        return asked, next((e for e in effects if e.request_id == asked.request_id), None)

    def end(self, asked, outcome=OutcomeKind.COMPLETED, usage=USAGE):
        self.granted.pop(asked.request_id, None)
        return self.take(
            self.scheduler.on_finished(asked.request_id, outcome, usage, self.fleet, self.now_s)
        )

    def retry(self, asked, outcome=OutcomeKind.ENGINE_ERROR):
        return self.scheduler.on_retry(asked.request_id, outcome, self.fleet, self.now_s)

    def tick(self, seconds=1.0):
        self.now_s += seconds
        return self.take(self.scheduler.on_fleet(self.fleet, self.now_s))

    def hear(self, *reports):
        self.fleet = fleet_of(reports, self.now_s, self.fleet)
        return self.scheduler.on_fleet(self.fleet, self.now_s)


def place(effect):
    return effect.decision.winner.replica.node_id
