"""What was granted: retries, cancelling, slots, and what is seen and learned of it."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.eviction import loss_s
from ollama_herd.core.fleet import TimePassed, apply
from ollama_herd.core.node import EngineKind, Vitals
from ollama_herd.core.request import OutcomeKind, RefusalKind
from ollama_herd.core.routing import Eliminated
from ollama_herd.core.scheduler import Grant, QueueSettings, Refuse
from tests.core.cases import FAST, NAME, SLOW, Case, node, place
from tests.core.fleets import GB, engine, model, report, request
from tests.core.simulation import Truth, World

# -- retries -----------------------------------------------------------------------------------


def test_a_retry_goes_elsewhere_and_frees_the_slot():
    case = Case(node("a"), node("b"))
    asked, grant = case.ask()
    assert place(grant) == "a"
    (effect,) = case.retry(asked)
    assert place(effect) == "b"
    assert [r.reason for r in effect.decision.eliminated] == [Eliminated.ALREADY_TRIED]
    assert isinstance(case.ask()[1], Grant)


def test_when_every_replica_was_tried_the_request_is_refused():
    case = Case(node("a"), node("b"))
    asked, _ = case.ask()
    case.retry(asked)
    (effect,) = case.retry(asked)
    assert effect.refusal.kind is RefusalKind.NO_NODE
    assert case.scheduler.queue(0.0).in_flight == 0


def test_a_retry_hands_the_freed_slot_to_who_waits():
    case = Case(node("a"))
    asked, _ = case.ask()
    waiting, _ = case.ask()
    effects = case.retry(asked)
    assert {e.request_id: type(e) for e in effects} == {
        asked.request_id: Refuse,
        waiting.request_id: Grant,
    }


def test_a_retried_request_keeps_its_arrival_time():
    case = Case(node("a"), node("b"))
    asked, _ = case.ask()
    on_b, _ = case.ask()
    case.now_s = 5.0
    case.ask()
    effects = case.retry(asked)
    assert asked.request_id not in {e.request_id for e in effects}  # b is taken
    case.now_s = 6.0
    (effect,) = case.end(on_b)
    assert effect.request_id == asked.request_id


def test_an_unreachable_engine_is_out_until_its_node_reports():
    case = Case(node("a"), node("b"))
    asked, _ = case.ask()
    (effect,) = case.retry(asked, OutcomeKind.UNREACHABLE)
    assert place(effect) == "b"
    _, held = case.ask()
    assert held is None  # a is idle, but nobody answers there
    case.now_s = 1.0
    (effect,) = case.hear(node("a", seq=2))
    assert place(effect) == "a"


def test_a_request_waits_for_the_next_report_of_an_unreachable_only_engine():
    case = Case(node("a"))
    asked, _ = case.ask()
    (effect,) = case.retry(asked, OutcomeKind.UNREACHABLE)
    assert effect.refusal.kind is RefusalKind.NO_NODE  # it was tried
    other, held = case.ask()
    assert held is None
    case.now_s = 1.5
    (effect,) = case.hear(node("a", seq=2))
    assert effect.request_id == other.request_id


def test_an_engine_that_fails_stays_out_when_the_model_that_showed_it_is_gone():
    names = (NAME, "n:7b")
    case = Case(node("a", names, names, platform=FAST), node("b", names, names, platform=SLOW))
    for _ in range(3):
        asked, grant = case.ask()
        assert place(grant) == "a"
        case.retry(asked, OutcomeKind.CLOSED_EARLY)
        case.now_s += 0.1
        case.end(asked)
    case.hear(node("a", ("n:7b",), ("n:7b",), platform=FAST, seq=2))
    _, grant = case.ask("n:7b")
    assert place(grant) == "b"
    assert [r.reason for r in grant.decision.eliminated] == [Eliminated.FAILING]


def test_a_replica_that_fails_what_others_answer_rests():
    case = Case(node("a", platform=FAST), node("b", platform=SLOW))
    for _ in range(3):
        asked, grant = case.ask()
        assert place(grant) == "a"
        case.retry(asked)
        case.now_s += 0.1
        case.end(asked)
    _, grant = case.ask()
    assert place(grant) == "b"
    assert [r.reason for r in grant.decision.eliminated] == [Eliminated.FAILING]
    case.tick(6.0)
    _, grant = case.ask()
    assert place(grant) == "a"  # one more try


def test_requests_that_fail_everywhere_blame_nobody():
    case = Case(node("a"), node("b"))
    for _ in range(5):
        asked, _ = case.ask()
        case.retry(asked)
        case.end(asked, OutcomeKind.ENGINE_ERROR, None)
    _, grant = case.ask()
    assert grant.decision.eliminated == ()


def test_the_last_replica_is_tried_even_if_it_keeps_failing():
    case = Case(node("a"))
    for _ in range(5):
        asked, grant = case.ask()
        assert isinstance(grant, Grant)
        case.end(asked, OutcomeKind.TRUNCATED, None)


# -- cancelling --------------------------------------------------------------------------------


def test_cancelling_frees_a_place_in_the_queue_or_a_slot():
    case = Case(node())
    running, _ = case.ask()
    gone, _ = case.ask()
    waiting, _ = case.ask()
    assert not case.scheduler.on_cancel(gone.request_id, case.fleet, 0.1)
    (effect,) = case.scheduler.on_cancel(running.request_id, case.fleet, 0.2)
    assert effect.request_id == waiting.request_id


def test_a_load_nobody_waits_for_is_given_up():
    case = Case(node("a", names=(NAME, "n:7b"), loaded=()))
    asked, _ = case.ask()
    _, held = case.ask("n:7b")
    assert held is None  # one load at a time
    (effect,) = case.scheduler.on_cancel(asked.request_id, case.fleet, 0.5)
    assert effect.decision.winner.starts_now


# -- slots -------------------------------------------------------------------------------------


def test_unknown_slots_are_one():
    case = Case(node(slots=None))
    case.ask()
    assert case.ask()[1] is None


def probing(parallel, rounds=60):
    """An engine with `parallel` slots nobody told of, under a standing backlog; the most that
    was ever in flight, and how often it was more than the engine's slots.
    """
    case = Case(node(slots=None), probe_slots=True)
    peak, over = 0, 0
    begun = {}
    for _ in range(rounds):
        while len(case.scheduler.queue(case.now_s).requests) < 4:
            case.ask()
        waiting = [r for r in case.granted if r not in begun]
        for request_id in waiting[: parallel - len(begun)]:
            begun[request_id] = case.now_s
            case.now_s += 0.05
            case.scheduler.on_first_byte(request_id, case.now_s)
        peak = max(peak, len(case.granted))
        over += len(case.granted) > parallel
        case.tick(1.0)
        first = next(iter(begun))
        del begun[first]
        case.end(case.asked[first])
    return peak, over


@pytest.mark.parametrize("parallel", [2, 4])
def test_unknown_slots_are_learned_from_overlapping_first_bytes(parallel):
    peak, _ = probing(parallel)
    assert peak >= parallel


def test_an_engine_with_one_slot_is_found_out_and_left_alone():
    peak, over = probing(1, rounds=200)
    assert peak == 2
    assert over <= 5


def test_refusals_at_once_are_no_sign_of_another_slot():
    """An engine answers a bad request without waiting for a slot."""
    case = Case(node(slots=None), probe_slots=True)
    case.ask(max_tokens=4000)
    for _ in range(6):
        asked, _ = case.ask()
        case.tick()
        if asked.request_id in case.granted:
            case.scheduler.on_first_byte(asked.request_id, case.now_s)
            case.end(asked, OutcomeKind.CLIENT_ERROR, None)
    (replica,) = case.scheduler.load.replicas.values()
    assert replica.learned_slots == 1


def test_a_refused_request_does_not_make_a_model_loaded():
    case = Case(node(loaded=()))
    asked, _ = case.ask()
    case.now_s = 0.1
    case.scheduler.on_first_byte(asked.request_id, case.now_s)
    case.end(asked, OutcomeKind.CLIENT_ERROR, None)
    _, grant = case.ask()
    assert grant.decision.winner.cost.loaded_state_ms > 0


def test_embedding_models_run_one_by_one_in_ollama():
    told = model("embed:1b", capabilities=("embedding",))
    for kind, expected in ((EngineKind.OLLAMA, 1), (EngineKind.OPENAI, 4)):
        case = Case(report("a", [engine([told], ["embed:1b"], slots=4, kind=kind)]))
        grants = [case.ask("embed:1b")[1] for _ in range(6)]
        assert sum(1 for g in grants if g is not None) == expected


# -- aliases, tunnels, two engines -------------------------------------------------------------


def test_aliases_share_slots():
    plain, alias = model("tiny", weights="w"), model("tiny2", weights="w")
    case = Case(report("a", [engine([plain, alias], ["tiny"])]))
    first, grant = case.ask("tiny")
    assert isinstance(grant, Grant)
    other, held = case.ask("tiny2")
    assert held is None
    (effect,) = case.end(first)
    assert effect.request_id == other.request_id
    assert effect.decision.winner.replica.model.name == "tiny2"


def test_an_engine_that_is_gone_does_not_take_its_neighbour_along():
    engines = [
        engine([model(NAME)], [NAME], engine_id="ollama-11434"),
        engine([model(NAME)], [NAME], engine_id="vllm-8000", kind=EngineKind.OPENAI),
    ]
    case = Case(report("a", engines))
    asked, grant = case.ask()
    gone = grant.decision.winner.replica.engine_id
    (effect,) = case.retry(asked, OutcomeKind.UNREACHABLE)
    assert effect.decision.winner.replica.engine_id != gone
    case.end(asked)
    _, grant = case.ask()
    assert grant.decision.winner.replica.engine_id != gone
    assert [r.reason for r in grant.decision.eliminated] == [Eliminated.UNREACHABLE]


# -- views -------------------------------------------------------------------------------------


def test_the_queue_shows_positions_and_growing_waits():
    case = Case(node())
    for _ in range(5):
        case.ask(client="ann")
    view = case.scheduler.queue(2.0)
    assert (view.in_flight, view.waiting) == (1, 4)
    assert [r.position for r in view.requests] == [1, 2, 3, 4]
    waits = [r.expected_wait_s for r in view.requests]
    assert waits == sorted(waits)
    assert waits[0] > 0
    assert {r.waited_s for r in view.requests} == {2.0}
    (replica,) = view.replicas
    assert (replica.in_flight, replica.waiting, replica.slots) == (1, 4, 1)


def test_names_of_unknown_models_leave_nothing_behind():
    """Anyone may ask for any name, for ever."""
    case = Case(node())
    for number in range(50):
        case.ask(f"nope{number}", prefix=(1, 2), client=f"c{number}")
    load = case.scheduler.load
    assert not load.continuations
    assert not load._boards
    assert len(load.replicas) == 0
    assert not len(case.scheduler._shares)


def test_everything_is_given_back_when_the_last_request_ends():
    case = Case(node("a"), node("b"))
    askeds = [case.ask(client=f"c{n}", prefix=(n, n + 1))[0] for n in range(20)]
    while case.granted:
        case.now_s += 0.5
        case.end(next(iter(case.granted.values()))[0])
    scheduler = case.scheduler
    assert len(askeds) == 20
    assert not scheduler.load.running
    assert not scheduler._shares._running
    assert not scheduler._granted
    for machine in scheduler.load.nodes.values():
        assert (machine.in_flight, machine.prefilling, machine.active) == (0, 0, {})
        assert all(
            not slot.request_id for r in machine.replicas.values() for slot in r.mirror.slots
        )


# -- what was served teaches -------------------------------------------------------------------


def test_a_slow_machine_is_found_out_by_use():
    """Equal on paper, but one is three times slower."""
    truths = {"a": Truth(1 / 300, 1 / 20), "b": Truth(1 / 900, 1 / 60)}
    world = World([node("a"), node("b")], truths)
    arrivals = [(2.5 * i, request(NAME, 2.5 * i), 100) for i in range(120)]
    world.run(arrivals)
    late = [job.node_id for job in world.done[-40:]]
    assert late.count("b") > 2 * late.count("a")


@pytest.mark.parametrize("names", [("m:7b", "n:7b"), ("m:7b", "n:7b", "o:7b")])
def test_what_was_unloaded_for_another_model_is_not_believed_loaded(names):
    """Whoever chose it, and whatever an older report says at the ticks that follow: a request for
    it would be sent to an engine that has to unload the other one again.
    """
    case = Case(node("a", names=names, loaded=names[:-1], free_gb=1.0, total_gb=16.0))
    for name in names[:-1]:
        case.end(case.ask(name)[0])
    asked, effect = case.ask(names[-1])
    assert effect.decision.winner.cost.loaded_state_ms > 0
    case.scheduler.on_first_byte(asked.request_id, case.now_s)
    gone = []
    for _ in range(4):
        case.tick()
        loads = case.scheduler.load.replicas.values()
        gone.append([load.replica.model.name for load in loads if not load.is_hot])
    assert gone == [gone[0]] * 4
    assert len(gone[0]) == 1
    case.now_s += 10.0
    case.hear(node("a", names=names, loaded=names, seq=2, free_gb=9.0, total_gb=16.0))
    assert all(load.is_hot for load in case.scheduler.load.replicas.values())


def test_room_that_was_made_is_not_made_twice():
    """The report still counts what was unloaded since: only the newer model stands in the way."""
    names = ("m:7b", "n:7b", "o:7b")
    case = Case(node("a", names=names, loaded=names[:1], free_gb=1.0, total_gb=16.0))
    case.end(case.ask(names[0])[0])
    first, _ = case.ask(names[1])
    case.end(first)
    _, effect = case.ask(names[2])
    assert effect.decision.winner.starts_now
    load = case.scheduler.load.replicas["a", "ollama-11434", "weights-n:7b"]
    assert effect.decision.winner.cost.memory_fit_ms == pytest.approx(
        1e3 * loss_s(load, case.scheduler.load, case.now_s)
    )


def test_a_wrong_belief_about_loading_is_corrected_by_the_next_report():
    case = Case(node())
    case.now_s = 100.0
    case.hear(node(loaded=(), seq=2))
    case.now_s = 104.0
    asked, grant = case.ask()
    assert grant.decision.winner.cost.loaded_state_ms > 0
    case.now_s = 110.0
    case.end(asked)
    case.now_s = 111.0
    _, grant = case.ask()
    assert grant.decision.winner.cost.loaded_state_ms == 0  # just used: loaded, whatever was said


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3]))
def test_the_world_never_sees_more_than_its_slots(seed, slots):
    rng = random.Random(seed)
    names = [NAME, "n:7b"]
    reports = [node(n, names=names, loaded=names[:1], slots=slots) for n in ("a", "b")]
    world = World(reports, {"a": Truth(), "b": Truth(step_s=1 / 15)})
    arrivals = [
        (at, request(rng.choice(names), at, client=rng.choice("xyz")), rng.randint(1, 200))
        for at in sorted(rng.uniform(0, 20) for _ in range(25))
    ]
    world.run(arrivals, until_s=2000)
    assert len(world.done) == 25
    assert max(world.peak.values()) <= slots


def test_a_machine_in_use_by_its_owner_is_expected_to_be_slower():
    busy = Vitals(memory_total_bytes=64 * GB, foreign_load_percent=80.0)
    case = Case(node("a", vitals=busy), node("b"))
    for _ in range(120):
        case.tick()
    _, grant = case.ask()
    by_node = {c.replica.node_id: c.cost for c in grant.decision.candidates}
    assert place(grant) == "b"
    assert by_node["a"].availability_trend_ms > 500
    assert by_node["b"].availability_trend_ms == pytest.approx(0)
    case.hear(node("a", seq=2))
    case.tick()
    _, grant = case.ask()
    by_node = {c.replica.node_id: c.cost for c in grant.decision.candidates}
    assert by_node["a"].availability_trend_ms == pytest.approx(0)


def test_a_late_node_is_still_used_and_an_offline_one_is_not():
    case = Case(node("a"))
    case.now_s = 10.0
    case.fleet = apply(case.fleet, TimePassed(2.0), case.now_s)
    _, grant = case.ask()
    assert isinstance(grant, Grant)
    case.now_s = 30.0
    case.fleet = apply(case.fleet, TimePassed(2.0), case.now_s)
    _, effect = case.ask()
    assert isinstance(effect, Refuse)


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        QueueSettings().limit = 5
    assert msgspec.structs.replace(QueueSettings(), limit=5).limit == 5
