"""What is made for every request costs the garbage collector nothing."""

import gc

from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Attempt, OutcomeKind, Usage
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from ollama_herd.core.trace import Trace
from tests.core.fleets import engine, fleet_of, model, report, request


def test_values_of_a_request_are_not_tracked():
    fleet = fleet_of([report("a", [engine([model()])]), report("b", [])])
    asked = request()
    (grant,) = Scheduler(QueueSettings(), Predictor()).on_request(asked, fleet, 0.0)
    winner = grant.decision.winner
    attempt = Attempt("a", "ollama-11434", "m", OutcomeKind.COMPLETED)
    usage = Usage(prompt_tokens=1)
    trace = Trace(asked, 0.0, 1.0, 0.0, 1.0, 200, "", grant.decision, (attempt,), usage)
    made = [asked, grant, grant.decision, winner, winner.cost, attempt, usage, trace]
    assert [value for value in made if gc.is_tracked(value)] == []
