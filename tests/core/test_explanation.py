"""An explanation is the decision itself, and asking changes nothing."""

import msgspec
import pytest

from ollama_herd.core.node import Model
from ollama_herd.core.predict import Predictor
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

MODEL = "llama3.2:3b"


def herd():
    reports = [
        report("a", [engine([model()], loaded=[MODEL])]),
        report("b", [engine([model()])]),
        report("c", [engine([Model(name=MODEL, size_bytes=10**15)])]),
    ]
    fleet = fleet_of(reports)
    scheduler = Scheduler(QueueSettings(), Predictor())
    scheduler.on_fleet(fleet, 0.0)
    return scheduler, fleet


def test_it_is_what_then_happens() -> None:
    scheduler, fleet = herd()
    asked = request(MODEL, prompt_tokens=3000)
    told = scheduler.explain(asked, 1.0)
    again = scheduler.explain(asked, 1.0)
    (grant,) = scheduler.on_request(asked, fleet, 1.0)
    assert isinstance(grant, Grant)
    assert [c.cost for c in told.choices] == [c.cost for c in grant.decision.candidates]
    assert [(x.node, x.reason) for x in told.excluded] == [("c", "does_not_fit")]
    assert told == again
    assert told.verdict == "it goes to a at once, which is loaded"


def test_terms_add_up_and_times_are_in_order() -> None:
    scheduler, fleet = herd()
    for _ in range(3):
        scheduler.on_request(request(MODEL), fleet, 1.0)
    told = scheduler.explain(request(MODEL, prompt_tokens=900), 2.0)
    for choice in told.choices:
        terms = msgspec.structs.astuple(choice.cost)
        assert terms[0] == pytest.approx(sum(terms[1:]))
        assert 0 <= choice.ready_ms <= choice.first_token_ms <= choice.total_ms


def test_the_verdict_says_who_is_waited_for() -> None:
    scheduler, fleet = herd()
    assert "no node of the fleet has nothing" in scheduler.explain(request("nothing"), 0.0).verdict
    while scheduler.on_request(request(MODEL), fleet, 1.0):
        pass
    told = scheduler.explain(request(MODEL), 1.5)
    assert told.waiting == 1
    assert told.verdict.startswith("it waits behind 1 of llama3.2:3b")
