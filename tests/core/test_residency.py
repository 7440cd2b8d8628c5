"""Loads ahead of requests: where they help, never at the cost of what is busy, never to and fro."""

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Kind
from ollama_herd.core.residency import PAUSE_S, Residency, options_in_demand
from ollama_herd.core.scheduler import Grant, OutcomeKind, QueueSettings, Scheduler
from ollama_herd.simulate import comparison, machines, workloads
from ollama_herd.simulate.policies import Herd
from ollama_herd.simulate.policy import Preload
from ollama_herd.simulate.world import Conditions, World
from tests.core.fleets import engine, fleet_of, model, report, request

MODEL = "llama3.2:3b"
BIG = "big:70b"


def started(reports, asked, until_s=3.0):
    """A scheduler that got `asked` requests of MODEL, ticked until then; its planned loads."""
    scheduler = Scheduler(QueueSettings(), Predictor())
    fleet = fleet_of(reports)
    scheduler.on_fleet(fleet, 0.0)
    for _ in range(asked):
        scheduler.on_request(request(MODEL, now_s=0.5, prompt_tokens=4000), fleet, 0.5)
    grants = []
    now_s = 1.0
    while now_s <= until_s:
        scheduler.on_fleet(fleet, now_s)
        grants += scheduler.place(fleet, now_s)
        now_s += 1.0
    return scheduler, fleet, grants


def node(name, *, hot=(), free_gb=64.0, models=None):
    return report(name, [engine(models or [model()], loaded=hot)], free_gb=free_gb)


def test_a_backlog_gets_another_host_once() -> None:
    reports = [node("a", hot=[MODEL]), node("b", free_gb=30.0)]
    scheduler, fleet, grants = started(reports, 1)
    assert not grants
    replica = next(r for r in scheduler.load.replicas.values() if r.key[0] == "b")
    replica.rates.load_s = 40.0  # so long that nobody who waits would rather go there
    for _ in range(60):
        scheduler.on_request(request(MODEL, now_s=4.0, prompt_tokens=4000), fleet, 4.0)
    grants = [*scheduler.place(fleet, 5.0), *scheduler.place(fleet, 6.0)]
    assert [g.decision.candidates[0].replica.node_id for g in grants] == ["b"]
    assert replica.loading_until_s > 6.0
    scheduler.on_finished(grants[0].request_id, OutcomeKind.COMPLETED, None, fleet, 45.0)
    assert replica.is_hot
    assert not replica.rate_per_s(45.0) or replica.running


def test_a_load_that_failed_is_not_tried_again_at_once() -> None:
    reports = [node("a", hot=[MODEL]), node("b", free_gb=30.0)]
    scheduler, fleet, _ = started(reports, 1)
    replica = next(r for r in scheduler.load.replicas.values() if r.key[0] == "b")
    replica.rates.load_s = 40.0
    for _ in range(60):
        scheduler.on_request(request(MODEL, now_s=4.0, prompt_tokens=4000), fleet, 4.0)
    (first,) = scheduler.place(fleet, 5.0)
    scheduler.on_finished(first.request_id, OutcomeKind.CLIENT_ERROR, None, fleet, 6.0)
    replica.rates.load_s = 40.0
    times = [t for t in range(7, 90) if scheduler.place(fleet, float(t))]
    assert not times or times[0] >= 5 + PAUSE_S


@pytest.mark.parametrize(("wide", "window"), [(40, 8192), (20, 0)])
def test_a_further_host_gets_the_window_that_most_requests_ask_for(wide, window) -> None:
    reports = [node("a", hot=[MODEL]), node("b", free_gb=30.0)]
    scheduler, fleet, _ = started(reports, 1)
    replica = next(r for r in scheduler.load.replicas.values() if r.key[0] == "b")
    replica.rates.load_s = 40.0
    for number in range(60):
        options = (("num_ctx", 8192),) if number < wide else ()
        asked = request(MODEL, now_s=4.0, prompt_tokens=4000, load_options=options)
        scheduler.on_request(asked, fleet, 4.0)
    planned = options_in_demand(replica, MODEL, scheduler.load, scheduler._room)
    assert dict(planned).get("num_ctx", 0) == window


@pytest.mark.parametrize("answered", [True, False])
def test_what_nobody_asks_for_now_is_loaded_as_it_was_asked_for_last(answered) -> None:
    """A pinned model whose engine was started anew, say."""
    scheduler, fleet, _ = started([node("a", hot=[MODEL])], 0)
    wide = (("num_ctx", 8192),)
    asked = request(MODEL, now_s=4.0, load_options=wide)
    scheduler.on_request(asked, fleet, 4.0)
    (replica,) = scheduler.load.replicas.values()
    outcome = OutcomeKind.COMPLETED if answered else OutcomeKind.CLIENT_ERROR
    scheduler.on_finished(asked.request_id, outcome, None, fleet, 5.0)
    replica.became_cold()
    planned = options_in_demand(replica, MODEL, scheduler.load, scheduler._room)
    assert planned == (wide if answered else ())


EMBEDDER = "nomic-embed-text:latest"


