"""What the trace store costs: CPU a trace, and answers over a million traces.

    python bench/bench_store.py [--rows 1000000] [--home FOLDER]

The CPU figure is `time.process_time` over both threads (the caller of `put` and the writer) from
the first `put` until the last trace is committed, divided by the traces; making the traces is not
counted. Traces have three candidates, one eliminated node and one attempt.
"""

import argparse
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ollama_herd import logs
from ollama_herd.clock import now_s
from ollama_herd.core.node import Endpoint, EngineKind, LoadedModel, Model, Replica
from ollama_herd.core.request import (
    Attempt,
    Dialect,
    InferenceRequest,
    Kind,
    OutcomeKind,
    Usage,
)
from ollama_herd.core.routing import Candidate, Cost, Eliminated, Rejected, RouteDecision
from ollama_herd.core.trace import Trace
from ollama_herd.store.database import Database
from ollama_herd.store.expiry import Retention
from ollama_herd.store.queries import StatusClass, TraceFilter
from ollama_herd.store.thread import TREND_INTERVAL_S
from ollama_herd.store.traces import TraceStore, open_traces
from ollama_herd.store.trends import Step

MODELS = tuple(f"llama3.{i}:8b" for i in range(8))
NODES = tuple(f"node-{i}-5f3a9c" for i in range(6))
CLIENTS = tuple(f"192.168.1.{i}" for i in range(50))
MONTH_S = 30 * 86400.0
START_S = now_s() - MONTH_S


def _decision(dice: random.Random, model: str) -> RouteDecision:
    candidates = []
    for node in dice.sample(NODES, 3):
        parts = [dice.random() * 1000 if dice.random() < 0.5 else 0.0 for _ in range(8)]
        candidates.append(
            Candidate(
                replica=Replica(
                    node_id=node,
                    engine_id="ollama-11434",
                    kind=EngineKind.OLLAMA,
                    model=Model(name=model),
                    runner=model,
                    loaded=LoadedModel(name=model) if dice.random() < 0.7 else None,
                    slots=4,
                    max_loaded=3,
                    endpoint=Endpoint(host="10.0.0.2", port=11434),
                ),
                cost=Cost(sum(parts), *parts),
                starts_now=True,
            )
        )
    rejected = Rejected(dice.choice(NODES), "ollama-11434", Eliminated.OFFLINE)
    return RouteDecision(model, tuple(candidates), (rejected,), 0, 180.0, 812.0)


def traces(count: int, span_s: float, decisions: int = 2000) -> Iterator[Trace]:
    """`count` traces evenly over `span_s`; two in a hundred fail, one in a hundred is cancelled."""
    dice = random.Random(11)  # noqa: S311 - the same traces in every run
    ready = [_decision(dice, MODELS[i % len(MODELS)]) for i in range(decisions)]
    for i in range(count):
        decision = ready[i % decisions]
        replica = decision.candidates[0].replica
        status = dice.choices((200, 500, 499), (97, 2, 1))[0]
        ttft_ms = 50 + dice.random() * 900
        total_ms = ttft_ms + dice.random() * 20_000
        outcome = OutcomeKind.COMPLETED if status == 200 else OutcomeKind.ENGINE_ERROR
        yield Trace(
            request=InferenceRequest(
                request_id=f"{0x19A0000000000 + i:016x}",
                model=decision.model_key,
                model_key=decision.model_key,
                kind=Kind.CHAT,
                dialect=Dialect.OLLAMA,
                path="/api/chat",
                arrived_s=i * 0.001,
                stream=True,
                prompt_tokens=300,
                client=dice.choice(CLIENTS),
            ),
            started_s=START_S + i * span_s / count,
            total_ms=total_ms,
            queue_ms=dice.random(),
            ttft_ms=ttft_ms if status == 200 else -1.0,
            status=status,
            error="" if status == 200 else "engine_error",
            decision=decision,
            attempts=(
                Attempt(
                    node_id=replica.node_id,
                    engine_id=replica.engine_id,
                    model=decision.model_key,
                    outcome=outcome,
                    status=status,
                    started_ms=0.1234,
                    first_byte_ms=ttft_ms,
                    ended_ms=total_ms,
                ),
            ),
            usage=Usage(
                prompt_tokens=dice.randrange(2000),
                output_tokens=dice.randrange(800),
                load_ms=1.5,
                prefill_ms=ttft_ms - 10,
                decode_ms=total_ms - ttft_ms,
                done_reason="stop",
            ),
            model_served=decision.model_key,
            node_id=replica.node_id,
        )


