"""Deltas: what a router holds after any sequence of reports is what the node said last."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.agent.report import (
    LONGEST_BACKOFF_S,
    About,
    Sections,
    backoff_s,
    build_goodbye,
    build_report,
)
from ollama_herd.core.fleet import Fleet, NodeReported, apply, needs_full_report
from ollama_herd.core.node import EngineKind, EngineReport, NodeStatus, Platform, Vitals

ABOUT = About("id", 7, "name", "1.0", 11436, "relay-key")
SECTIONS = st.builds(
    Sections,
    platform=st.sampled_from([Platform(), Platform(system="linux")]),
    vitals=st.builds(Vitals, memory_available_bytes=st.integers(0, 2)),
    engines=st.lists(
        st.builds(
            EngineReport,
            engine_id=st.just("ollama-11434"),
            kind=st.just(EngineKind.OLLAMA),
            port=st.just(11434),
            error=st.sampled_from(["", "nothing listens"]),
        ),
        max_size=1,
    ).map(tuple),
)


@given(st.lists(st.tuples(SECTIONS, st.sampled_from(["taken", "lost", "answer lost", "restart"]))))
def test_the_router_ends_up_with_what_was_said_last(steps) -> None:
    """Whatever gets lost on the way, and whenever the router forgets everything."""
    fleet, accepted, seq = Fleet(), None, 0
    for now, fate in steps:
        if fate == "restart":
            fleet = Fleet()
        for _ in range(2):  # again with everything when asked for it
            seq += 1
            report = build_report(ABOUT, seq, now, accepted)
            accepted = None
            if fate == "lost":
                break
            again = needs_full_report(fleet, report)
            fleet = apply(fleet, NodeReported(report, "10.0.0.1"), float(seq))
            if fate == "answer lost":
                break
            if not again:
                accepted = now
                break
        if accepted is None:
            continue
        node = fleet.nodes["id"]
        assert (node.platform, node.vitals, node.engines) == (now.platform, now.vitals, now.engines)
        assert (node.name, node.relay_port, node.relay_key) == ("name", 11436, "relay-key")


@given(SECTIONS)
def test_nothing_new_makes_a_short_report(now: Sections) -> None:
    report = build_report(ABOUT, 3, now, now)
    assert len(msgspec.json.encode(report)) < 60
    assert b"relay-key" not in msgspec.json.encode(report)


@given(SECTIONS, SECTIONS)
def test_a_delta_says_what_changed_and_only_that(now: Sections, accepted: Sections) -> None:
    report = build_report(ABOUT, 3, now, accepted)
    for name in ("platform", "vitals", "engines"):
        changed = getattr(now, name) != getattr(accepted, name)
        assert getattr(report, name) == (getattr(now, name) if changed else None)


def test_a_goodbye_takes_the_node_out() -> None:
    now = Sections(Platform(), Vitals(), ())
    fleet = apply(Fleet(), NodeReported(build_report(ABOUT, 1, now, None), "10.0.0.1"), 0.0)
    fleet = apply(fleet, NodeReported(build_goodbye(ABOUT, 2), "10.0.0.1"), 1.0)
    assert fleet.nodes["id"].status is NodeStatus.OFFLINE
    assert fleet.nodes["id"].name == "name"


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_backoff_grows_within_bounds_and_spreads(failures: int, chance: float) -> None:
    delay_s = backoff_s(failures, chance)
    assert 0.25 <= delay_s <= LONGEST_BACKOFF_S
    assert delay_s <= backoff_s(failures + 1, chance)


@pytest.mark.parametrize(("failures", "longest_s"), [(1, 0.5), (2, 1.0), (5, 8.0), (9, 15.0)])
def test_the_backoff_doubles(failures: int, longest_s: float) -> None:
    assert backoff_s(failures, 1.0) == longest_s
    assert backoff_s(failures, 0.0) == longest_s / 2
