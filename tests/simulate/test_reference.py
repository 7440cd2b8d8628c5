"""The reference policy is what is written down: its terms, its estimators, its queue."""

from math import exp, log
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_herd.core.fleet import Fleet, NodeReported, apply
from ollama_herd.core.node import NodeReport
from ollama_herd.core.request import Dialect, InferenceRequest, Kind, OutcomeKind, Usage
from ollama_herd.simulate import comparison, machines, workloads
from ollama_herd.simulate.engine import ENGINE_ID, KEEP_ALIVE_S, Engine, Job, kept_s
from ollama_herd.simulate.policy import Preload, Send, Unload
from ollama_herd.simulate.reference.cost import cheapest
from ollama_herd.simulate.reference.lengths import Continuations, Lengths
from ollama_herd.simulate.reference.policy import KEEP_S, Reference
from ollama_herd.simulate.reference.rates import FACTOR_LIMIT_LN, Decaying, LogRate
from ollama_herd.simulate.world import Conditions, World

NAMES = ("qwen3:8b", "llama3.2:3b", "gemma3:12b")
USAGE = Usage(prompt_tokens=400, output_tokens=80, load_ms=50.0, prefill_ms=400.0, decode_ms=1600.0)


def asked(request_id, model="qwen3:8b", now_s=0.0, **more):
    return InferenceRequest(
        request_id,
        model,
        model,
        Kind.CHAT,
        Dialect.OLLAMA,
        "/api/chat",
        now_s,
        stream=True,
        prompt_tokens=more.pop("prompt_tokens", 400),
        **more,
    )


class Router:
    """The policy with a fleet of idle machines, and engines that are told by the test."""

    def __init__(self, kinds=("studio", "mini-pro"), loaded=(), names=NAMES):
        self.policy = Reference(Random(1))
        self.now_s = 0.0
        self.fleet = Fleet()
        self.machines = {m.name: m for m in (machines.KINDS[kind] for kind in kinds)}
        truth = machines.Truth(tuple(self.machines.values()), 1, 0.0)
        self.engines = {name: Engine(m, names, truth) for name, m in self.machines.items()}
        self.seq = 0
        for name in loaded:
            for engine in self.engines.values():
                engine.submit(Job(asked("load", name), name, 1, 0, 0, 0.0))
                while engine.next_s() < KEEP_ALIVE_S:
                    list(engine.advance(engine.next_s()))
        self.hear()

    def hear(self, *names):
        for name in names or self.machines:
            self.seq += 1
            engine, machine = self.engines[name], self.machines[name]
            report = NodeReport(
                node_id=name,
                boot=1,
                seq=self.seq,
                platform=machine.platform,
                vitals=machine.vitals(engine.used_gb, 0.0),
                engines=(engine.report(),),
            )
            self.fleet = apply(self.fleet, NodeReported(report, "10.0.0.1"), self.now_s)
        return self.policy.passed(self.fleet, self.now_s)

    def ask(self, request_id, *args, **more):
        request = asked(request_id, *args, now_s=self.now_s, **more)
        return self.policy.arrived(request, self.fleet, self.now_s)

    def end(self, request_id, outcome=OutcomeKind.COMPLETED, usage=USAGE):
        return self.policy.finished(request_id, outcome, usage, self.fleet, self.now_s)

    def terms(self, request, held=()):
        prices, beliefs = self.policy.prices, self.policy.beliefs
        need = prices.need(request)
        hosts = beliefs.hosts(request.model_key, self.fleet)
        return [prices.terms(host, need, self.now_s, held) for host in hosts]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_terms_add_up_to_the_cost(data):
    draw = data.draw
    router = Router(loaded=draw(st.sampled_from([(), NAMES[:1], NAMES[:2]])))
    for number in range(draw(st.integers(0, 8))):
        router.ask(
            f"r{number}",
            draw(st.sampled_from(NAMES)),
            prefix=tuple(range(draw(st.integers(0, 4)))),
            prompt_tokens=draw(st.integers(1, 6000)),
        )
        router.now_s += draw(st.sampled_from([0.0, 1.0, 40.0]))
    held = [router.now_s + s for s in draw(st.lists(st.floats(0, 100), max_size=4))]
    for t in router.terms(asked("x", draw(st.sampled_from(NAMES)), prefix=(0, 1, 9)), held):
        parts = (t.wait_s, t.load_s, t.prefill_s, t.decode_s)
        weighted = 1.5 * t.others_s + 1.0 * t.evict_s + 4.0 * t.lost_s + 1.0 * t.future_s
        assert t.cost == pytest.approx(sum(parts) + weighted)
        assert min(*parts, t.others_s, t.evict_s, t.lost_s, t.future_s) >= 0
        if t.starts_now:
            assert t.wait_s == 0


