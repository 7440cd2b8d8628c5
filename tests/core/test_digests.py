"""One name, one model: which one, and that lists, show and routing agree."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api import merge
from ollama_herd.core.digests import DigestConflict, digest_conflicts, served_digest
from ollama_herd.core.fleet import NodeDrained, apply
from ollama_herd.core.load import Load
from ollama_herd.core.node import EngineKind, Model
from ollama_herd.core.predict import Predictor
from ollama_herd.core.routing import Eliminated, decide
from ollama_herd.core.times import NO_TIME, parse_time
from ollama_herd.router.models.targets import holders
from tests.core.fleets import engine, fleet_of, report, request

NAME = "m:7b"
A, B, C = "a" * 64, "b" * 64, "c" * 64


def fleet_with(*held, kinds=()):
    """A node for each (digest, second of its change)."""
    return fleet_of(
        report(
            f"n{i}",
            [
                engine(
                    [Model(NAME, digest=digest, modified_at=f"2026-01-01T00:00:{second:02d}Z")],
                    kind=kinds[i] if i < len(kinds) else EngineKind.OLLAMA,
                )
            ],
        )
        for i, (digest, second) in enumerate(held)
    )


def deciding(fleet):
    predictor = Predictor()
    return decide(request(NAME), fleet, Load(predictor), predictor, 0.0)


_held = st.lists(
    st.tuples(st.sampled_from([A, B, C, ""]), st.integers(0, 3)), min_size=1, max_size=7
)


@given(_held)
def test_lists_show_and_routing_agree(held):
    fleet = fleet_with(*held)
    replicas = fleet.replicas[NAME]
    served = served_digest(replicas)
    (entry,) = json.loads(merge.tags(fleet))["models"]
    assert entry["digest"] == served or not served
    decision = deciding(fleet)
    routed = {candidate.replica.node_id for candidate in decision.candidates}
    assert routed == {r.node_id for r in replicas if r.model.digest in ("", served)}
    assert {target.node_id for target in holders(fleet, NAME, served_only=True)} == routed
    left_out = {r.node_id: r for r in decision.eliminated}
    conflicts = digest_conflicts(fleet)
    assert {id_ for c in conflicts for _, ids in c.others for id_ in ids} == set(left_out)
    for rejected in left_out.values():
        assert rejected.reason is Eliminated.DIGEST_CONFLICT
        assert served[:12] in rejected.detail


@given(_held, st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(held, random):
    replicas = list(fleet_with(*held).replicas[NAME])
    served = served_digest(replicas)
    random.shuffle(replicas)
    assert served_digest(replicas) == served


def test_conflicts_name_the_nodes():
    fleet = fleet_with((A, 1), (B, 2), (A, 1), (C, 9), ("", 9))
    assert digest_conflicts(fleet) == (DigestConflict(NAME, A, ((B, ("n1",)), (C, ("n3",)))),)
    assert digest_conflicts(fleet_with((A, 1), (A, 2), ("", 3))) == ()


def test_a_node_that_cannot_be_used_is_no_conflict():
    fleet = apply(fleet_with((A, 1), (B, 2)), NodeDrained("n1", draining=True), 0.0)
    assert digest_conflicts(fleet) == ()
    assert served_digest(fleet.replicas[NAME]) == A


def test_what_tells_no_digest_has_no_say():
    fleet = fleet_with((A, 1), ("", 9), ("", 9))
    assert served_digest(fleet.replicas[NAME]) == A
    assert len(deciding(fleet).candidates) == 3


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-01T00:00:01.5Z", (1, 500_000_000)),
        ("1970-01-01T01:00:00.000000001+01:00", (0, 1)),
        ("yesterday", NO_TIME),
        ("2026-13-01T00:00:00Z", NO_TIME),
    ],
)
def test_times(text, time):
    assert parse_time(text) == time