def embedding_nodes(*, is_full: bool):
    """Embeddings on one machine; on the other one there is room beside its chat model, or not."""
    models = [model(BIG, 40.0), model(EMBEDDER, 1.0, capabilities=("embedding",))]
    other = node("b", hot=[BIG], free_gb=0.5 if is_full else 20.0, models=models)
    return [node("a", hot=[EMBEDDER], models=models), other]


@pytest.mark.parametrize("is_full", [False, True])
def test_embeddings_get_a_further_host_beside_chat_models_and_never_instead(is_full) -> None:
    scheduler, fleet, _ = started(embedding_nodes(is_full=is_full), 0)
    for number in range(61):
        asked = request(EMBEDDER, now_s=4.0, prompt_tokens=8000, kind=Kind.EMBED)
        scheduler.on_request(asked, fleet, 4.0)
        elsewhere = next(r for r in scheduler.load.replicas.values() if r.key[0] == "b")
        elsewhere.rates.load_s = 100.0  # so long that nobody who waits would rather go there
        assert not elsewhere.running, number
    grants = [g for t in range(5, 12) for g in scheduler.place(fleet, float(t))]
    assert [g.decision.candidates[0].replica.node_id for g in grants] == ([] if is_full else ["b"])
    assert not any(g.decision.evicts for g in grants)


def test_nothing_is_loaded_that_nobody_holds() -> None:
    """What engines or clients unloaded comes back by a request, not by a plan."""
    scheduler, fleet, _ = started([node("a"), node("b")], 1)
    for grant in scheduler.load.running.copy():
        scheduler.on_finished(grant, OutcomeKind.COMPLETED, None, fleet, 3.0)
    for load in scheduler.load.replicas.values():
        load.became_cold()
    assert not any(scheduler.place(fleet, float(t)) for t in range(4, 60))


def test_a_busy_model_is_never_pushed_out() -> None:
    both = [model(), model(BIG, size_gb=40.0)]
    reports = [node("a", hot=[MODEL]), node("b", hot=[BIG], free_gb=0.5, models=both)]
    scheduler, fleet, _ = started(reports, 1)
    (busy,) = scheduler.on_request(request(BIG, now_s=3.5), fleet, 3.5)
    assert isinstance(busy, Grant)
    for _ in range(60):
        scheduler.on_request(request(MODEL, now_s=4.0, prompt_tokens=4000), fleet, 4.0)
    assert not scheduler.place(fleet, 5.0)


@settings(max_examples=60, deadline=None)
@given(
    free=st.lists(st.floats(0, 64), min_size=2, max_size=5),
    hot=st.lists(st.booleans(), min_size=5, max_size=5),
    others=st.lists(st.booleans(), min_size=5, max_size=5),
    asked=st.integers(1, 40),
)
def test_a_plan_keeps_within_memory_and_off_what_runs(free, hot, others, asked) -> None:
    both = [model(), model(BIG, size_gb=40.0)]
    reports = [
        node(
            f"n{i}",
            hot=[name for name, is_hot in ((MODEL, hot[i]), (BIG, others[i])) if is_hot],
            free_gb=gb,
            models=both,
        )
        for i, gb in enumerate(free)
    ]
    scheduler = Scheduler(QueueSettings(), Predictor())
    fleet = fleet_of(reports)
    scheduler.on_fleet(fleet, 0.0)
    for number in range(asked):
        name = BIG if number % 7 == 3 else MODEL
        scheduler.on_request(request(name, now_s=0.5, prompt_tokens=3000), fleet, 0.5)
    for t in range(1, 12):
        plan = Residency().plan(scheduler._load, scheduler._room, fleet, float(t))
        assert len({replica.key[0] for replica in plan}) == len(plan)
        for replica in plan:
            told = fleet.nodes[replica.key[0]]
            index = int(told.node_id[1:])
            idle_gb = sum(
                size
                for name, size in ((MODEL, 2.0), (BIG, 40.0))
                if any(m.name == name for m in told.engines[0].loaded)
                and not any(
                    r.request.model == name
                    for x in replica.node.active.values()
                    for r in x.running.values()
                )
            )
            assert not replica.running
            assert replica.node.loading is None
            assert replica.rates.scale.size_gb < free[index] + idle_gb


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_constant_load_comes_to_rest(seed: int) -> None:
    """The same demand for twenty minutes: many arrivals may be worth a load, turns are not."""
    planned: list[tuple[float, str]] = []

    class Watched(Herd):
        def passed(self, fleet, now_s):
            actions = super().passed(fleet, now_s)
            planned.extend((now_s, a.replica.node_id) for a in actions if isinstance(a, Preload))
            return actions

    case = comparison.Case(
        "constant",
        machines.fleet("f4"),
        workloads.BUILT_IN["chat"],
        workloads.MIXES["two"],
        0.5,
        Conditions(owners=False),
    )
    World(comparison.scenario(case, seed), Watched(Random(0))).run()
    assert len(planned) <= 4
    assert all(later - at >= 300 for (at, _), (later, _) in itertools.pairwise(planned))
