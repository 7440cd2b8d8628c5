"""Many requests in flight: a sample stands for them, and a decision costs no more than for few."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.inflight import SAMPLE, Running
from ollama_herd.core.predict import Predictor
from ollama_herd.core.remaining import ends_in_s, remaining_times
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.routing import decide
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "m:7b"
USAGE = Usage(prompt_tokens=200, output_tokens=100)
SLOTS = 10_000


def busy(count=0, slots=SLOTS, nodes=("a",), every_s=0.05, blocks=0):
    """(scheduler, fleet, ids in flight): requests that came one by one and answer since, each
    with a prompt of so many blocks of its own.
    """
    fleet = fleet_of(report(n, [engine([model(NAME)], [NAME], slots=slots)]) for n in nodes)
    scheduler = Scheduler(QueueSettings(), Predictor())
    ids = [
        start(scheduler, fleet, every_s * number, prefix=(number + 1,) * blocks)
        for number in range(count)
    ]
    return scheduler, fleet, ids


def start(scheduler, fleet, now_s, **more):
    asked = request(NAME, now_s, **more)
    (grant,) = scheduler.on_request(asked, fleet, now_s)
    scheduler.on_first_byte(grant.request_id, now_s + 0.01)
    return grant.request_id


def only(scheduler):
    (replica,) = scheduler.load.replicas.values()
    return replica


moves = st.lists(st.one_of(st.just(-1), st.integers(0, 10**6)), max_size=60)


@given(moves)
def test_the_sample_is_everything_while_few_run_and_part_of_it_else(history):
    scheduler, fleet, _ = busy()
    ids = []
    start(scheduler, fleet, 0.0)
    replica = only(scheduler)
    for now_s, move in enumerate(history, 1):
        if move >= 0 and ids:
            gone = ids.pop(move % len(ids))
            scheduler.on_finished(gone, OutcomeKind.COMPLETED, USAGE, fleet, float(now_s))
        else:
            ids.append(start(scheduler, fleet, float(now_s)))
        sample = replica.sample
        assert len(sample) == len(set(map(id, sample))) == min(SAMPLE, len(replica.running))
        assert set(map(id, sample)) <= set(map(id, replica.running.values()))
        assert replica.sampled_weight() * len(sample) == pytest.approx(len(replica.running))


@given(
    st.lists(st.floats(0.0, 60.0), min_size=1, max_size=SAMPLE),
    st.lists(st.floats(0.0, 200.0), max_size=4),
    st.floats(60.0, 120.0),
    st.data(),
)
def test_of_few_the_end_is_exact(starts, held, now_s, data):
    scheduler, fleet, _ = busy()
    for at_s in sorted(starts):
        start(scheduler, fleet, at_s)
    replica = only(scheduler)
    ahead = data.draw(st.integers(0, len(starts) + len(held) - 1))
    ends = remaining_times(replica, now_s) + [max(at - now_s, 0.0) for at in held]
    assert ends_in_s(replica, held, ahead, now_s) == max(sorted(ends)[ahead], 1e-3)


@given(
    st.integers(SAMPLE + 1, 100),
    st.lists(st.floats(0.0, 200.0), max_size=4),
    st.floats(0.0, 100.0),
)
def test_of_many_a_later_end_is_never_sooner_and_none_is_after_the_last(count, held, now_s):
    scheduler, _, _ = busy(count, every_s=0.5)
    replica = only(scheduler)
    ends = [ends_in_s(replica, held, ahead, now_s) for ahead in range(count + len(held))]
    assert ends == pytest.approx(sorted(ends), rel=1e-12)
    last_s = max(remaining_times(replica, now_s) + [at - now_s for at in held])
    assert ends[-1] == pytest.approx(max(last_s, 1e-3))


@given(st.integers(1, 40), st.integers(0, 2000), st.integers(1, 500))
def test_one_more_in_flight_never_makes_a_place_cheaper(count, prompt, output):
    scheduler, fleet, _ = busy()
    asked = request(NAME, 1.0, prompt_tokens=prompt, max_tokens=output)
    before_ms = 0.0
    for _ in range(count):
        start(scheduler, fleet, 0.0)
        load = scheduler.load
        cost = decide(asked, fleet, load, load.predictor, 1.0).candidates[0].cost
        assert cost.role_affinity_ms >= before_ms * (1 - 1e-9)
        before_ms = cost.role_affinity_ms


def test_a_sample_of_coming_and_going_requests_looks_like_all_of_them():
    chance = random.Random(7)
    scheduler, fleet, ids = busy(200)
    replica = only(scheduler)
    for step in range(3000):
        now_s = 10.0 + 0.05 * step
        gone = ids.pop(chance.randrange(len(ids)))
        scheduler.on_finished(gone, OutcomeKind.COMPLETED, USAGE, fleet, now_s)
        ids.append(start(scheduler, fleet, now_s))
    runs: list[Running] = list(replica.running.values())
    exact_s = sum(now_s - run.dispatched_s for run in runs)
    sampled_s = sum(now_s - run.dispatched_s for run in replica.sample) * replica.sampled_weight()
    assert 0.4 * exact_s < sampled_s < 2.5 * exact_s


def operations(call):
    """Bytecode instructions that Python executes for a call: work without a clock."""
    return monitored(call) if sys.version_info >= (3, 12) else traced(call)


def monitored(call):
    """By sys.monitoring; from Python 3.12 on tracing sees the instructions of some calls only."""
    count = 0

    def look(_code, _offset):
        nonlocal count
        count += 1

    watch, instruction = sys.monitoring, sys.monitoring.events.INSTRUCTION
    watch.use_tool_id(watch.PROFILER_ID, "operations")
    try:
        watch.register_callback(watch.PROFILER_ID, instruction, look)
        watch.set_events(watch.PROFILER_ID, instruction)
        call()
    finally:
        watch.set_events(watch.PROFILER_ID, 0)
        watch.register_callback(watch.PROFILER_ID, instruction, None)
        watch.free_tool_id(watch.PROFILER_ID)
    return count


def traced(call):
    count = 0

    def look(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def life(count, slots=SLOTS, blocks=0):
    """Instructions of a request's way through the scheduler while `count` others are in flight."""
    scheduler, fleet, _ = busy(count, slots=slots, nodes=("a", "b"), blocks=blocks)
    now_s = 0.05 * count
    scheduler.on_fleet(fleet, now_s)
    asked = request(NAME, now_s, prefix=(0,) * blocks)
    return (
        operations(lambda: scheduler.on_request(asked, fleet, now_s)),
        operations(lambda: scheduler.on_first_byte(asked.request_id, now_s)),
        operations(
            lambda: scheduler.on_finished(
                asked.request_id, OutcomeKind.COMPLETED, USAGE, fleet, now_s
            )
        ),
    )


def test_a_request_costs_the_same_beside_5000_as_beside_50():
    few, many = life(50), life(5000)
    for before, after in zip(few, many, strict=True):
        assert after < 1.2 * before + 50


def test_a_request_that_waits_costs_the_same_beside_5000_as_beside_50():
    few, many = life(50, slots=25), life(5000, slots=2500)
    for before, after in zip(few, many, strict=True):
        assert after < 1.2 * before + 50


def test_a_long_prompt_costs_the_same_beside_5000_as_beside_200():
    few, many = life(200, blocks=4), life(5000, blocks=4)
    for before, after in zip(few, many, strict=True):
        assert after < 1.2 * before + 50
