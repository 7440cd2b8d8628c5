"""Second tries: of silent requests, of failing replicas; and when a silence is suspicious."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.decision import Eliminated
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.retry import may_hedge, may_retry
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from ollama_herd.core.silence import (
    Expectation,
    SilenceLimits,
    first_byte_patience_s,
    stall_patience_s,
)
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "m:7b"
LIMITS = SilenceLimits()
AMOUNT = st.floats(0, 1e5)


def fleet(*node_ids, slots=4, seq=1, now_s=0.0):
    reports = [report(n, [engine([model(NAME)], (NAME,), slots=slots)], seq=seq) for n in node_ids]
    return fleet_of(reports, now_s)


class Case:
    """A scheduler over a fleet of idle nodes that have the model loaded."""

    def __init__(self, *node_ids, slots=4):
        self.scheduler = Scheduler(QueueSettings(), Predictor())
        self.fleet = fleet(*node_ids, slots=slots)
        self.now_s = 1.0
        self.number = 0

    def ask(self):
        self.number += 1
        asked = request(NAME, self.now_s, request_id=f"r{self.number}")
        (grant,) = self.scheduler.on_request(asked, self.fleet, self.now_s)
        assert isinstance(grant, Grant)
        return asked.request_id, grant.decision.winner.replica.node_id

    def hedge(self, request_id):
        twin_id = f"{request_id}+"
        grant = self.scheduler.on_hedge(request_id, twin_id, self.fleet, self.now_s)
        return None if grant is None else grant.decision.winner.replica.node_id

    def end(self, request_id, outcome=OutcomeKind.COMPLETED):
        self.scheduler.on_finished(request_id, outcome, None, self.fleet, self.now_s)

    def in_flight(self):
        return self.scheduler.queue(self.now_s).in_flight

    def tick(self, seconds=1.0):
        self.now_s += seconds
        self.scheduler.on_fleet(self.fleet, self.now_s)


def test_a_hedge_goes_to_another_node_and_both_end_once():
    case = Case("a", "b")
    request_id, silent = case.ask()
    assert case.hedge(request_id) == ({"a", "b"} - {silent}).pop()
    assert case.in_flight() == 2
    case.scheduler.on_lost(request_id, OutcomeKind.SILENT, "r1+", case.fleet, case.now_s)
    assert case.in_flight() == 1
    case.end("r1+")
    assert case.in_flight() == 0
    case.end(request_id)
    case.end("r1+")
    assert case.in_flight() == 0


def test_weights_that_become_known_meanwhile_bring_no_node_a_second_try():
    def said(node_id, weights, seq):
        has = model(NAME, weights=weights)
        return report(node_id, [engine([has], (NAME,), slots=4)], seq=seq)

    case = Case("a", "b")
    case.fleet = fleet_of([said(n, "", 1) for n in "ab"])
    request_id, silent = case.ask()
    case.fleet = fleet_of([said(n, "w", 2) for n in "ab"], fleet=case.fleet)
    other = ({"a", "b"} - {silent}).pop()
    failed = OutcomeKind.ENGINE_ERROR
    (grant,) = case.scheduler.on_retry(request_id, failed, case.fleet, case.now_s)
    assert grant.decision.winner.replica.node_id == other
    assert [r.reason for r in grant.decision.eliminated] == [Eliminated.ALREADY_TRIED]


def test_there_is_no_hedge_without_another_node():
    case = Case("a")
    request_id, _ = case.ask()
    assert case.hedge(request_id) is None
    assert case.in_flight() == 1


def test_one_hedge_in_ten_requests():
    case = Case("a", "b", slots=16)
    ids = [case.ask()[0] for _ in range(9)]
    assert sum(case.hedge(i) is not None for i in ids) == 1


def test_a_second_try_that_won_leaves_room_for_the_next():
    """However long its answer is: only where two tries are under way it is more work."""
    case = Case("a", "b", slots=16)
    asked = [case.ask() for _ in range(8)]
    (first, _), *_ = others = [one for one in asked if one[1] == asked[0][1]]
    assert len(others) > 1
    assert case.hedge(first)
    assert case.hedge(others[1][0]) is None
    case.scheduler.on_lost(first, OutcomeKind.CANCELLED, f"{first}+", case.fleet, case.now_s)
    assert case.hedge(others[1][0])
    assert case.hedge(others[2][0]) is None


def test_all_that_a_hanging_runner_holds_is_moved():
    case = Case("a", "b", slots=16)
    asked = [case.ask() for _ in range(12)]
    held = [request_id for request_id, node_id in asked if node_id == asked[0][1]]
    assert len(held) > 2
    assert case.hedge(held[0])
    assert case.hedge(held[1]) is None
    case.scheduler.on_lost(held[0], OutcomeKind.SILENT, f"{held[0]}+", case.fleet, case.now_s)
    assert all(case.hedge(request_id) for request_id in held[1:])


def test_a_long_answer_is_not_waited_for_where_another_request_met_silence():
    case = Case("a", "b", slots=16)
    asked = [case.ask() for _ in range(12)]
    silent, whole, *_ = [request_id for request_id, node_id in asked if node_id == asked[0][1]]
    elsewhere = next(request_id for request_id, node_id in asked if node_id != asked[0][1])

    def patience_s(request_id):
        expected = case.scheduler.load.running[request_id].expectation()
        return first_byte_patience_s(LIMITS, expected, is_whole=True)

    assert patience_s(whole) > LIMITS.hedge_floor_s
    case.tick(60)
    case.hedge(silent)
    case.scheduler.on_lost(silent, OutcomeKind.SILENT, f"{silent}+", case.fleet, case.now_s)
    assert patience_s(whole) == LIMITS.hedge_floor_s
    assert patience_s(elsewhere) > LIMITS.hedge_floor_s


def test_whoever_loses_is_not_asked_again():
    case = Case("a", "b")
    request_id, _ = case.ask()
    case.hedge(request_id)
    case.scheduler.on_lost("r1+", OutcomeKind.CLOSED_EARLY, request_id, case.fleet, case.now_s)
    (refuse,) = case.scheduler.on_retry(request_id, OutcomeKind.SILENT, case.fleet, case.now_s)
    assert not isinstance(refuse, Grant)
    assert case.in_flight() == 0


def test_a_dead_node_costs_three_tries_and_then_one_a_rest():
    """Silent on `dead`: three blamed losses, then only one probe at a time once it has rested."""
    case = Case("a", "b")
    wasted = 0
    for _ in range(40):
        request_id, node_id = case.ask()
        if node_id == "a":
            wasted += 1
            assert case.hedge(request_id) == "b"
            case.scheduler.on_lost(
                request_id, OutcomeKind.SILENT, f"{request_id}+", case.fleet, case.now_s
            )
            case.end(f"{request_id}+")
        else:
            case.end(request_id)
    assert wasted <= 3
    case.tick(120)
    probing = [case.ask() for _ in range(4)]
    assert sum(node_id == "a" for _, node_id in probing) <= 1


def test_an_answer_makes_it_one_of_the_others_again():
    case = Case("a", "b")
    for _ in range(3):
        request_id, _ = case.ask()
        load = case.scheduler.load.running[request_id].replica
        case.end(request_id, OutcomeKind.SILENT)
        case.tick(200)
    assert load.failures in (1, 2, 3)
    case.scheduler.load.absolve(load)
    assert not load.is_resting(case.now_s)
    assert not case.scheduler.load.barred


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_hedges_are_few(hedges, in_flight):
    if may_hedge(hedges, in_flight):
        assert hedges < 1 or hedges < 0.1 * in_flight


@given(st.integers(0, 20), st.integers(1, 20))
def test_tries_are_bounded(attempts, most):
    assert may_retry(attempts, most) == (attempts < most)


@given(AMOUNT, AMOUNT)
def test_patience_with_a_first_byte_is_bounded(first_s, step_s):
    expected = Expectation(first_s, step_s=step_s, output_tokens=100)
    patience_s = first_byte_patience_s(LIMITS, expected, is_whole=False)
    assert LIMITS.hedge_floor_s <= patience_s <= LIMITS.hedge_ceiling_s
    assert patience_s >= min(2 * first_s, LIMITS.hedge_ceiling_s)


@given(AMOUNT, st.floats(0, 10), st.floats(1, 1e4), st.none() | st.integers(1, 10_000))
def test_a_whole_answer_gets_the_time_of_its_tokens(first_s, step_s, output, most):
    expected = Expectation(first_s, step_s, output, most)
    streamed = first_byte_patience_s(LIMITS, expected, is_whole=False)
    whole = first_byte_patience_s(LIMITS, expected, is_whole=True)
    tokens = output if most is None else min(output, most)
    assert whole >= streamed + 2.9 * step_s * tokens


@given(st.integers(0, 10**6), AMOUNT)
def test_patience_with_a_stream_is_bounded(pieces, elapsed_s):
    patience_s = stall_patience_s(LIMITS, pieces, elapsed_s)
    assert LIMITS.stall_floor_s <= patience_s <= LIMITS.stall_ceiling_s
    buffered_s = stall_patience_s(LIMITS, pieces, elapsed_s, is_buffered=True)
    assert buffered_s >= patience_s


def test_a_slow_machine_is_given_longer_gaps():
    assert stall_patience_s(LIMITS, 100, 5.0) == LIMITS.stall_floor_s
    assert stall_patience_s(LIMITS, 100, 100.0) == 50.0


NAMES = tuple(f"m{i}:7b" for i in range(6))


def several(outcome):
    """One request for each of six models that `dead` and `good` have; how many reached `dead`."""
    scheduler = Scheduler(QueueSettings(), Predictor())
    models = [model(name) for name in NAMES]
    there = fleet_of([report(n, [engine(models, NAMES, slots=4)]) for n in ("dead", "good")])
    scheduler.on_fleet(there, 0.5)
    scheduler.load.nodes["good"].pace.bias_decode = 3.0
    wasted = []
    for number in range(30):
        asked = request(NAMES[number % len(NAMES)], 1.0, request_id=f"r{number}")
        (grant,) = scheduler.on_request(asked, there, 1.0)
        if grant.decision.winner.replica.node_id == "dead":
            wasted.append(asked.model)
            (grant,) = scheduler.on_retry(asked.request_id, outcome, there, 1.0)
        assert grant.decision.winner.replica.node_id == "good"
        scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, None, there, 1.0)
    return scheduler, there, wasted


@pytest.mark.parametrize(
    "outcome",
    [
        OutcomeKind.CLOSED_EARLY,
        OutcomeKind.GARBAGE,
        OutcomeKind.SILENT,
        OutcomeKind.UNREACHABLE,
        OutcomeKind.TRUNCATED,
        OutcomeKind.ENGINE_ERROR,
        OutcomeKind.ENGINE_BUSY,
    ],
)
def test_a_dead_node_costs_three_tries_over_all_of_its_models(outcome):
    _, _, wasted = several(outcome)
    assert 1 <= len(wasted) <= 3


def test_a_dead_node_is_tried_by_one_request_at_a_time():
    scheduler, there, _ = several(OutcomeKind.CLOSED_EARLY)
    scheduler.on_fleet(there, 50.0)
    asked = [request(name, 50.0) for name in NAMES]
    nodes = []
    for one in asked:
        (grant,) = scheduler.on_request(one, there, 50.0)
        nodes.append(grant.decision.winner.replica.node_id)
    assert nodes.count("dead") == 1


def test_one_answer_and_all_its_models_are_back():
    scheduler, there, _ = several(OutcomeKind.CLOSED_EARLY)
    scheduler.on_fleet(there, 50.0)
    first = request(NAMES[0], 50.0)
    (grant,) = scheduler.on_request(first, there, 50.0)
    assert grant.decision.winner.replica.node_id == "dead"
    scheduler.on_finished(first.request_id, OutcomeKind.COMPLETED, None, there, 50.0)
    for name in NAMES:
        one = request(name, 51.0)
        (grant,) = scheduler.on_request(one, there, 51.0)
        assert grant.decision.winner.replica.node_id == "dead"
        scheduler.on_finished(one.request_id, OutcomeKind.COMPLETED, None, there, 51.0)


def test_one_broken_model_does_not_bar_the_others():
    """Errors of one model alone say nothing of its engine."""
    scheduler = Scheduler(QueueSettings(), Predictor())
    models = [model(name) for name in NAMES]
    there = fleet_of([report(n, [engine(models, NAMES, slots=4)]) for n in ("bad", "good")])
    scheduler.on_fleet(there, 0.5)
    scheduler.load.nodes["good"].pace.bias_decode = 3.0
    for number in range(6):
        asked = request(NAMES[0], 1.0, request_id=f"r{number}")
        (grant,) = scheduler.on_request(asked, there, 1.0)
        if grant.decision.winner.replica.node_id == "bad":
            scheduler.on_retry(asked.request_id, OutcomeKind.ENGINE_ERROR, there, 1.0)
        scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, None, there, 1.0)
    (grant,) = scheduler.on_request(request(NAMES[1], 1.0), there, 1.0)
    assert grant.decision.winner.replica.node_id == "bad"