def put_all(store: TraceStore, made: list[Trace]) -> None:
    """As fast as the writer follows, in bursts such as an event loop would make."""
    done = store.health().written + len(made)
    for start in range(0, len(made), 500):
        while store.health().pending > 5000:
            time.sleep(0.005)
        for trace in made[start : start + 500]:
            store.put(trace)
    while store.health().written < done:
        time.sleep(0.01)


def measure_put(home: Path, count: int, runs: int) -> None:
    for run in range(runs):
        store = open_traces(Database(home / f"put-{run}"), Retention(days=0, max_rows=0))
        made = list(traces(count, span_s=count * 0.01))
        put_all(store, made[:1000])  # opened, labels known, statements prepared
        made = made[1000:]
        gc.collect()
        gc.freeze()  # a router does not hold 100,000 traces for the collector to walk through
        wall = time.perf_counter()
        cpu = time.process_time()
        put_all(store, made)
        cpu = time.process_time() - cpu
        wall = time.perf_counter() - wall
        health = store.health()
        store.close()
        gc.unfreeze()
        print(
            f"put+write: {cpu / len(made) * 1e6:.2f} us CPU a trace, {len(made)} traces, "
            f"{len(made) / wall:.0f} traces/s, dropped {health.dropped}, "
            f"{(home / f'put-{run}' / 'herd.db').stat().st_size / health.written:.0f} bytes a trace"
        )


def fill(home: Path, rows: int) -> TraceStore:
    store = open_traces(Database(home), Retention(days=0, max_rows=0))
    begin = time.perf_counter()
    chunk: list[Trace] = []
    for trace in traces(rows, MONTH_S):
        chunk.append(trace)
        if len(chunk) == 20_000:
            put_all(store, chunk)
            chunk = []
    put_all(store, chunk)
    time.sleep(TREND_INTERVAL_S + 1)
    size = store.health().file_bytes
    print(f"filled {rows} rows in {time.perf_counter() - begin:.0f} s, {size / 1e6:.0f} MB")
    return store


def timed(name: str, ask: Callable[[], Any], runs: int = 5) -> None:
    took = []
    for _ in range(runs):
        begin = time.perf_counter()
        answer = ask()
        took.append((time.perf_counter() - begin) * 1e3)
    size = len(answer) if isinstance(answer, list) else int(answer is not None)
    print(f"{name:52} {statistics.median(took):7.1f} ms (worst {max(took):.1f}), {size} rows")


def measure_queries(store: TraceStore) -> None:
    middle = START_S + MONTH_S / 2
    end = START_S + MONTH_S
    some = store.recent(limit=1)[0]
    questions = {
        "newest 100": TraceFilter(),
        "model": TraceFilter(model=MODELS[3]),
        "model and node": TraceFilter(model=MODELS[3], node_id=NODES[2]),
        "client": TraceFilter(client=CLIENTS[7]),
        "failed": TraceFilter(status=StatusClass.FAILED),
        "error text": TraceFilter(error="ENGINE"),
        "an hour, two weeks ago": TraceFilter(from_s=middle, until_s=middle + 3600),
        "model in a day, two weeks ago": TraceFilter(
            from_s=middle, until_s=middle + 86400, model=MODELS[1]
        ),
        "nothing: ok and error text": TraceFilter(status=StatusClass.OK, error="engine"),
        "nothing: client and unlikely node": TraceFilter(
            client=CLIENTS[1], node_id=NODES[1], model=MODELS[1], status=StatusClass.CLIENT_ERROR
        ),
        "nothing: a tag never used": TraceFilter(tag="nightly"),
    }
    for name, wanted in questions.items():
        timed(f"recent: {name}", lambda wanted=wanted: store.recent(wanted, 100))
    deep = store.recent(TraceFilter(until_s=middle), limit=1)[0].cursor
    timed("recent: page half a million deep", lambda: store.recent(None, 100, deep))
    timed("get", lambda: store.get(some.request_id))
    timed("trend: 30 days by hour", lambda: store.trend(START_S, end, Step.HOUR))
    timed("trend: a model, 30 days by hour", lambda: store.trend(START_S, end, model=MODELS[0]))
    timed(
        "trend: a node, 2 days by minute",
        lambda: store.trend(end - 2 * 86400, end, Step.MINUTE, node_id=NODES[0]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--puts", type=int, default=101_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--home", type=Path)
    given = parser.parse_args()
    logs.setup("warning")
    with tempfile.TemporaryDirectory() as scratch:
        home = given.home or Path(scratch)
        measure_put(home, given.puts, given.runs)
        if given.rows:
            store = fill(home / "many", given.rows)
            measure_queries(store)
            store.close()


if __name__ == "__main__":
    main()