def test_the_figures_of_an_idle_loaded_machine_are_the_formulas():
    router = Router(("studio",), loaded=("qwen3:8b",))
    (terms,) = router.terms(asked("x"))
    rates = terms.host.rates
    prefill = 400 * (1 + 200 / 32768) / rates.prefill.value
    decode = 200 * (rates.decode.value + rates.kv_s * (400 + 100))
    assert terms.prefill_s == pytest.approx(prefill)
    assert terms.decode_s == pytest.approx(decode)
    assert terms.cost == pytest.approx(prefill + decode)


def test_a_slot_in_use_and_those_held_are_waited_for_in_turn():
    router = Router(("mini",), loaded=("qwen3:8b",))
    router.ask("a")
    (free_soon,) = router.terms(asked("x"))
    (later,) = router.terms(asked("x"), held=[router.now_s + 500])
    assert 0 < free_soon.wait_s < later.wait_s == pytest.approx(500)
    assert not free_soon.starts_now


def test_a_busy_victim_is_waited_for_and_an_idle_one_unloaded():
    router = Router(("mini",), loaded=("qwen3:8b",))
    router.ask("a")
    (blocked,) = router.terms(asked("x", "gemma3:12b"))
    assert not blocked.starts_now
    assert blocked.evict_s == pytest.approx(0.2 * blocked.wait_s)
    assert router.ask("b", "gemma3:12b") == []
    first, second = router.end("a")
    assert isinstance(first, Unload)
    assert first.replica.model.name == "qwen3:8b"
    assert isinstance(second, Send)
    assert second.keep_alive_s == KEEP_S


def test_those_behind_see_the_place_reserved():
    """Two wait for the fast machine; the third would rather load the slow one than wait so long."""
    router = Router(("studio", "mini"), loaded=("qwen3:8b",))
    places = []
    for number in range(12):
        places += [a.replica.node_id for a in router.ask(f"r{number}", prompt_tokens=4000)]
    assert places.count("studio") == machines.KINDS["studio"].slots
    assert places.count("mini") == 1


def test_an_unreachable_machine_is_out_until_it_reports():
    router = Router(("studio", "mini-pro"), loaded=("qwen3:8b",))
    (sent,) = router.ask("a")
    assert sent.replica.node_id == "studio"
    (again,) = router.policy.failed("a", OutcomeKind.UNREACHABLE, router.fleet, router.now_s)
    assert again.replica.node_id == "mini-pro"
    router.now_s = 5.0
    router.hear("studio")
    (back,) = router.ask("b")
    assert back.replica.node_id == "studio"


def test_a_backlog_gets_another_host():
    router = Router(("mini-pro", "mbp-max"), names=NAMES[:1])
    router.policy.prices.lengths.learn(asked("l"), 400, 4000)
    loads = []
    for number in range(40):
        router.ask(f"r{number}")
    for _ in range(10):
        router.now_s += 1.0
        loads += [a for a in router.hear() if isinstance(a, Preload)]
    hosts = router.policy.beliefs.hosts("qwen3:8b", router.fleet)
    assert all(host.is_present for host in hosts)
    assert all(load.request.keep_alive_s == KEEP_S for load in loads)


# --- estimators --------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(0, 1)), max_size=60))
def test_a_rate_stays_within_a_factor_of_eight_of_its_prior(samples):
    rate = LogRate(100.0)
    for sample, weight in samples:
        rate.learn(sample, weight)
        assert abs(rate.ln - log(100.0)) <= FACTOR_LIMIT_LN + 1e-9
        assert rate.value == pytest.approx(exp(rate.ln))


def test_a_rate_finds_the_truth():
    rate = LogRate(100.0)
    for _ in range(60):
        rate.learn(300.0)
    assert rate.value == pytest.approx(300.0, rel=0.01)


def test_arrivals_fade_with_five_minutes():
    rate = Decaying()
    for second in range(3000):
        rate.add(float(second))
    assert rate.of(3000.0) == pytest.approx(1.0, rel=0.02)
    assert rate.of(3300.0) == pytest.approx(rate.of(3000.0) / exp(1))


