"""Which idle replicas get a canary, and what comes of one that hangs."""

from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest

from ollama_herd.core.canary import AT_ONCE, Canaries, CanarySettings
from ollama_herd.core.decision import Eliminated
from ollama_herd.core.fleet import NodeReported, RunnersStuck, apply
from ollama_herd.core.node import EngineKind, LoadedModel, NoticedBy
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Kind, OutcomeKind
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from ollama_herd.core.silence import SilenceLimits
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "m:7b"
TIME_S = 1.7e9
EVERY_S = 100.0
FOR_EVER = "2319-01-01T00:00:00Z"
LIMITS = SilenceLimits(hedge_floor_s=10, hedge_ceiling_s=120)


def at(time_s):
    return datetime.fromtimestamp(time_s, UTC).isoformat()


def loaded_report(node_id, seq=1, expires_at=FOR_EVER, names=(NAME,), can=(), **more):
    listed = tuple(
        LoadedModel(name=n, size_bytes=1, context_length=4096, expires_at=expires_at) for n in names
    )
    one = engine([model(n, capabilities=can) for n in names], slots=4, **more)
    return report(node_id, [msgspec.structs.replace(one, loaded=listed)], seq=seq)


class Case:
    def __init__(self, *node_ids, every_s=EVERY_S, **more):
        self.scheduler = Scheduler(QueueSettings(), Predictor())
        self.load = self.scheduler.load
        self.canaries = Canaries(self.load, CanarySettings(every_s=every_s, silence=LIMITS))
        self.now_s = 1.0
        self.fleet = fleet_of([loaded_report(n, **more) for n in node_ids], self.now_s)
        self.seq = 1
        self.more = more

    def serve(self, outcome=OutcomeKind.COMPLETED, **more):
        """One request from beginning to end; the node that had it."""
        asked = request(NAME, self.now_s, **more)
        (grant,) = self.scheduler.on_request(asked, self.fleet, self.now_s)
        self.scheduler.on_finished(asked.request_id, outcome, None, self.fleet, self.now_s)
        return grant.decision.winner.replica.node_id

    def say(self, *node_ids, **more):
        self.seq += 1
        self.more = more
        for node_id in node_ids:
            event = NodeReported(loaded_report(node_id, self.seq, **more), "10.0.0.1")
            self.fleet = apply(self.fleet, event, self.now_s)
        self.scheduler.on_fleet(self.fleet, self.now_s)

    def plan(self, after_s=0.0):
        self.now_s += after_s
        self.say(*self.fleet.nodes, **self.more)
        return self.canaries.plan(self.fleet, self.now_s, TIME_S + self.now_s)

    def end(self, canary, outcome):
        self.canaries.ended(canary, outcome, self.now_s)


def test_an_idle_replica_is_asked_as_it_was_asked_last():
    case = Case("a")
    case.serve(load_options=(("num_ctx", 4096),))
    assert case.plan(EVERY_S - 10) == []
    (canary,) = case.plan(11)
    assert canary.replica.node_id == "a"
    assert canary.request.load_options == (("num_ctx", 4096),)
    assert canary.patience_s == LIMITS.hedge_ceiling_s
    case.end(canary, OutcomeKind.COMPLETED)
    assert case.plan(EVERY_S - 10) == []
    assert len(case.plan(11)) == 1


def test_a_model_that_makes_pictures_is_not_asked():
    case = Case("a", can=("image",))
    case.serve(kind=Kind.IMAGE, work=20)
    assert case.plan(10 * EVERY_S) == []


def test_what_never_answered_here_is_not_asked():
    """Its load options are not known, and other ones would load it anew."""
    assert Case("a").plan(10 * EVERY_S) == []


def test_a_report_from_before_the_last_request_is_not_trusted():
    """It may still tell of the window that this request had loaded anew."""
    case = Case("a")
    case.now_s += EVERY_S
    case.serve()
    case.scheduler.on_fleet(case.fleet, case.now_s)
    assert case.canaries.plan(case.fleet, case.now_s + 2 * EVERY_S, TIME_S) == []
    assert len(case.plan(2 * EVERY_S + 10)) == 1


def test_none_when_switched_off():
    case = Case("a", every_s=0.0)
    case.serve()
    assert case.plan(10 * EVERY_S) == []


def test_a_busy_node_is_left_in_peace():
    case = Case("a", names=(NAME, "other:1b"))
    case.serve()
    asked = request("other:1b", case.now_s)
    case.scheduler.on_request(asked, case.fleet, case.now_s)
    assert case.plan(2 * EVERY_S) == []


def test_what_is_not_loaded_is_never_asked():
    case = Case("a")
    case.serve()
    case.now_s += EVERY_S
    case.say("a", names=())
    assert case.plan(EVERY_S) == []


def test_a_reload_by_somebody_else_ends_the_asking():
    case = Case("a")
    case.serve()
    case.now_s += 50
    case.say("a")
    one = msgspec.structs.replace(case.fleet.nodes["a"].engines[0].loaded[0], context_length=8192)
    reloaded = msgspec.structs.replace(case.fleet.nodes["a"].engines[0], loaded=(one,))
    event = NodeReported(report("a", [reloaded], seq=99), "10.0.0.1")
    case.fleet = apply(case.fleet, event, case.now_s)
    case.scheduler.on_fleet(case.fleet, case.now_s)
    assert case.canaries.plan(case.fleet, case.now_s + EVERY_S, TIME_S) == []


