"""Ten thousand nodes: what is kept is bounded by the fleet, not by what passed through."""

import gc
import tracemalloc

import msgspec
import pytest

from ollama_herd.core.fleet import restored
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NODES = 10_000
NAME = "m:7b"
USAGE = Usage(prompt_tokens=200, output_tokens=100, load_ms=50, prefill_ms=200, decode_ms=1000)

PER_NODE_BYTES = 6_000
"""Twice what a node with one model and its learned rates takes."""

PER_REQUEST_BYTES = 3_000
"""What is kept of a request of a client nobody knew: its share, lengths, the prompt's chain."""


@pytest.fixture(scope="module")
def fleet():
    (pattern,) = fleet_of([report("x", [engine([model(NAME)], [NAME])])]).nodes.values()
    return restored(
        (msgspec.structs.replace(pattern, node_id=f"n{i:05}") for i in range(NODES)), 0.0
    )


def serve(scheduler, fleet, count, begin_s):
    """So many requests of as many clients, each with a prompt of its own."""
    for number in range(count):
        now_s = begin_s + number / 100
        asked = request(NAME, now_s, client=f"c{now_s}", prefix=(number, number + 1))
        (effect,) = scheduler.on_request(asked, fleet, now_s)
        assert isinstance(effect, Grant)
        scheduler.on_first_byte(asked.request_id, now_s)
        scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, USAGE, fleet, now_s)


def taken_bytes():
    """What the core holds and the tests made for it; other threads of this process allocate too."""
    gc.collect()
    ours = [
        tracemalloc.Filter(inclusive=True, filename_pattern=f"*{part}*")
        for part in ("ollama_herd/core", "tests/core")
    ]
    taken = tracemalloc.take_snapshot().filter_traces(ours)
    return sum(statistic.size for statistic in taken.statistics("filename"))


def test_memory_is_bounded_by_the_fleet(fleet):
    scheduler = Scheduler(QueueSettings(), Predictor())
    gc.collect()
    tracemalloc.start()
    try:
        serve(scheduler, fleet, 40, 0.0)
        first = taken_bytes()
        assert first < NODES * PER_NODE_BYTES
        serve(scheduler, fleet, 80, 1000.0)
        assert taken_bytes() - first < 80 * PER_REQUEST_BYTES
    finally:
        tracemalloc.stop()


def test_nodes_that_left_are_forgotten(fleet):
    scheduler = Scheduler(QueueSettings(), Predictor())
    serve(scheduler, fleet, 3, 0.0)
    assert len(scheduler.load.nodes) == NODES
    few = restored([fleet.nodes["n00007"]], 10.0)
    scheduler.on_fleet(few, 10.0)
    assert set(scheduler.load.nodes) == {"n00007"}
    assert len(scheduler.load.replicas) == 1
