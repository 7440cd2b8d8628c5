"""What a routing decision costs. Run: `python -m pytest bench/bench_decide.py`.

Targets: 50 nodes x 20 models under 100 us, also with 60 requests under way, 2,000 candidates under
2 ms, and the path of a
request through an idle fleet (asked, granted, finished) under 15 us.
"""

import itertools
import random

import msgspec
import pytest
from tests.core.fleets import engine, fleet_of, model, report, request

from ollama_herd.core.fleet import Fleet, restored
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import InferenceRequest, OutcomeKind, Usage
from ollama_herd.core.routing import decide
from ollama_herd.core.scheduler import QueueSettings, Scheduler

MODELS = [f"m{i}:7b" for i in range(20)]
ASKED = MODELS[7]
USAGE = Usage(prompt_tokens=200, output_tokens=100, load_ms=50, prefill_ms=200, decode_ms=1000)


def nodes(count: int, slots: int = 2) -> Fleet:
    """`count` nodes with all models on disk; every second one has the asked one loaded."""
    told = [
        report("x", [engine([model(m) for m in MODELS], loaded, slots=slots)])
        for loaded in ([ASKED, MODELS[1]], [MODELS[2], MODELS[3]])
    ]
    pattern = [fleet_of([r]).nodes["x"] for r in told]
    return restored(
        (msgspec.structs.replace(pattern[i % 2], node_id=f"n{i:04}") for i in range(count)), 0.0
    )


def under_load(fleet: Fleet, requests: int, *, decoding: bool = False) -> Scheduler:
    """So many requests under way; `decoding`: long conversations in the middle of their answers,
    of models whose lengths are known.
    """
    scheduler = Scheduler(QueueSettings(), Predictor())
    lengths, chance = scheduler.load.predictor.lengths, random.Random(1)  # noqa: S311 - no secret
    for _ in range(200 if decoding else 0):
        for name in MODELS:
            lengths.learn_output(request(name), 1 + chance.expovariate(1 / 200))
    for number in range(requests):
        name = MODELS[1 + number % 3] if number % 2 else ASKED
        asked = long(name, chance) if decoding else request(name)
        scheduler.on_request(asked, fleet, 0.001 * number)
        if decoding:
            scheduler.on_first_byte(asked.request_id, 0.8)
    return scheduler


def long(name: str, chance: random.Random) -> InferenceRequest:
    """A prompt of eight blocks that nobody has sent before."""
    chain = tuple(chance.randrange(2**60) for _ in range(8))
    return request(name, prompt_tokens=2000, prefix=chain)


@pytest.mark.parametrize(
    ("count", "target_us", "busy", "decoding"),
    [
        (2, 10, 0, False),
        (50, 100, 0, False),
        (50, 100, 60, False),
        (50, 100, 60, True),
        (2000, 2000, 0, False),
        (2000, 2000, 1000, False),
        (2000, 2000, 1000, True),
    ],
)
def test_decide(benchmark, count, target_us, busy, *, decoding):
    fleet = nodes(count)
    load = under_load(fleet, busy, decoding=decoding).load
    asked = long(ASKED, random.Random(2)) if decoding else request(ASKED)  # noqa: S311 - no secret
    decision = benchmark(decide, asked, fleet, load, load.predictor, 1.0)
    assert len(decision.candidates) + decision.more == count
    assert 1e6 * benchmark.stats.stats.min < target_us


def test_request_through_an_idle_fleet(benchmark):
    fleet = nodes(2)
    scheduler = Scheduler(QueueSettings(), Predictor())
    clock = itertools.count()

    def once() -> None:
        now_s = 0.001 * next(clock)
        scheduler.on_request(asked, fleet, now_s)
        scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, USAGE, fleet, now_s)

    asked = request(ASKED)
    benchmark(once)
    assert 1e6 * benchmark.stats.stats.min < 15


def test_a_slot_frees_while_a_thousand_wait(benchmark):
    """50 saturated nodes: each end of a request looks at the waiting ones."""
    fleet = nodes(50, slots=1)
    scheduler = Scheduler(QueueSettings(limit=10_000), Predictor())
    granted: list[str] = []
    clock = itertools.count()

    def ask() -> None:
        effects = scheduler.on_request(request(ASKED, 0.0), fleet, 0.001 * next(clock))
        granted.extend(e.request_id for e in effects)

    def once() -> None:
        now_s = 0.001 * next(clock)
        effects = scheduler.on_finished(granted.pop(0), OutcomeKind.COMPLETED, USAGE, fleet, now_s)
        granted.extend(e.request_id for e in effects)
        ask()

    for _ in range(1100):
        ask()
    assert scheduler.queue(1.0).waiting > 900
    benchmark.pedantic(once, rounds=300)
    assert 1e3 * benchmark.stats.stats.median < 5