@pytest.mark.parametrize(("keep_s", "is_asked"), [(250, True), (150, False)])
def test_an_idle_model_is_not_kept_alive(keep_s, is_asked):
    """With less left than it has been idle, it is left to be unloaded."""
    case = Case("a", expires_at=at(TIME_S + 1 + keep_s))
    case.serve()
    assert bool(case.plan(EVERY_S + 1)) is is_asked


def test_canaries_become_rarer():
    case = Case("a")
    case.serve()
    times = []
    for _ in range(40_000 // 50):
        for canary in case.plan(50):
            times.append(case.now_s)
            case.end(canary, OutcomeKind.COMPLETED)
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] <= EVERY_S + 50
    assert 10 * EVERY_S <= gaps[-1] <= 10 * EVERY_S + 50


def test_an_engine_that_tells_no_expiry_is_asked_for_a_while():
    case = Case("a", kind=EngineKind.OPENAI, expires_at="")
    case.serve()
    asked_at = []
    for _ in range(40):
        for canary in case.plan(50):
            asked_at.append(case.now_s)
            case.end(canary, OutcomeKind.COMPLETED)
    assert asked_at
    assert max(asked_at) <= 601


def test_few_at_once():
    case = Case(*(f"n{i}" for i in range(20)))
    asked = [request(NAME, case.now_s) for _ in range(20)]
    for one in asked:
        case.scheduler.on_request(one, case.fleet, case.now_s)
    for one in asked:
        case.scheduler.on_finished(
            one.request_id, OutcomeKind.COMPLETED, None, case.fleet, case.now_s
        )
    assert len(case.plan(2 * EVERY_S)) == AT_ONCE
    assert case.plan(6) == []


def stuck_case():
    """`a` has left a canary unanswered, `b` is fine."""
    case = Case("a", "b")
    while {case.serve(), case.serve()} != {"a"}:
        case.load.nodes["b"].pace.bias_decode += 1
    canary = next(c for c in case.plan(EVERY_S + 1) if c.replica.node_id == "a")
    case.now_s += canary.patience_s
    case.end(canary, OutcomeKind.SILENT)
    return case


def test_a_stuck_replica_is_taken_out_and_told_of():
    case = stuck_case()
    (stuck,) = case.load.stuck_runners()
    assert (stuck.node_id, stuck.noticed_by) == ("a", NoticedBy.CANARY)
    told = apply(case.fleet, RunnersStuck((stuck,)), case.now_s)
    assert told.stuck == (stuck,)
    assert apply(told, RunnersStuck((stuck,)), case.now_s) is told
    assert apply(told, RunnersStuck(()), case.now_s).stuck == ()
    asked = request(NAME, case.now_s)
    for _ in range(10):
        case.now_s += 10
        assert case.serve() == "b"
    (grant,) = case.scheduler.on_request(asked, case.fleet, case.now_s)
    assert [r.reason for r in grant.decision.eliminated] == [Eliminated.FAILING]


def test_the_only_one_is_asked_all_the_same():
    case = Case("a")
    case.serve()
    (canary,) = case.plan(EVERY_S + 1)
    case.end(canary, OutcomeKind.SILENT)
    assert case.load.stuck_runners()
    assert case.serve() == "a"
    assert case.load.stuck_runners() == ()


def test_it_is_back_when_it_answers():
    case = stuck_case()
    for _ in range(3):
        canaries = [c for c in case.plan(70) if c.replica.node_id == "a"]
        assert canaries[0].patience_s == LIMITS.hedge_floor_s
        case.end(canaries[0], OutcomeKind.SILENT)
    (canary,) = [c for c in case.plan(70) if c.replica.node_id == "a"]
    case.end(canary, OutcomeKind.COMPLETED)
    assert case.load.stuck_runners() == ()
    assert case.serve() == "a"


def test_a_restarted_engine_is_no_longer_stuck():
    case = stuck_case()
    case.now_s += 10
    case.say("a", names=())
    assert case.load.stuck_runners() == ()


def test_a_request_on_the_way_says_more_than_its_canary():
    """The engine worked for a client meanwhile: it was busy, not stuck."""
    case = Case("a")
    case.serve()
    (canary,) = case.plan(EVERY_S + 1)
    case.now_s += 5
    case.serve()
    case.end(canary, OutcomeKind.SILENT)
    assert case.load.stuck_runners() == ()


def test_a_silent_request_makes_it_a_suspect():
    case = Case("a", "b")
    case.serve()
    node_id = case.serve()
    while case.serve(OutcomeKind.SILENT) != node_id:
        case.serve()
    canaries = [c for c in case.plan(6) if c.replica.node_id == node_id]
    assert [c.patience_s for c in canaries] == [LIMITS.hedge_floor_s]


@pytest.mark.parametrize("every_s", [0.0, EVERY_S])
def test_requests_alone_show_it_too(every_s):
    case = Case("a", every_s=every_s)
    case.serve()
    for _ in range(3):
        assert case.load.stuck_runners() == ()
        case.serve(OutcomeKind.SILENT)
    (stuck,) = case.load.stuck_runners()
    assert stuck.noticed_by is NoticedBy.REQUESTS
    case.serve()
    assert case.load.stuck_runners() == ()


def test_what_cannot_be_asked_is_not_asked_again():
    case = Case("a")
    case.serve()
    (canary,) = case.plan(EVERY_S + 1)
    case.end(canary, OutcomeKind.CLIENT_ERROR)
    assert case.plan(5 * EVERY_S) == []
    case.serve()
    assert len(case.plan(EVERY_S + 1)) == 1
