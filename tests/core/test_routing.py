"""Properties and cases of a single decision."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.fleet import Fleet, NodeDrained, TimePassed, apply
from ollama_herd.core.load import Load
from ollama_herd.core.node import EngineKind, Platform, Vitals
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Dialect, OutcomeKind
from ollama_herd.core.routing import Eliminated, decide
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from tests.core.deciding import (
    CARD,
    NAME,
    card,
    deciding,
    fleets,
    nodes_of,
    reason_of,
    requests,
    under_load,
)
from tests.core.fleets import engine, fleet_of, model, report, request


@given(fleets, st.lists(requests, max_size=8), requests)
def test_terms_add_up_and_candidates_come_by_cost(reports, before, asked):
    scheduler, fleet = under_load(reports, before)
    load = scheduler.load
    decision = decide(asked, fleet, load, load.predictor, 1.0)
    totals = [c.cost.total_ms for c in decision.candidates]
    assert totals == sorted(totals)
    for candidate in decision.candidates:
        terms = msgspec.structs.asdict(candidate.cost)
        total = terms.pop("total_ms")
        assert math.fsum(terms.values()) == pytest.approx(total, abs=1e-6)
        assert total > 0
        for name, value in terms.items():
            if name not in {"availability_trend_ms", "prefix_affinity_ms"}:
                assert value >= 0
        assert candidate.starts_now == (candidate.starts_now and not candidate.cost.queue_depth_ms)


@given(fleets, st.lists(requests, max_size=6), requests, st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_joined_does_not_matter(reports, before, asked, rng):
    shuffled = list(reports)
    rng.shuffle(shuffled)
    decisions = []
    for order in (reports, shuffled):
        scheduler, fleet = under_load(order, before)
        decisions.append(decide(asked, fleet, scheduler.load, scheduler.load.predictor, 1.0))
    assert decisions[0] == decisions[1]


@given(fleets, requests)
def test_deciding_twice_gives_the_same_answer(reports, asked):
    fleet = fleet_of(reports)
    predictor = Predictor()
    load = Load(predictor)
    assert decide(asked, fleet, load, predictor, 1.0) == decide(asked, fleet, load, predictor, 1.0)


NIGHT = Vitals(quiet_until="07:00")


@given(fleets, requests, st.sampled_from(["draining", "quiet", "offline", "broken", "excluded"]))
def test_an_ineligible_node_changes_nothing(reports, asked, how):
    alone = deciding(fleet_of(reports), asked)
    broken = "no answer" if how == "broken" else ""
    extra = report("extra", [engine([model(NAME)], [NAME], error=broken)])
    fleet = fleet_of([*reports, extra])
    excluded = frozenset()
    if how == "draining":
        fleet = apply(fleet, NodeDrained("extra", draining=True), 0.0)
    elif how == "quiet":
        night = report("extra", [engine([model(NAME)], [NAME])], seq=2, vitals=NIGHT)
        fleet = fleet_of([night], 0.0, fleet)
    elif how == "offline":
        gone = report("extra", [engine([model(NAME)], [NAME])], seq=2, leaving=True)
        fleet = fleet_of([gone], 0.0, fleet)
    elif how == "excluded":
        excluded = frozenset(r.slot_key for r in fleet.replicas["m:7b"] if r.node_id == "extra")
    decision = deciding(fleet, asked, excluded=excluded)
    assert decision.candidates == alone.candidates
    assert [r for r in decision.eliminated if r.node_id != "extra"] == list(alone.eliminated)
    expected = {
        "draining": Eliminated.DRAINING,
        "quiet": Eliminated.QUIET_HOURS,
        "offline": Eliminated.OFFLINE,
        "broken": Eliminated.ENGINE_ERROR,
        "excluded": Eliminated.ALREADY_TRIED,
    }
    assert reason_of(decision, "extra") is expected[how]


@given(st.integers(1, 4), st.integers(0, 7), requests)
def test_a_deeper_queue_never_lowers_the_cost(slots, depth, asked):
    """Requests of one model on a machine that has it loaded."""
    asked = msgspec.structs.replace(asked, load_options=())
    told = [report("a", [engine([model(NAME)], [NAME], slots=slots)])]
    costs = []
    for waiting in (depth, depth + 1):
        scheduler, fleet = under_load(told, [request(NAME) for _ in range(min(waiting, slots))])
        load = scheduler.load
        (candidate,) = decide(asked, fleet, load, load.predictor, 1.0).candidates
        costs.append(candidate.cost.total_ms)
    assert costs[0] <= costs[1] + 1e-6


@given(st.floats(0, 64), st.floats(0, 64), st.sampled_from([2.0, 20.0, 45.0]), st.booleans())
def test_less_memory_never_lowers_the_cost(one, other, size, busy):
    costs = []
    for free in sorted([one, other]):
        engines = [engine([model(NAME, size), model("other:1b", 30.0)], ["other:1b"], slots=1)]
        arrivals = [request("other:1b")] if busy else []
        scheduler, fleet = under_load([report("a", engines, free_gb=free)], arrivals)
        load = scheduler.load
        (candidate,) = decide(request(NAME), fleet, load, load.predictor, 1.0).candidates
        costs.append(candidate.cost.total_ms)
    assert costs[0] >= costs[1] - 1e-6


@given(st.integers(0, 200), st.integers(0, 200))
def test_what_was_sent_counts_whatever_is_reported(seconds, repeat):
    """A heartbeat that still says "not loaded" does not undo a request in flight."""
    fleet = fleet_of([report("a", [engine([model(NAME)], slots=2)])])
    scheduler = Scheduler(QueueSettings(), Predictor())
    first = request(NAME)
    scheduler.on_request(first, fleet, 0.0)
    scheduler.on_first_byte(first.request_id, 5.0)
    for seq in range(2, 3 + repeat % 5):
        stale = report("a", [engine([model(NAME)], slots=2)], seq=seq)
        fleet = fleet_of([stale], 5.0 + seconds, fleet)
        scheduler.on_fleet(fleet, 5.0 + seconds)
    load = scheduler.load
    (candidate,) = decide(request(NAME), fleet, load, load.predictor, 5.0 + seconds).candidates
    assert candidate.cost.loaded_state_ms == 0
    assert candidate.cost.role_affinity_ms > 0


# -- who is left out ---------------------------------------------------------------------------


def test_missing_metadata_eliminates_nobody():
    bare = msgspec.structs.replace(
        model(NAME), size_bytes=0, digest="", weights="", capabilities=()
    )
    fleet = fleet_of(
        [
            report("a", [engine([bare], slots=None)], platform=Platform(), vitals=Vitals()),
            report("b", [engine([model(NAME)])]),
        ]
    )
    decision = deciding(fleet)
    assert sorted(nodes_of(decision)) == ["a", "b"]


def test_the_digest_on_most_nodes_is_served():
    old = model(NAME, digest="old", modified_at="2026-12-01T00:00:00Z")
    new = model(NAME, digest="new", modified_at="2026-01-01T00:00:00Z")
    fleet = fleet_of([report(n, [engine([m])]) for n, m in (("a", old), ("b", new), ("c", new))])
    decision = deciding(fleet)
    assert sorted(nodes_of(decision)) == ["b", "c"]
    assert reason_of(decision, "a") is Eliminated.DIGEST_CONFLICT


def test_of_equally_common_digests_the_newest_is_served():
    """Times as Ollama writes them: nanoseconds and different offsets."""
    early = model(NAME, digest="z-early", modified_at="2026-05-01T10:00:00.123456789+02:00")
    late = model(NAME, digest="a-late", modified_at="2026-05-01T09:00:00.5Z")
    fleet = fleet_of([report("a", [engine([early])]), report("b", [engine([late])])])
    decision = deciding(fleet)
    assert nodes_of(decision) == ["b"]
    assert reason_of(decision, "a") is Eliminated.DIGEST_CONFLICT


def test_a_model_larger_than_all_memory_does_not_fit():
    fleet = fleet_of(
        [
            report("small", [engine([model(NAME, 40.0)])], total_gb=16, free_gb=12),
            report("large", [engine([model(NAME, 40.0)])]),
        ]
    )
    decision = deciding(fleet)
    assert nodes_of(decision) == ["large"]
    assert reason_of(decision, "small") is Eliminated.DOES_NOT_FIT


def test_a_silent_node_is_named_offline():
    fleet = fleet_of([report("a", [engine([model(NAME)])])])
    fleet = apply(fleet, TimePassed(2.0), 100.0)
    decision = deciding(fleet)
    assert decision.winner is None
    assert reason_of(decision, "a") is Eliminated.OFFLINE


def test_a_model_nobody_has_gives_an_empty_decision():
    decision = deciding(Fleet())
    assert decision.winner is None
    assert decision.eliminated == ()


# -- what decides ------------------------------------------------------------------------------


def test_loaded_beats_cold_and_says_why():
    fleet = fleet_of(
        [report("cold", [engine([model(NAME)])]), report("hot", [engine([model(NAME)], [NAME])])]
    )
    decision = deciding(fleet)
    assert nodes_of(decision) == ["hot", "cold"]
    assert decision.candidates[0].cost.loaded_state_ms == 0
    assert decision.candidates[1].cost.loaded_state_ms > 1000


def test_openai_engines_have_their_models_loaded():
    fleet = fleet_of(
        [report("a", [engine([model(NAME)], kind=EngineKind.OPENAI, engine_id="vllm")])]
    )
    candidate = deciding(fleet, request(NAME, load_options=(("num_ctx", 9000),))).winner
    assert candidate.cost.loaded_state_ms == 0
    assert candidate.cost.context_fit_ms == 0
    assert candidate.starts_now


def test_using_a_machine_costs_those_who_use_it_already():
    """1.5 x what a running request loses, and the future share of the machine."""
    fleet = fleet_of([report("a", [engine([model(NAME)], [NAME], slots=2)])])
    scheduler = Scheduler(QueueSettings(), Predictor())
    load = scheduler.load
    scheduler.on_request(request(NAME, prompt_tokens=100, max_tokens=4000), fleet, 0.0)
    asked = request(NAME, prompt_tokens=1000, max_tokens=50)
    candidate = decide(asked, fleet, load, load.predictor, 0.0).winner
    (replica,) = load.replicas.values()
    rates, node = replica.rates, replica.node
    attention = 1000 * (1 + 500 / 32768)
    prefill = attention * rates.inv_prefill_s + 1000 / 512 * rates.step_s
    decode = 50 * rates.step_s * (1 + node.pace.alpha)
    others = prefill + decode * node.pace.alpha
    expected = 1.5 * others + node.busy_share * (prefill + decode)
    assert candidate.cost.role_affinity_ms == pytest.approx(1e3 * expected)
    assert candidate.cost.latency_history_ms == pytest.approx(1e3 * (prefill + decode))


def test_the_faster_machine_is_cheaper():
    slow = Platform(system="darwin", machine="arm64", chip="Apple M1")
    fast = Platform(system="darwin", machine="arm64", chip="Apple M3 Ultra")
    fleet = fleet_of(
        [
            report("a", [engine([model(NAME)], [NAME])], platform=slow),
            report("b", [engine([model(NAME)], [NAME])], platform=fast),
        ]
    )
    assert nodes_of(deciding(fleet)) == ["b", "a"]


@pytest.mark.parametrize(
    ("context", "reloads"), [(None, False), (4096, False), (8192, True), (2048, True)]
)
def test_another_context_length_costs_a_reload(context, reloads):
    fleet = fleet_of([report("a", [engine([model(NAME)], [NAME])])])
    options = (("num_ctx", context),) if context else ()
    cost = deciding(fleet, request(NAME, load_options=options)).winner.cost
    assert (cost.context_fit_ms > 1000) is reloads


def reloading_case(*, num_ctx=0, told=0):
    """A fleet of one, whose only model a first request had loaded with a window of 8192."""
    with_own = msgspec.structs.replace(model(NAME), num_ctx=num_ctx)
    fleet = fleet_of([report("a", [engine([with_own], [NAME], context_length=told)])])
    scheduler = Scheduler(QueueSettings(), Predictor())
    asked = request(NAME, load_options=(("num_ctx", 8192),))
    (effect,) = scheduler.on_request(asked, fleet, 0.0)
    assert effect.decision.winner.num_ctx == 0
    scheduler.on_first_byte(asked.request_id, 4.0)
    scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, None, fleet, 5.0)

    def winner(**more):
        return decide(
            request(NAME, **more), fleet, scheduler.load, scheduler.load.predictor, 6.0
        ).winner

    return winner


def test_a_request_without_context_takes_the_window_that_is_loaded():
    """Recorded: unchanged it would have the model loaded anew with the default."""
    winner = reloading_case()
    assert winner().num_ctx == 8192
    assert winner().cost.context_fit_ms == 0
    again = winner(load_options=(("num_ctx", 8192),))
    assert (again.num_ctx, again.cost.context_fit_ms) == (0, 0)


@pytest.mark.parametrize(
    "more",
    [
        {"load_options": (("num_ctx", 4096),)},  # what a client names is never changed
        {"load_options": (("num_gpu", 1),)},  # another runner anyhow
        {"dialect": Dialect.OPENAI},  # it has no such field
        {"dialect": Dialect.ANTHROPIC},
        {"prompt_tokens": 8000},  # no room for its answer
        {"max_tokens": 8100},
    ],
)
def test_what_cannot_take_the_loaded_window_reloads(more):
    winner = reloading_case()(**more)
    assert winner.num_ctx == 0
    assert winner.cost.context_fit_ms > 1000


def test_a_window_of_the_default_is_enough_for_whoever_asks_for_the_default():
    winner = reloading_case(told=4096)
    assert winner(prompt_tokens=20_000).num_ctx == 8192


def test_a_modelfile_asks_for_its_own_window():
    winner = reloading_case(num_ctx=16384)()
    assert winner.num_ctx == 0
    assert winner.cost.context_fit_ms > 1000
    assert reloading_case(num_ctx=2048)().num_ctx == 8192


def test_a_window_that_is_not_the_engines_default_was_asked_for():
    fleet = fleet_of([report("a", [engine([model(NAME)], [NAME], context_length=2048)])])
    winner = deciding(fleet).winner
    assert winner.num_ctx == 4096  # what `engine` says is loaded
    fleet = fleet_of([report("a", [engine([model(NAME)], [NAME], context_length=4096)])])
    assert deciding(fleet).winner.num_ctx == 0


def test_a_context_beyond_the_trained_one_is_clamped():
    trained = msgspec.structs.replace(
        model(NAME), details=msgspec.structs.replace(model(NAME).details, context_length=4096)
    )
    fleet = fleet_of([report("a", [engine([trained], [NAME])])])
    cost = deciding(fleet, request(NAME, load_options=(("num_ctx", 100_000),))).winner.cost
    assert cost.context_fit_ms == 0


def test_evicting_a_model_in_use_is_dear():
    engines = [engine([model(NAME, 20.0), model("other:1b", 20.0)], ["other:1b"])]
    full = report("full", engines, platform=CARD, vitals=card(free_gb=3))
    free = report("free", engines, platform=CARD, vitals=card(free_gb=24))
    scheduler = Scheduler(QueueSettings(), Predictor())
    fleet = fleet_of([full])
    for number in range(20):
        asked = request("other:1b")
        scheduler.on_request(asked, fleet, 10.0 * number)
        scheduler.on_finished(
            asked.request_id, OutcomeKind.COMPLETED, None, fleet, 10.0 * number + 5
        )
    fleet = fleet_of([full, free])
    load = scheduler.load
    decision = decide(request(NAME), fleet, load, load.predictor, 200.0)
    costs = {c.replica.node_id: c.cost.memory_fit_ms for c in decision.candidates}
    assert costs["free"] == 0
    assert costs["full"] > 1000
    assert nodes_of(decision) == ["free", "full"]


def test_a_model_waits_for_busy_ones_to_make_room():
    engines = [engine([model(NAME, 20.0), model("other:1b", 20.0)], ["other:1b"])]
    told = report("a", engines, platform=CARD, vitals=card(free_gb=3))
    scheduler, fleet = under_load([told], [request("other:1b")])
    load = scheduler.load
    candidate = decide(request(NAME), fleet, load, load.predictor, 1.0).winner
    assert not candidate.starts_now
    assert candidate.cost.queue_depth_ms > 0
    assert candidate.cost.memory_fit_ms > 0


def test_loads_happen_one_after_the_other():
    engines = [engine([model(NAME), model("other:1b")])]
    scheduler, fleet = under_load([report("a", engines)], [request("other:1b")])
    load = scheduler.load
    candidate = decide(request(NAME), fleet, load, load.predictor, 0.1).winner
    assert not candidate.starts_now
    assert (
        candidate.cost.loaded_state_ms
        > 1e3 * load.replicas[candidate.replica.slot_key].rates.load_s
    )


def talk(turns):
    return tuple(hash(("talk", tuple(range(i)))) for i in range(1, turns + 1))


def test_a_conversation_goes_back_to_where_its_cache_is():
    fleet = fleet_of([report(n, [engine([model(NAME)], [NAME])]) for n in ("a", "b")])
    scheduler = Scheduler(QueueSettings(), Predictor())
    load = scheduler.load
    other = request(NAME)
    scheduler.on_request(other, fleet, 0.0)  # on a
    first = request(NAME, prompt_tokens=5120, prefix=talk(20))
    (grant,) = scheduler.on_request(first, fleet, 0.0)
    assert grant.decision.winner.replica.node_id == "b"
    for asked in (other, first):
        scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, None, fleet, 9.0)
    turn = request(NAME, prompt_tokens=5632, prefix=talk(22))
    decision = decide(turn, fleet, load, load.predictor, 10.0)
    assert nodes_of(decision) == ["b", "a"]
    assert decision.winner.cost.prefix_affinity_ms < -1000
    assert decision.candidates[1].cost.prefix_affinity_ms == 0


def test_strangers_keep_off_a_live_conversations_slot():
    fleet = fleet_of([report(n, [engine([model(NAME)], [NAME])]) for n in ("a", "b")])
    scheduler = Scheduler(QueueSettings(), Predictor())
    load = scheduler.load
    now_s = 0.0
    for turn in range(4, 24):  # a lively conversation, on whatever node it settles
        asked = request(NAME, now_s, prompt_tokens=256 * turn, prefix=talk(turn))
        (grant,) = scheduler.on_request(asked, fleet, now_s)
        home = grant.decision.winner.replica.node_id
        scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, None, fleet, now_s + 2)
        now_s += 10
    stranger = decide(request(NAME, now_s), fleet, load, load.predictor, now_s)
    assert stranger.winner.replica.node_id != home
    lost = stranger.candidates[1].cost.prefix_affinity_ms
    assert lost > 0
