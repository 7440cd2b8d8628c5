"""Requests for pictures and speech: who is able, what they cost, what is learned of them."""

import pytest

from ollama_herd.core.abilities import is_able, purpose
from ollama_herd.core.decision import Eliminated
from ollama_herd.core.node import EngineKind, Model
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Kind, OutcomeKind, RefusalKind
from ollama_herd.core.routing import decide
from ollama_herd.core.scheduler import Grant, QueueSettings, Refuse, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "flux"
OLLAMA, OPENAI = EngineKind.OLLAMA, EngineKind.OPENAI


def fleet(kind=OPENAI, can=("image",), nodes=("a",)):
    one = engine([model(NAME, capabilities=can)], kind=kind)
    return fleet_of([report(node, [one]) for node in nodes], 0.0)


def wanted(request_id="r", now_s=0.0, work=20, kind=Kind.IMAGE, **more):
    more = {"stream": False, "prompt_tokens": 0, **more}
    return request(NAME, now_s, request_id=request_id, kind=kind, work=work, **more)


@pytest.mark.parametrize(
    ("engine_kind", "can", "image", "speech"),
    [
        (OLLAMA, ("image",), True, False),
        (OLLAMA, ("completion", "audio"), False, True),
        (OLLAMA, ("completion",), False, False),
        (OLLAMA, (), True, True),
        (OPENAI, ("image",), True, False),
        (OPENAI, ("transcription",), False, True),
        (OPENAI, ("completion",), True, True),
        (OPENAI, (), True, True),
    ],
)
def test_who_is_able(engine_kind, can, image, speech):
    (replica,) = fleet(engine_kind, can).replicas[f"{NAME}:latest"]
    assert (is_able(replica, Kind.IMAGE), is_able(replica, Kind.SPEECH)) == (image, speech)


@pytest.mark.parametrize(
    ("can", "what"),
    [
        (("image",), "image"),
        (("transcription",), "speech"),
        (("embedding",), "embedding"),
        (("completion", "audio"), "text"),
        ((), "text"),
    ],
)
def test_what_a_model_is_for(can, what):
    assert purpose(Model(name="m", capabilities=can)) == what


def test_a_model_for_something_else_is_refused_in_so_many_words():
    scheduler = Scheduler(QueueSettings(), Predictor())
    (refuse,) = scheduler.on_request(wanted(), fleet(can=("transcription",)), 0.0)
    assert isinstance(refuse, Refuse)
    assert refuse.refusal.kind is RefusalKind.WRONG_KIND
    assert "makes no pictures" in refuse.refusal.message
    hears = wanted("s", kind=Kind.SPEECH)
    (refuse,) = scheduler.on_request(hears, fleet(), 0.0)
    assert "does not write down speech" in refuse.refusal.message


def test_only_those_that_are_able_are_candidates():
    able, other = (
        report(node, [engine([model(NAME, digest="d", capabilities=can)], kind=OPENAI)])
        for node, can in (("a", ("image",)), ("b", ("transcription",)))
    )
    scheduler = Scheduler(QueueSettings(), Predictor())
    (grant,) = scheduler.on_request(wanted(), fleet_of([able, other], 0.0), 0.0)
    assert isinstance(grant, Grant)
    assert [c.replica.node_id for c in grant.decision.candidates] == ["a"]
    assert [r.reason for r in grant.decision.eliminated] == [Eliminated.MISSING_CAPABILITY]


def test_the_speed_of_pictures_is_learned_by_their_work():
    scheduler, makers = Scheduler(QueueSettings(), Predictor()), fleet()
    now_s = 0.0
    for number in range(20):  # half a second a step, whatever the number of steps
        work = 10 + number
        (grant,) = scheduler.on_request(wanted(f"r{number}", now_s, work=work), makers, now_s)
        now_s += work * 0.5
        asked = grant.request_id
        scheduler.on_first_byte(asked, now_s)
        scheduler.on_finished(asked, OutcomeKind.COMPLETED, None, makers, now_s)
        now_s += 1.0
    predictor = scheduler.load.predictor
    short, long = (
        decide(wanted("x", now_s, work=work), makers, scheduler.load, predictor, now_s)
        .candidates[0]
        .cost.total_ms
        for work in (10, 100)
    )
    assert 4_000 < short < 10_000
    assert 8 < long / short < 12


def test_pictures_wait_for_the_quicker_machine_only_as_long_as_it_pays():
    """Two machines and three pictures: two at once, the third waits for the first that is free."""
    scheduler, makers = Scheduler(QueueSettings(), Predictor()), fleet(nodes=("a", "b"))
    effects = [e for n in range(3) for e in scheduler.on_request(wanted(f"r{n}"), makers, 0.0)]
    assert {e.decision.winner.replica.node_id for e in effects} == {"a", "b"}
    assert len(effects) == 2
    freed = scheduler.on_finished("r0", OutcomeKind.COMPLETED, None, makers, 9.0)
    assert [e.request_id for e in freed] == ["r2"]
