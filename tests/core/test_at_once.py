"""The policies that are there to compare with: each request goes on at once, by a simple rule."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.at_once import AtOnce, Policy, scheduler
from ollama_herd.core.predict import Predictor
from ollama_herd.core.queue import QueueSettings
from ollama_herd.core.request import OutcomeKind, RefusalKind
from ollama_herd.core.scheduler import Grant, Refuse, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "m:7b"
SIMPLE = [Policy.LEAST_REQUESTS, Policy.ROUND_ROBIN]


def fleet(nodes=3):
    return fleet_of(report(f"n{i}", [engine([model(NAME)], [NAME])]) for i in range(nodes))


def made(policy):
    return scheduler(QueueSettings(limit=0), Predictor(), policy)


def where(effects):
    (effect,) = effects
    assert isinstance(effect, Grant)
    return effect.decision.winner.replica.node_id


def test_the_routers_own_policy_is_no_such():
    own = made(Policy.EXPECTED_COMPLETION)
    assert type(own) is Scheduler
    assert type(made(Policy.ROUND_ROBIN)) is AtOnce


@pytest.mark.parametrize("policy", SIMPLE)
def test_nothing_waits_and_all_nodes_get_their_share(policy):
    policy_of, there = made(policy), fleet()
    taken = Counter(where(policy_of.on_request(request(NAME), there, 0.0)) for _ in range(12))
    assert set(taken.values()) == {4}
    assert policy_of.queue(0.0).waiting == 0


def test_least_requests_goes_where_one_has_ended():
    policy_of, there = made(Policy.LEAST_REQUESTS), fleet()
    asked = [request(NAME) for _ in range(6)]
    went = {r.request_id: where(policy_of.on_request(r, there, 0.0)) for r in asked}
    policy_of.on_finished(asked[4].request_id, OutcomeKind.COMPLETED, None, there, 1.0)
    assert where(policy_of.on_request(request(NAME), there, 1.0)) == went[asked[4].request_id]


@given(st.lists(st.sampled_from([NAME, "other:1b"]), max_size=30))
def test_turns_are_by_model(names):
    policy_of = made(Policy.ROUND_ROBIN)
    both = [model(NAME), model("other:1b")]
    there = fleet_of(report(f"n{i}", [engine(both)]) for i in range(3))
    turns = Counter()
    for name in names:
        assert where(policy_of.on_request(request(name), there, 0.0)) == f"n{turns[name] % 3}"
        turns[name] += 1


@pytest.mark.parametrize("policy", SIMPLE)
def test_a_failed_attempt_goes_elsewhere_until_none_is_left(policy):
    policy_of, there = made(policy), fleet(2)
    asked = request(NAME)
    first = where(policy_of.on_request(asked, there, 0.0))
    second = where(policy_of.on_retry(asked.request_id, OutcomeKind.ENGINE_ERROR, there, 1.0))
    assert first != second
    (refused,) = policy_of.on_retry(asked.request_id, OutcomeKind.ENGINE_ERROR, there, 2.0)
    assert isinstance(refused, Refuse)
    assert refused.refusal.kind is RefusalKind.NO_NODE
    assert not policy_of.load.running
    assert policy_of.on_retry(asked.request_id, OutcomeKind.ENGINE_ERROR, there, 3.0) == ()


@pytest.mark.parametrize("policy", SIMPLE)
def test_unknown_models_are_refused_and_nothing_is_loaded_ahead(policy):
    policy_of, there = made(policy), fleet()
    (refused,) = policy_of.on_request(request("nope"), there, 0.0)
    assert refused.refusal.kind is RefusalKind.UNKNOWN_MODEL
    assert policy_of.place(there, 10.0) == ()
