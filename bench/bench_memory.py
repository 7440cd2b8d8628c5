"""What a router keeps of a large fleet. Run: `python -m bench.bench_memory [NODES ...]`.

Prints, for fleets of 100, 1,000 and 10,000 nodes (or those named) with four models each: bytes of
the fleet and of the scheduler with all it has learned, what 500 further requests of as many
clients add, and what a decision takes. Ends with 1 when a fleet or its requests take more than is
allowed: that would grow without bound.
"""

import gc
import sys
import time
import tracemalloc

import msgspec
from tests.core.fleets import engine, fleet_of, model, report, request

from ollama_herd.core.fleet import Fleet, restored
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler

MODELS = ("a:7b", "b:7b", "c:7b", "d:7b")
REQUESTS = 500
USAGE = Usage(prompt_tokens=200, output_tokens=100, load_ms=50, prefill_ms=200, decode_ms=1000)

MOST_PER_NODE_BYTES = 24_000
MOST_PER_REQUEST_BYTES = 3_000
"""As in tests/core/test_scale.py, where a node has one model: the mean of two more is bounded."""


def fleet(count: int) -> Fleet:
    told = report("x", [engine([model(name) for name in MODELS], MODELS[:1], slots=2)])
    pattern = fleet_of([told]).nodes["x"]
    # Each node with values of its own, as reports make them.
    packed = msgspec.msgpack.encode(pattern)
    kind = type(pattern)
    return restored(
        (
            msgspec.structs.replace(msgspec.msgpack.decode(packed, type=kind), node_id=f"n{i:05}")
            for i in range(count)
        ),
        0.0,
    )


def serve(scheduler: Scheduler, nodes: Fleet, count: int, begin_s: float) -> float:
    """So many requests, one after the other; the best time of a decision in ms."""
    best_s = float("inf")
    for number in range(count):
        now_s = begin_s + number / 100
        asked = request(MODELS[number % 4], now_s, client=f"c{now_s}", prefix=(number, number + 1))
        begun_s = time.perf_counter()
        (effect,) = scheduler.on_request(asked, nodes, now_s)
        best_s = min(best_s, time.perf_counter() - begun_s)
        if not isinstance(effect, Grant):
            raise TypeError("a fleet without work refused a request")
        scheduler.on_first_byte(asked.request_id, now_s)
        scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, USAGE, nodes, now_s)
    return 1e3 * best_s


def traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def measured(count: int) -> bool:
    """One line; whether it is within what is allowed."""
    tracemalloc.start()
    nodes = fleet(count)
    of_fleet = traced_bytes()
    scheduler = Scheduler(QueueSettings(), Predictor())
    serve(scheduler, nodes, 8, 0.0)  # every model is looked at once
    of_scheduler = traced_bytes() - of_fleet
    serve(scheduler, nodes, REQUESTS, 100.0)
    of_requests = traced_bytes() - of_fleet - of_scheduler
    tracemalloc.stop()
    decision_ms = serve(scheduler, nodes, 20, 1000.0)
    print(
        f"{count:6} nodes: fleet {of_fleet / 1e6:6.1f} MB, scheduler {of_scheduler / 1e6:6.1f} MB "
        f"({of_scheduler / count:,.0f} B a node), {REQUESTS} requests more "
        f"{of_requests / 1e6:4.1f} MB ({of_requests / REQUESTS:,.0f} B each), "
        f"a decision {decision_ms:.2f} ms"
    )
    is_small = of_scheduler / count < MOST_PER_NODE_BYTES + 1e6 / count
    return is_small and of_requests / REQUESTS < MOST_PER_REQUEST_BYTES


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] or [100, 1_000, 10_000]
    results = [measured(count) for count in counts]  # all of them, whatever the first says
    if not all(results):
        sys.exit(1)


if __name__ == "__main__":
    main()