@given(st.lists(st.floats(1, 4096), max_size=250), st.floats(0, 5000))
def test_a_rest_is_the_mean_residual_life(answers, streamed):
    lengths = Lengths()
    for tokens in answers:
        lengths.learn(asked("x"), None, tokens)
    longer = [x - streamed for x in answers[-200:] if x > streamed]
    expected = (sum(longer) + 2 * (0.5 * streamed + 40)) / (len(longer) + 2)
    assert lengths.rest(asked("x"), streamed) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    capped = asked("x", max_tokens=int(streamed))
    assert lengths.rest(capped, streamed) == 0


def test_a_conversation_is_less_likely_to_come_back_the_longer_it_is_silent():
    known = Continuations()
    for turn in range(1, 30):
        known.arrived(tuple(range(turn)), 10.0 * turn)
    assert known.chance(1.0) > 0.9
    assert known.chance(20.0) == 0


@pytest.mark.parametrize(("wrong", "factor"), [(0.35, 1.5), (1.4, 2.0)])
def test_no_rate_runs_away_in_a_long_mixed_load(wrong, factor):
    """The fault that the study warns of. A rate counts together with the speed believed now."""
    fleet = machines.fleet("f6")
    conditions = Conditions(wrong_ln=wrong, owners=False)
    case = comparison.Case(
        "c", fleet, workloads.chat, workloads.MIXES["wide"], 0.6, conditions, 600
    )
    policy = Reference(Random(1))
    World(comparison.scenario(case, 3), policy).run()
    truth = machines.Truth(fleet, 3, wrong)
    learned = 0
    for machine in policy.beliefs.machines.values():
        for host in machine.hosts.values():
            if host.rates.decode.count < 20:
                continue
            learned += 1
            step_s = host.rates.decode.value / machine.pace.speed
            true_s = truth.rates(machine.name, host.replica.model.name).step_s
            assert 1 / factor < step_s / true_s < factor
    assert learned >= 4


# --- what it needs of the simulator ------------------------------------------------------------


def test_a_model_kept_for_ever_stays():
    engine = Router(("studio",)).engines["studio"]
    for name, keep_alive_s in (("qwen3:8b", -1.0), ("gemma3:12b", None), ("llama3.2:3b", 20.0)):
        job = Job(asked(name, name), name, 100, 2, 0, 0.0)
        job.keep_alive_s = kept_s(keep_alive_s)
        engine.submit(job)
    left = {}
    for until_s in (60.0, 3 * KEEP_ALIVE_S):
        while engine.next_s() <= until_s:
            list(engine.advance(engine.next_s()))
        left[until_s] = set(engine.runners)
    assert left[60.0] == {"qwen3:8b", "gemma3:12b"}
    assert left[3 * KEEP_ALIVE_S] == {"qwen3:8b"}
    assert engine.report().engine_id == ENGINE_ID


def test_streamed_tokens_grow_from_one_to_all():
    engine = Router(("studio",)).engines["studio"]
    job = Job(asked("a"), "qwen3:8b", 100, 50, 0, 0.0)
    engine.submit(job)
    seen = [job.streamed(0.0)]
    while engine.next_s() < KEEP_ALIVE_S:
        at_s = engine.next_s()
        seen += [job.streamed(share * (at_s - engine.now_s)) for share in (0.25, 0.5, 0.75)]
        list(engine.advance(at_s))
        seen.append(job.streamed(0.0))
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == 50


def test_everything_sent_is_accounted_for_when_all_is_done():
    case = comparison.Case(
        "c",
        machines.fleet("f4"),
        workloads.chat,
        workloads.MIXES["few"],
        0.7,
        Conditions(failures_per_h=12),
        300,
    )
    policy = Reference(Random(1))
    outcome = World(comparison.scenario(case, 2), policy).run()
    assert outcome.failed == outcome.starved == 0
    # The run is over with the last answer, which the policy has not been told of.
    flights = [
        f for m in policy.beliefs.machines.values() for h in m.busy.values() for f in h.flights
    ]
    assert len(flights) == sum(m.in_flight for m in policy.beliefs.machines.values()) == 1
    assert sum(policy._clients.values()) == 1


def test_of_equal_costs_the_first_wins():
    router = Router(("studio",), loaded=("qwen3:8b",))
    (terms,) = router.terms(asked("x"))
    twin = terms._replace(cached=1.0)
    assert cheapest([terms, twin]) is terms
