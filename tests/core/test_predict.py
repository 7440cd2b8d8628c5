"""The predictor learns what is true, slowly lies to nobody, and is never led astray."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core import hardware as hw
from ollama_herd.core.learned import PredictorState, Service
from ollama_herd.core.node import Gpu, Model, ModelDetails, Platform, Vitals
from ollama_herd.core.predict import (
    PRIOR_FACTOR_LN,
    SPEED_LN_MAX,
    SPEED_LN_MIN,
    Estimate,
    Predictor,
)
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from tests.core.fleets import GB, engine, fleet_of, model, report, request
from tests.core.simulation import Truth, World

ANY = st.floats(allow_nan=True, allow_infinity=True)
POSITIVE = st.floats(0, 1e15)


def one_node(name="m:7b", node_id="a", slots=1, others=()):
    models = [model(name), *(model(other) for other in others)]
    fleet = fleet_of([report(node_id, [engine(models, [m.name for m in models], slots=slots)])])
    return fleet, fleet.nodes[node_id], fleet.replicas[name][0]


def service(**changes):
    plain = Service(
        prompt_tokens=1000,
        cached_tokens=0,
        output_tokens=200,
        prefill_s=1.0,
        decode_s=4.0,
        progress_s=4.0,
        load_s=None,
        stall_tokens_s=0.0,
        is_prefill_clean=True,
        is_decode_clean=True,
        is_cache_known=True,
        predicted_prefill_s=1.0,
        predicted_decode_s=4.0,
    )
    return msgspec.structs.replace(plain, **changes)


# -- estimates ---------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e6), st.lists(st.tuples(ANY, ANY), max_size=60))
def test_an_estimate_stays_within_a_factor_of_its_prior(prior, samples):
    estimate = Estimate(prior)
    for sample, weight in samples:
        estimate.learn(sample, weight)
        assert prior / 8.01 <= estimate.value <= prior * 8.01


@given(st.floats(0.2, 5.0), st.integers(1, 20))
def test_an_estimate_finds_the_truth(truth, seed):
    noise = random.Random(seed)
    estimate = Estimate(1.0)
    for _ in range(60):
        estimate.learn(truth * noise.uniform(0.8, 1.25))
    assert truth / 1.3 < estimate.value < truth * 1.3


def test_one_outlier_moves_an_estimate_little():
    estimate = Estimate(1.0)
    for _ in range(20):
        estimate.learn(1.0)
    estimate.learn(1e9)
    assert estimate.value < 1.25
    estimate.learn(1e-9)
    assert 0.8 < estimate.value < 1.25


def test_a_new_prior_keeps_what_was_learned():
    learned, unlearned = Estimate(1.0), Estimate(1.0)
    for _ in range(30):
        learned.learn(2.0)
    learned.rebase(4.0)
    unlearned.rebase(4.0)
    assert learned.value == pytest.approx(2.0, rel=0.05)
    assert unlearned.value == pytest.approx(4.0)


# -- whatever is fed, rates stay sane ----------------------------------------------------------

maybe = st.none() | POSITIVE
lessons = st.builds(
    Service,
    prompt_tokens=POSITIVE,
    cached_tokens=POSITIVE,
    output_tokens=POSITIVE,
    prefill_s=maybe,
    decode_s=maybe,
    progress_s=maybe,
    load_s=maybe,
    stall_tokens_s=POSITIVE,
    is_prefill_clean=st.booleans(),
    is_decode_clean=st.booleans(),
    is_cache_known=st.booleans(),
    predicted_prefill_s=POSITIVE,
    predicted_decode_s=POSITIVE,
)


@given(st.lists(lessons, max_size=40))
def test_rates_stay_within_bounds_whatever_is_fed(fed):
    _, node, replica = one_node()
    predictor = Predictor()
    pace, rates = predictor.pace(node), predictor.rates(node, replica)
    priors = (rates.inv_prefill_s, rates.step_s, rates.load_s)
    for now_s, lesson in enumerate(fed):
        predictor.learn(pace, rates, lesson, float(now_s))
        for prior, value in zip(
            priors, (rates.inv_prefill_s, rates.step_s, rates.load_s), strict=True
        ):
            assert abs(math.log(value / prior)) <= PRIOR_FACTOR_LN + 1e-9
        assert SPEED_LN_MIN - 1e-9 <= math.log(pace.speed) <= SPEED_LN_MAX + 1e-9
        assert 0 < pace.slow_prefill < 100
        assert 0 < pace.slow_decode < 100


def test_mixed_samples_move_prefill_and_decode_together():
    _, node, replica = one_node()
    predictor = Predictor()
    pace, rates = predictor.pace(node), predictor.rates(node, replica)
    before = (rates.prefill.ln, rates.step.ln)
    mixed = service(is_prefill_clean=False, is_decode_clean=False, progress_s=20.0)
    predictor.learn(pace, rates, mixed, 1.0)
    moved = (rates.prefill.ln - before[0], rates.step.ln - before[1])
    assert moved[0] == pytest.approx(-moved[1])
    assert moved[1] > 0  # slower than predicted: a longer step, a lower rate


def test_prompts_that_may_have_been_cached_hardly_raise_the_rate():
    _, node, replica = one_node()
    sure, unsure = Predictor(), Predictor()
    for predictor, known in ((sure, True), (unsure, False)):
        rates = predictor.rates(node, replica)
        lesson = service(prompt_tokens=8000, prefill_s=0.5, is_cache_known=known)
        for now_s in range(5):
            predictor.learn(predictor.pace(node), rates, lesson, float(now_s))
    gained = [math.exp(p.rates(node, replica).prefill.error_ln) for p in (sure, unsure)]
    assert gained[0] > 3
    assert gained[1] < 1.5


def test_a_new_model_borrows_what_others_showed_of_the_machine():
    fleet, node, replica = one_node(others=["n:7b"])
    predictor = Predictor()
    rates = predictor.rates(node, replica)
    for now_s in range(12):
        slow = service(progress_s=4 * 200 * rates.step_s, decode_s=None)
        predictor.learn(predictor.pace(node), rates, slow, float(now_s))
    other = predictor.rates(node, fleet.replicas["n:7b"][0])
    assert other.step.error_ln > 0.4 * rates.step.error_ln > 0


def test_momentary_slowness_is_forgotten():
    _, node, replica = one_node()
    predictor = Predictor()
    pace, rates = predictor.pace(node), predictor.rates(node, replica)
    for now_s in range(40):
        predictor.learn(pace, rates, service(progress_s=200 * rates.step_s), float(now_s))
    for now_s in range(40, 43):
        predictor.learn(pace, rates, service(progress_s=800 * rates.step_s), float(now_s))
    assert pace.speed < 0.6
    pace.refresh(43 + 3600.0)
    assert pace.speed == pytest.approx(1.0, abs=0.02)


def test_old_slowness_does_not_weigh_on_a_new_sample():
    _, node, _ = one_node()
    pace = Predictor().pace(node)
    pace.saw_speed(-2.0, 1.0, 0.0)
    pace.saw_speed(-2.0, 1.0, 1.0)
    pace.saw_speed(0.0, 1.0, 7200.0)
    assert pace.speed_ln == pytest.approx(0.0, abs=0.01)


def test_an_owner_at_work_is_expected_to_slow_the_machine():
    _, node, _ = one_node()
    pace = Predictor().pace(node)
    pace.busy_since_s = 100.0
    pace.refresh(400.0)
    assert pace.speed == pytest.approx(0.5, abs=0.02)
    pace.busy_since_s = None
    pace.refresh(400.0)
    assert pace.speed == pytest.approx(1.0)


# -- long mixed load ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wrong", [0.3, 1.0, 3.0])
def test_long_mixed_load_stays_within_twice_the_truth(seed, wrong):
    """Two models side by side on machines whose priors are off by `wrong`."""
    rng = random.Random(seed)
    names = ["m:7b", "n:7b"]
    models = [model(name) for name in names]
    reports = [report(node, [engine(models, names, slots=2)]) for node in ("a", "b")]
    fleet = fleet_of(reports)
    priors = Predictor()
    truths = {}
    for node in ("a", "b"):
        rates = priors.rates(fleet.nodes[node], fleet.replicas["m:7b"][0])
        truths[node] = Truth(rates.inv_prefill_s * wrong, rates.step_s * wrong)
    world = World(reports, truths)
    arrivals = []
    now_s = 0.0
    mean_s = truths["a"].step_s * 150
    for _ in range(500):
        now_s += rng.expovariate(1 / (0.4 * mean_s))
        asked = request(
            rng.choice(names), now_s, prompt_tokens=rng.randint(50, 3000), stream=rng.random() < 0.7
        )
        arrivals.append((now_s, asked, max(1, int(rng.expovariate(1 / 150)))))
    world.run(arrivals)
    assert len(world.done) == 500
    for key, load in world.scheduler.load.replicas.items():
        truth, pace = truths[key[0]], load.node.pace
        step = load.rates.step_s * pace.slow_decode
        prefill = load.rates.inv_prefill_s * pace.slow_prefill
        assert truth.step_s / 2 < step < truth.step_s * 2
        assert truth.prefill_s / 2 < prefill < truth.prefill_s * 2


# -- failures never teach ----------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from([o for o in OutcomeKind if o is not OutcomeKind.COMPLETED]),
            st.floats(0.0, 50.0),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_failures_never_teach(history):
    fleet, _, _ = one_node()
    scheduler = Scheduler(QueueSettings(), Predictor())
    predictor = scheduler.load.predictor
    usage = Usage(prompt_tokens=9, output_tokens=1, load_ms=9000.0, prefill_ms=1.0, decode_ms=1.0)
    now_s = 0.0
    first = request("m:7b", now_s)
    scheduler.on_request(first, fleet, now_s)
    scheduler.on_cancel(first.request_id, fleet, now_s)
    before = predictor.state()
    seq = 2
    for outcome, pause_s, retried in history:
        asked = request("m:7b", now_s)
        scheduler.on_request(asked, fleet, now_s)
        now_s += pause_s
        if retried:
            scheduler.on_retry(asked.request_id, outcome, fleet, now_s)
        scheduler.on_finished(asked.request_id, outcome, usage, fleet, now_s)
        scheduler.on_cancel(asked.request_id, fleet, now_s)
        models = [model("m:7b")]
        again = report("a", [engine(models, ["m:7b"])], seq=seq)
        fleet = fleet_of([again], now_s, fleet)
        seq += 1
    assert predictor.state() == before


# -- state over restarts -----------------------------------------------------------------------


def test_what_was_learned_survives_a_restart():
    _, node, replica = one_node()
    predictor = Predictor()
    pace, rates = predictor.pace(node), predictor.rates(node, replica)
    asked = request("m:7b", client="ann")
    for now_s in range(30):
        predictor.learn(pace, rates, service(load_s=9.0), float(now_s))
        predictor.lengths.learn_output(asked, 900)
    packed = msgspec.json.encode(predictor.state())
    again = Predictor()
    again.restore(msgspec.json.decode(packed, type=PredictorState))
    after = again.rates(node, replica)
    assert after.step_s == pytest.approx(rates.step_s)
    assert after.inv_prefill_s == pytest.approx(rates.inv_prefill_s)
    assert after.load_s == pytest.approx(rates.load_s)
    assert again.lengths.output_tokens(asked) > 700
    assert again.state().nodes == predictor.state().nodes


def test_machines_not_seen_since_a_restart_are_not_forgotten():
    _, node, replica = one_node()
    predictor = Predictor()
    predictor.learn(predictor.pace(node), predictor.rates(node, replica), service(), 1.0)
    kept = predictor.state()
    again = Predictor()
    again.restore(kept)
    assert again.state().nodes == kept.nodes
    again.pace(node)  # the node is back, the model was not asked for yet
    assert again.state().nodes == kept.nodes


@given(st.floats(-1e3, 1e3), st.floats(-5, 1e9))
def test_a_damaged_state_cannot_lead_astray(ln, count):
    _, node, replica = one_node()
    good = Predictor()
    good.learn(good.pace(node), good.rates(node, replica), service(), 1.0)
    (kept,) = good.state().nodes
    runners = tuple(
        msgspec.structs.replace(r, step_ln=ln, step_count=count, prefill_ln=-ln, load_ln=ln)
        for r in kept.runners
    )
    bad = msgspec.structs.replace(kept, runners=runners, bias_decode_ln=ln, busy_ln=ln)
    again = Predictor()
    again.restore(PredictorState(nodes=(bad,)))
    rates, fresh = again.rates(node, replica), Predictor().rates(node, replica)
    assert abs(math.log(rates.step_s / fresh.step_s)) <= PRIOR_FACTOR_LN + 1e-9


# -- priors ------------------------------------------------------------------------------------


def test_better_machines_are_expected_to_be_faster():
    big = Model("m", size_bytes=20 * GB, details=ModelDetails(parameter_size="32B"))
    scale = hw.scale_of(big)
    laptop = hw.hardware_of(Platform(system="linux"), Vitals(memory_total_bytes=32 * GB))
    mini = hw.hardware_of(Platform(system="darwin", machine="arm64", chip="Apple M4 Pro"), Vitals())
    studio = hw.hardware_of(
        Platform(system="darwin", machine="arm64", chip="Apple M2 Ultra"), Vitals()
    )
    card = hw.hardware_of(
        Platform(system="linux"),
        Vitals(gpus=(Gpu("NVIDIA GeForce RTX 4090", "nvidia", 24 * GB, 24 * GB),)),
    )
    machines = [laptop, mini, studio, card]
    assert [h.bandwidth_gb_s for h in machines] == [40, 273, 800, 1008]
    steps = [hw.step_s(h, scale) for h in machines]
    assert steps == sorted(steps, reverse=True)
    rates = [hw.prefill_tokens_s(h, scale) for h in machines]
    assert rates == sorted(rates)


def test_a_model_larger_than_the_card_is_expected_to_run_partly_on_the_host():
    card = hw.hardware_of(
        Platform(system="linux"),
        Vitals(gpus=(Gpu("NVIDIA GeForce RTX 3060", "nvidia", 12 * GB, 12 * GB),)),
    )
    small = hw.scale_of(Model("s", size_bytes=8 * GB))
    large = hw.scale_of(Model("l", size_bytes=40 * GB))
    assert hw.step_s(card, large) > 20 * hw.step_s(card, small)


@pytest.mark.parametrize(
    ("name", "parameters", "family", "active"),
    [
        ("llama3.2:3b", "3.2B", "llama", 3.2),
        ("qwen3:30b-a3b", "30.5B", "qwen3moe", 3.0),
        ("gpt-oss:20b", "20.9B", "gptoss", 3.55),
        ("mixtral:8x7b", "8x7B", "llama", 12.9),
        ("tiny", "134.52M", "llama", 0.1345),
    ],
)
def test_active_parameters(name, parameters, family, active):
    told = Model(name, details=ModelDetails(parameter_size=parameters, family=family))
    assert hw.scale_of(told).active_b == pytest.approx(active, rel=0.03)


@given(
    st.builds(
        Model,
        name=st.text(max_size=10),
        size_bytes=st.integers(0, 10**13),
        details=st.builds(
            ModelDetails, parameter_size=st.text(max_size=6), quantization_level=st.text(max_size=6)
        ),
    ),
    st.builds(
        Vitals,
        memory_total_bytes=st.integers(0, 10**13),
        gpus=st.lists(
            st.builds(
                Gpu,
                name=st.text(max_size=12),
                vendor=st.sampled_from(["", "nvidia", "amd", "apple", "intel"]),
                memory_total_bytes=st.integers(0, 10**12),
                unified=st.booleans(),
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        Platform,
        system=st.sampled_from(["", "linux", "darwin", "windows"]),
        machine=st.sampled_from(["", "arm64", "x86_64"]),
        chip=st.text(max_size=12),
        memory_bandwidth_bytes_s=st.integers(0, 10**13),
    ),
)
def test_priors_are_finite_whatever_a_machine_says(told, vitals, platform):
    hardware, scale = hw.hardware_of(platform, vitals), hw.scale_of(told)
    assert 0 < hw.step_s(hardware, scale) < float("inf")
    assert 0 < hw.prefill_tokens_s(hardware, scale) < float("inf")
