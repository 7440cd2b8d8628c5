"""Decisions for requests that come at once, and among many nodes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core import routing
from ollama_herd.core.node import Platform
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.routing import PRICED_IN_FULL
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from tests.core.deciding import NAME, deciding, node_reports, nodes_of, requests
from tests.core.fleets import engine, fleet_of, model, report, request

# -- simultaneous requests ---------------------------------------------------------------------


@given(
    st.sampled_from([None, 1, 2, 8]),
    st.booleans(),
    st.floats(0.1, 40),
    requests,
    st.sampled_from([(), ("size",)]),
)
def test_two_equal_idle_nodes_get_one_each(slots, loaded, size, asked, unknown):
    told = model(NAME, 0 if unknown else size)
    fleet = fleet_of(
        [report(n, [engine([told], [NAME] if loaded else [], slots=slots)]) for n in ("a", "b")]
    )
    scheduler = Scheduler(QueueSettings(), Predictor())
    places = []
    for number in range(2):
        twin = msgspec.structs.replace(asked, request_id=f"twin{number}")
        (grant,) = scheduler.on_request(twin, fleet, 5.0)
        assert isinstance(grant, Grant)
        places.append(grant.decision.winner.replica.node_id)
    assert sorted(places) == ["a", "b"]


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_equal_nodes_stay_equally_loaded(finishes):
    """One at a time or many at once: nobody is favoured by name."""
    fleet = fleet_of([report(n, [engine([model(NAME)], [NAME], slots=4)]) for n in ("a", "b")])
    scheduler = Scheduler(QueueSettings(), Predictor())
    running = []
    usage = Usage(prompt_tokens=200, output_tokens=200)
    for number, finish in enumerate(finishes):
        asked = request(NAME, 0.01 * number)
        effects = scheduler.on_request(asked, fleet, 0.01 * number)
        running += [(e.request_id, e.decision.winner.replica.node_id) for e in effects]
        if finish and len(running) > 1:
            request_id, _ = running.pop(0)
            scheduler.on_finished(request_id, OutcomeKind.CANCELLED, usage, fleet, 0.01 * number)
    depths = [sum(1 for _, node in running if node == n) for n in ("a", "b")]
    assert abs(depths[0] - depths[1]) <= 1 + sum(finishes) // 2


# -- many nodes --------------------------------------------------------------------------------


def test_the_best_of_many_nodes_is_found_and_the_rest_is_counted():
    chips = ["Apple M1", "Apple M2 Max", "Apple M3 Ultra"]
    reports = [
        report(
            f"n{i:03}",
            [engine([model(NAME)], [NAME] if i % 7 == 0 else [])],
            platform=Platform(system="darwin", machine="arm64", chip=chips[i % 3]),
        )
        for i in range(200)
    ]
    fleet = fleet_of(reports)
    decision = deciding(fleet)
    assert len(decision.candidates) == PRICED_IN_FULL
    assert decision.more == 200 - PRICED_IN_FULL
    best = [f"n{i:03}" for i in range(200) if i % 7 == 0 and i % 3 == 2]
    assert nodes_of(decision)[: len(best)] == best


@given(st.lists(node_reports, min_size=8, max_size=14), requests)
def test_the_winner_among_many_idle_nodes_is_that_of_a_full_ranking(reports, asked):
    reports = [msgspec.structs.replace(r, node_id=f"x{i:02}") for i, r in enumerate(reports)]
    fleet = fleet_of(reports)
    full = deciding(fleet, asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "PRICED_IN_FULL", 3)
        decision = deciding(fleet, asked)
    assert decision.winner.cost.total_ms == pytest.approx(full.winner.cost.total_ms)
    assert len(decision.candidates) + decision.more == len(full.candidates)
