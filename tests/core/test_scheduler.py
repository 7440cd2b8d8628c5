"""Queueing, one behaviour at a time; `test_scheduler_machine.py` mixes them all."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_herd.core.fleet import NodeDrained, TimePassed, apply
from ollama_herd.core.node import Gpu, Platform, Vitals
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Priority, RefusalKind
from ollama_herd.core.routing import decide
from ollama_herd.core.scheduler import Grant, QueueSettings, Refuse, Scheduler
from ollama_herd.core.turns import STARVED_S
from tests.core.cases import FAST, NAME, SLOW, Case, node, place
from tests.core.fleets import GB, engine, fleet_of, model, report, request
from tests.core.simulation import Truth, World

# -- late binding ------------------------------------------------------------------------------


def test_a_request_waits_for_its_slot_and_gets_it_when_it_frees():
    case = Case(node())
    first, granted = case.ask()
    assert isinstance(granted, Grant)
    second, held = case.ask()
    assert held is None
    case.now_s = 3.0
    (effect,) = case.end(first)
    assert effect.request_id == second.request_id


def test_a_slot_is_taken_also_when_the_weights_become_known_meanwhile():
    def said(weights, seq):
        return report("a", [engine([model(NAME, weights=weights)], (NAME,))], seq=seq)

    case = Case(said("", 1))
    first, granted = case.ask()
    assert isinstance(granted, Grant)
    case.hear(said("sha256-1", 2))
    second, held = case.ask()
    assert held is None
    case.tick()
    assert second.request_id not in case.granted
    assert case.scheduler.queue(case.now_s).in_flight == 1
    (effect,) = case.end(first)
    assert effect.request_id == second.request_id
    case.end(second)
    assert case.scheduler.queue(case.now_s).in_flight == 0
    assert len(case.scheduler.load.replicas) == 1


def test_a_waiting_request_goes_to_whichever_node_frees_first():
    case = Case(node("a"), node("b"))
    on_a, _ = case.ask()
    on_b, grant = case.ask()
    assert place(grant) == "b"
    waiting, _ = case.ask()
    case.now_s = 2.0
    (effect,) = case.end(on_b)
    assert (effect.request_id, place(effect)) == (waiting.request_id, "b")
    assert not case.end(on_a)


def test_a_request_rather_waits_for_a_fast_machine_than_takes_a_slow_one_now():
    case = Case(node("fast", platform=FAST), node("slow", platform=SLOW))
    first, _ = case.ask()
    _, held = case.ask(max_tokens=400)
    assert held is None
    effects = case.tick(0.2)
    assert effects == ()
    view = case.scheduler.queue(case.now_s)
    assert [(r.node_id, r.waiting) for r in view.replicas] == [("fast", 1)]
    assert case.end(first)


def test_a_backlog_spills_to_the_slow_machine():
    medium = Platform(system="darwin", machine="arm64", chip="Apple M2 Pro")
    case = Case(node("fast", platform=FAST), node("slow", platform=medium))
    for _ in range(20):
        case.ask()
    view = case.scheduler.queue(0.0)
    assert {r.node_id: r.in_flight for r in view.replicas} == {"fast": 1, "slow": 1}


def test_of_equal_requests_the_oldest_starts_on_the_slow_machine():
    """A later one sees the fast machine reserved and would start elsewhere before them."""
    medium = Platform(system="darwin", machine="arm64", chip="Apple M2 Pro")
    case = Case(node("fast", platform=FAST), node("slow", platform=medium))
    askeds = []
    while len(case.granted) < 2:
        askeds.append(case.ask()[0])
    assert len(askeds) > 2
    assert set(case.granted) == {askeds[0].request_id, askeds[1].request_id}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_tick_leaves_nobody_waiting_who_could_start(data):
    chips = ["Apple M1", "Apple M2 Pro", "Apple M3 Ultra"]
    names = [NAME, "n:7b"]
    draw = data.draw
    reports = [
        node(
            node_id,
            names=names,
            loaded=draw(st.sampled_from([(), (NAME,), ("n:7b",), tuple(names)])),
            slots=draw(st.integers(1, 3)),
            platform=Platform(system="darwin", machine="arm64", chip=draw(st.sampled_from(chips))),
        )
        for node_id in ("a", "b", "c")
    ]
    case = Case(*reports)
    for _ in range(draw(st.integers(1, 16))):
        case.ask(
            draw(st.sampled_from(names)),
            client=draw(st.sampled_from("xy")),
            prompt_tokens=draw(st.sampled_from([20, 400, 6000])),
        )
        case.now_s += draw(st.sampled_from([0.0, 0.3]))
        if case.granted and draw(st.booleans()):
            case.end(case.granted[draw(st.sampled_from(sorted(case.granted)))][0])
    case.tick()
    load = case.scheduler.load
    for pending in case.scheduler._room.pending.values():
        decision = decide(pending.request, case.fleet, load, load.predictor, case.now_s)
        assert not decision.winner.starts_now


def test_a_joining_node_takes_all_it_can_at_once():
    case = Case(node("a"))
    for _ in range(30):
        case.ask()
    effects = case.hear(node("b", slots=4))
    assert [place(e) for e in effects] == ["b"] * 4


def test_a_cold_node_is_loaded_when_the_wait_is_longer_than_the_load():
    case = Case(node("hot"), node("cold", loaded=()))
    grants = [case.ask(max_tokens=4000, prompt_tokens=4000)[1] for _ in range(12)]
    cold = [g for g in grants if g is not None and place(g) == "cold"]
    assert cold


def test_two_simultaneous_requests_for_a_cold_model_do_not_load_it_twice_for_nothing():
    """The second one waits for the load under way where that is sooner."""
    case = Case(node("a", loaded=(), slots=4), node("b", loaded=(), slots=4))
    loads = [case.ask(is_load_only=True)[1] for _ in range(3)]
    assert [place(g) for g in loads] == ["a", "a", "a"]


# -- order -------------------------------------------------------------------------------------


def order_of(case, first, askeds):
    """The order in which waiting requests are granted on one slot."""
    names = {a.request_id: label for label, a in askeds}
    order, running = [], first
    for _ in askeds:
        case.now_s += 0.5
        (effect,) = case.end(running)
        order.append(names[effect.request_id])
        running = next(a for _, a in askeds if a.request_id == effect.request_id)
    return order


def test_equal_requests_are_served_in_order_of_arrival():
    case = Case(node())
    first, _ = case.ask()
    askeds = []
    for label in range(10):
        case.now_s += 0.01
        askeds.append((label, case.ask()[0]))
    assert order_of(case, first, askeds) == list(range(10))


def test_short_requests_go_first():
    case = Case(node())
    first, _ = case.ask()
    askeds = [
        ("long", case.ask(prompt_tokens=20_000, max_tokens=None)[0]),
        ("short", case.ask(prompt_tokens=50, max_tokens=20)[0]),
    ]
    case.now_s = 1.0
    assert order_of(case, first, askeds) == ["short", "long"]


def test_interactive_goes_before_batch_until_batch_has_waited_long():
    case = Case(node())
    first, _ = case.ask()
    batch = case.ask(priority=Priority.BATCH)[0]
    case.now_s = 60.0
    interactive = case.ask()[0]
    assert order_of(case, first, [("batch", batch), ("inter", interactive)]) == ["inter", "batch"]

    case = Case(node())
    first, _ = case.ask()
    batch = case.ask(priority=Priority.BATCH)[0]
    case.now_s = 200.0
    interactive = case.ask()[0]
    assert order_of(case, first, [("batch", batch), ("inter", interactive)]) == ["batch", "inter"]


def test_a_client_with_much_running_yields_to_one_with_nothing():
    case = Case(node(slots=4))
    greedy = [case.ask(client="greedy")[0] for _ in range(4)]
    waiting = case.ask(client="greedy")[0]
    case.now_s = 0.1
    modest = case.ask(client="modest")[0]
    case.now_s = 0.5
    (effect,) = case.end(greedy[0])
    assert effect.request_id == modest.request_id
    (effect,) = case.end(greedy[1])
    assert effect.request_id == waiting.request_id


@pytest.mark.parametrize("seed", range(3))
def test_nobody_starves(seed):
    """One slot at 90 % load of short requests, and long ones among them: each gets its turn
    within a bound that grows with its own length, not with the load of others.
    """
    rng = random.Random(seed)
    world = World([node()], {"a": Truth()})
    arrivals, now_s = [], 0.0
    for number in range(600):
        now_s += rng.expovariate(1.15)
        long = number % 40 == 20
        asked = request(
            NAME, now_s, prompt_tokens=6000 if long else 100, client="x" if long else "y"
        )
        arrivals.append((now_s, asked, 400 if long else 20))
    world.run(arrivals)
    assert len(world.done) == 600
    for job in world.done:
        own_s = job.done_s - job.granted_s
        assert job.granted_s - job.request.arrived_s < 20 * own_s + 30


def test_a_model_is_not_kept_out_by_one_that_is_never_idle():
    """Overlapping requests keep `busy` in memory; `rare` needs that memory."""
    engines = [engine([model("busy", 16.0), model("rare", 16.0)], ["busy"], slots=2)]
    card = Vitals(
        memory_total_bytes=64 * GB,
        memory_available_bytes=48 * GB,
        gpus=(Gpu("NVIDIA GeForce RTX 4090", "nvidia", 24 * GB, 6 * GB),),
    )
    told = report("a", engines, platform=Platform(system="linux"), vitals=card)
    case = Case(told)
    case.ask("busy")
    case.ask("busy")
    rare, held = case.ask("rare")
    assert held is None
    while rare.request_id not in case.granted and case.now_s < 300:
        case.tick()
        if case.now_s % 2 == 0:
            assert len(case.granted) == 2 or case.now_s > STARVED_S  # never idle
            case.end(min(case.granted.values(), key=lambda a: a[1])[0])
        case.ask("busy", client="eager")
    assert STARVED_S < case.now_s < STARVED_S + 10


# -- bounds ------------------------------------------------------------------------------------


def test_a_place_kept_for_a_request_that_is_gone_keeps_out_nobody():
    """Two models wait for a third to make room. The first of them has the machine kept free."""
    names = (NAME, "n:7b", "o:7b")
    case = Case(node("a", names=names, free_gb=1.0))
    running, _ = case.ask()
    left, _ = case.ask("n:7b")
    waiting, _ = case.ask("o:7b")
    while case.now_s < STARVED_S + 5:
        case.tick()
    assert set(case.granted) == {running.request_id}
    case.scheduler.on_cancel(left.request_id, case.fleet, case.now_s)
    case.end(running)
    for _ in range(5):
        case.tick()
    assert waiting.request_id in case.granted


def test_beyond_the_limit_requests_are_refused_with_a_time_to_come_back():
    case = Case(node(), limit=2)
    for _ in range(3):
        case.ask()
    _, effect = case.ask()
    assert isinstance(effect, Refuse)
    assert effect.refusal.kind is RefusalKind.QUEUE_FULL
    assert 1 <= effect.refusal.retry_after_s <= 60
    assert "2 requests" in effect.refusal.message
    said_s = int(re.search(r"in about (\d+) s", effect.refusal.message)[1])
    ends_s = [r.expected_wait_s for r in case.scheduler.queue(case.now_s).requests]
    assert 0 < max(ends_s) < said_s + 1


def test_expected_waits_hold_where_predictions_do():
    """Three waiting requests on two slots: what is expected is what happens."""
    case = Case(node(slots=2))
    for _ in range(5):
        case.ask()
    told = {r.request_id: r.expected_wait_s for r in case.scheduler.queue(0.0).requests}
    started = {}
    for _ in range(3):
        runs = case.scheduler.load.running.values()
        ends = {
            r.request.request_id: r.first_due_s + r.output * r.expectation().step_s for r in runs
        }
        first = min(ends, key=ends.get)
        case.now_s = ends[first]
        for effect in case.end(case.asked[first], usage=None):
            started[effect.request_id] = case.now_s
    assert started == pytest.approx(told, rel=0.3)


def test_without_a_queue_only_what_can_start_is_taken():
    case = Case(node(), limit=0)
    assert isinstance(case.ask()[1], Grant)
    assert isinstance(case.ask()[1], Refuse)


def test_waiting_too_long_is_refused_at_a_tick():
    case = Case(node(), timeout_s=5.0)
    case.ask()
    waiting, _ = case.ask()
    assert not case.tick(4.0)
    (effect,) = case.tick(1.5)
    assert effect.request_id == waiting.request_id
    assert effect.refusal.kind is RefusalKind.QUEUE_TIMEOUT
    assert "number 1 of those that wait" in effect.refusal.message
    assert case.scheduler.queue(case.now_s).waiting == 0


def test_a_router_that_ends_refuses_what_waits_and_lets_run_what_runs():
    case = Case(node())
    case.ask()
    waiting, _ = case.ask()
    (effect,) = case.scheduler.on_drain(case.fleet)
    assert effect.request_id == waiting.request_id
    assert effect.refusal.kind is RefusalKind.DRAINING
    assert effect.refusal.retry_after_s > 0
    view = case.scheduler.queue(case.now_s)
    assert (view.in_flight, view.waiting) == (1, 0)
    assert not case.tick(1.0)


# -- refusals ----------------------------------------------------------------------------------


def test_an_unknown_model_is_refused_by_name_alone():
    asked = request("Nope", 0.0)
    scheduler = Scheduler(QueueSettings(), Predictor())
    (effect,) = scheduler.on_request(asked, fleet_of([node()]), 0.0)
    assert effect.refusal.kind is RefusalKind.UNKNOWN_MODEL
    assert effect.refusal.message == "Nope"


def test_a_model_on_no_usable_node_is_refused_with_the_reasons():
    case = Case(node("mini"), report("studio", [engine([model(NAME)], error="refused")]))
    case.fleet = apply(case.fleet, NodeDrained("mini", draining=True), 0.0)
    _, effect = case.ask()
    assert effect.refusal.kind is RefusalKind.NO_NODE
    assert "mini (draining)" in effect.refusal.message
    assert "studio (engine error: refused)" in effect.refusal.message


def test_quiet_hours_keep_new_requests_away_and_let_end_what_runs():
    case = Case(node("studio"))
    running, granted = case.ask()
    assert place(granted) == "studio"
    waiting, held = case.ask()
    assert held is None
    night = Vitals(quiet_until="07:00")
    case.hear(node("studio", seq=2, vitals=night))
    _, effect = case.ask()
    assert effect.refusal.kind is RefusalKind.NO_NODE
    assert effect.refusal.retry_after_s == 60
    assert effect.refusal.message == (
        f"no node can run '{NAME}' now: studio (quiet hours until 07:00); "
        "ask again when they are over, or pull the model on another node"
    )
    assert case.scheduler.queue(case.now_s).in_flight == 1
    assert not case.end(running)
    assert case.scheduler.queue(case.now_s).in_flight == 0
    (effect,) = case.hear(node("studio", seq=3))
    assert (effect.request_id, place(effect)) == (waiting.request_id, "studio")


def test_who_waits_goes_elsewhere_when_quiet_hours_begin():
    case = Case(node("studio"), node("tower"))
    first = place(case.ask()[1])
    second, granted = case.ask()
    assert place(granted) != first
    waiting, _ = case.ask()
    case.hear(node(first, seq=2, vitals=Vitals(quiet_until="mon 07:00")))
    assert waiting.request_id not in case.granted
    (effect,) = case.end(second)
    assert effect.request_id == waiting.request_id
    assert place(effect) != first


def test_the_reason_is_the_one_of_now():
    case = Case(node("mini"))
    case.fleet = apply(case.fleet, NodeDrained("mini", draining=True), 0.0)
    assert "mini (draining)" in case.ask()[1].refusal.message
    case.fleet = apply(case.fleet, TimePassed(2.0), 60.0)
    assert "mini (offline)" in case.ask()[1].refusal.message


def test_waiting_requests_outlive_a_short_absence_of_their_only_node():
    case = Case(node(), no_node_grace_s=10.0)
    case.ask()
    waiting, _ = case.ask()
    case.hear(node(leaving=True, seq=2))
    assert not case.tick(3.0)
    effects = case.hear(node(boot=2))
    assert not effects  # the first one still holds the slot
    case.hear(node(leaving=True, boot=2, seq=2))
    effects = [*case.tick(1.0), *case.tick(9.5), *case.tick(1.0)]
    (effect,) = effects
    assert effect.request_id == waiting.request_id
    assert effect.refusal.kind is RefusalKind.NO_NODE
