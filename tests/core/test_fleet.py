"""`apply` is the only way a fleet changes: what each event may and may not do."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.decision import Eliminated
from ollama_herd.core.fleet import (
    LATE_AFTER_INTERVALS,
    OFFLINE_AFTER_INTERVALS,
    STATUS_TRANSITIONS,
    USABLE,
    EngineRelisted,
    Fleet,
    NodeDrained,
    NodeForgotten,
    NodeRenamed,
    NodeReported,
    TimePassed,
    apply,
    engine_replicas,
    is_stale,
    needs_full_report,
    restored,
)
from ollama_herd.core.load import Load
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import EngineKind, LoadedModel, NodeStatus, Reach, Vitals
from ollama_herd.core.predict import Predictor
from tests.core.fleets import engine, fleet_of, model, report

NODES = ["a", "b"]
MODELS = [model("one"), model("two")]

reports = st.builds(
    lambda node_id, boot, seq, leaving, models, error, more: report(
        node_id,
        [engine(models, error=error)],
        boot=boot,
        seq=seq,
        leaving=leaving,
        **more,
    ),
    st.sampled_from(NODES),
    st.integers(1, 3),
    st.integers(1, 6),
    st.booleans(),
    st.lists(st.sampled_from(MODELS), unique=True),
    st.sampled_from(["", "refused"]),
    st.fixed_dictionaries(
        {},
        optional={
            "platform": st.none(),
            "vitals": st.sampled_from([None, Vitals(), Vitals(quiet_until="07:00")]),
        },
    ),
)
deltas = reports.map(lambda r: msgspec.structs.replace(r, engines=None))
events = st.one_of(
    st.builds(NodeReported, reports | deltas, st.just("10.0.0.1")),
    st.builds(TimePassed, st.just(2.0), st.sampled_from([0.0, 3.0, 40.0])),
    st.builds(NodeDrained, st.sampled_from(NODES), st.booleans()),
    st.builds(NodeRenamed, st.sampled_from(NODES), st.sampled_from(["a", "studio"])),
    st.builds(NodeForgotten, st.sampled_from(NODES)),
    st.builds(
        EngineRelisted,
        st.sampled_from(NODES),
        st.sampled_from(["ollama-11434", "other"]),
        st.lists(st.sampled_from(MODELS), unique=True).map(tuple),
    ),
)
histories = st.lists(st.tuples(events, st.floats(0, 12)), max_size=25)


def walk(history):
    """(fleet before, event, fleet after, now) of each step."""
    fleet, now_s = Fleet(), 0.0
    for event, pause_s in history:
        now_s += pause_s
        after = apply(fleet, event, now_s)
        yield fleet, event, after, now_s
        fleet = after


@given(histories)
def test_only_declared_transitions_happen(history):
    for before, _, after, _ in walk(history):
        for node_id, node in after.nodes.items():
            known = before.nodes.get(node_id)
            if known is not None and known.status is not node.status:
                assert node.status in STATUS_TRANSITIONS[known.status]


@given(histories)
def test_revision_grows_with_each_change_and_only_then(history):
    for before, _, after, _ in walk(history):
        if after is not before:
            assert after.revision == before.revision + 1


@given(histories)
def test_the_same_event_twice_changes_nothing_more(history):
    for _, event, after, now_s in walk(history):
        assert apply(after, event, now_s) is after


@given(histories, reports | deltas)
def test_stale_reports_change_nothing(history, late):
    for _, _, fleet, now_s in walk(history):
        if is_stale(fleet, late):
            assert apply(fleet, NodeReported(late, "10.9.9.9"), now_s) is fleet


@given(histories)
def test_a_delta_without_its_base_is_not_understood(history):
    for before, event, after, _ in walk(history):
        if isinstance(event, NodeReported) and needs_full_report(before, event.report):
            assert after is before


@given(histories)
def test_sections_left_out_stay_as_last_said(history):
    for before, event, after, _ in walk(history):
        if not isinstance(event, NodeReported) or after is before:
            continue
        node_id = event.report.node_id
        for section in ("platform", "vitals", "engines"):
            said = getattr(event.report, section)
            expected = said if said is not None else getattr(before.nodes[node_id], section)
            assert getattr(after.nodes[node_id], section) == expected


@given(histories)
def test_each_replica_is_usable_or_not_and_listed_once(history):
    for _, _, fleet, _ in walk(history):
        for index, expected in ((fleet.replicas, True), (fleet.unusable, False)):
            for key, replicas in index.items():
                assert replicas
                assert len({r.slot_key for r in replicas}) == len(replicas)
                for replica in replicas:
                    node = fleet.nodes[replica.node_id]
                    found = next(e for e in node.engines if e.engine_id == replica.engine_id)
                    usable = takes_requests(node) and not found.error
                    assert usable is expected
                    assert canonical_name(replica.model.name) == key
        listed = sum(len(r) for i in (fleet.replicas, fleet.unusable) for r in i.values())
        reported = sum(len(e.models) for n in fleet.nodes.values() for e in n.engines)
        assert listed == reported


@given(histories)
def test_indexes_are_those_of_a_fleet_made_at_once(history):
    """However it came about, a fleet lists what its nodes have."""
    for _, _, fleet, _ in walk(history):
        usable, unusable = {}, {}
        for node in fleet.nodes.values():
            for told in node.engines:
                index = usable if is_used(node, told) else unusable
                for replica in engine_replicas(node, told):
                    index.setdefault(canonical_name(replica.model.name), []).append(replica)
        for index, expected in ((fleet.replicas, usable), (fleet.unusable, unusable)):
            assert index.keys() == expected.keys()
            for key, replicas in index.items():
                assert sorted(replicas, key=place) == sorted(expected[key], key=place)


def takes_requests(node):
    return node.status in USABLE and not node.draining and not node.vitals.quiet_until


def is_used(node, told):
    return takes_requests(node) and not told.error


def place(replica):
    return replica.slot_key


@given(histories)
def test_what_did_not_change_is_the_same_object(history):
    """Readers keep what they made of a tuple for as long as they see it."""
    for before, _, after, _ in walk(history):
        for key, replicas in after.replicas.items():
            known = {place(r): r for r in before.replicas.get(key, ())}
            if known.keys() == set(map(place, replicas)):
                same = all(known[place(r)] == r for r in replicas)
                assert (replicas is before.replicas[key]) is same


@given(histories)
def test_a_restart_keeps_the_fleet_and_trusts_it_for_a_while(history):
    fleet = next((after for *_, after, _ in reversed([*walk(history)])), Fleet())
    again = restored(fleet.nodes.values(), 5.0)
    assert again.nodes.keys() == fleet.nodes.keys()
    for node_id, node in again.nodes.items():
        was_offline = fleet.nodes[node_id].status is NodeStatus.OFFLINE
        assert node.status is (NodeStatus.OFFLINE if was_offline else NodeStatus.RESTORED)
        assert node.engines == fleet.nodes[node_id].engines
        assert node.draining == fleet.nodes[node_id].draining
    silent = apply(again, TimePassed(2.0), 5.0 + OFFLINE_AFTER_INTERVALS * 2.0 + 0.1)
    assert all(node.status is NodeStatus.OFFLINE for node in silent.nodes.values())


def test_silence_makes_a_node_late_then_offline_and_a_report_brings_it_back():
    fleet = fleet_of([report("a", [engine(MODELS)])])
    late = apply(fleet, TimePassed(2.0), LATE_AFTER_INTERVALS * 2.0 + 0.1)
    assert late.nodes["a"].status is NodeStatus.LATE
    assert late.replicas
    gone = apply(late, TimePassed(2.0), OFFLINE_AFTER_INTERVALS * 2.0 + 0.1)
    assert gone.nodes["a"].status is NodeStatus.OFFLINE
    assert not gone.replicas
    assert set(gone.unusable) == {"one:latest", "two:latest"}
    back = fleet_of([report("a", [engine(MODELS)], seq=2)], 60.0, gone)
    assert back.nodes["a"].status is NodeStatus.ONLINE
    assert not back.unusable


def test_a_goodbye_takes_a_node_out_at_once():
    fleet = fleet_of([report("a", [engine(MODELS)])])
    fleet = fleet_of([report("a", [engine(MODELS)], seq=2, leaving=True)], 1.0, fleet)
    assert fleet.nodes["a"].status is NodeStatus.OFFLINE
    assert not fleet.replicas


def test_aliases_of_loaded_weights_are_loaded():
    """`/api/ps` names only the first alias of a runner."""
    plain, alias = model("tiny", weights="w"), model("tiny2", weights="w")
    fleet = fleet_of([report("a", [engine([plain, alias, model("other")], loaded=["tiny"])])])
    assert fleet.replicas["tiny2:latest"][0].loaded is not None
    assert fleet.replicas["other:latest"][0].loaded is None
    one, other = fleet.replicas["tiny:latest"][0], fleet.replicas["tiny2:latest"][0]
    assert one.slot_key == other.slot_key


def test_loaded_is_matched_by_name_where_weights_are_unknown():
    bare = msgspec.structs.replace(model("Tiny"), weights="")
    told = msgspec.structs.replace(
        engine([bare]), loaded=(LoadedModel(name="tiny:latest", context_length=2048),)
    )
    fleet = fleet_of([report("a", [told])])
    assert fleet.replicas["tiny:latest"][0].loaded.context_length == 2048


def test_engines_on_loopback_are_reached_through_the_relay():
    told = report("a", [engine(MODELS)], relay_port=11436, relay_key="secret")
    fleet = fleet_of([told])
    behind = fleet.replicas["one:latest"][0].endpoint
    assert (behind.host, behind.port, behind.tunnel) == ("10.0.0.1", 11436, "ollama-11434")
    node = fleet.nodes["a"]
    open_engine = msgspec.structs.replace(node.engines[0], reach=Reach.LAN)
    direct = engine_replicas(node, open_engine)[0].endpoint
    assert (direct.port, direct.tunnel, direct.key) == (11434, "", "")


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 60), st.booleans()), max_size=20),
)
def test_time_the_router_missed_brings_no_node_nearer_to_offline(steps):
    """The same life with and without pauses in which the router hears nothing."""
    told = [report("a", [engine(MODELS)], seq=seq) for seq in range(1, len(steps) + 2)]
    calm = stalled = fleet_of(told[:1])
    now_s = missed_s = 0
    for number, (pause_s, stall_s, is_heard) in enumerate(steps, 1):
        now_s += pause_s
        missed_s += stall_s
        calm = apply(calm, TimePassed(2.0), now_s)
        stalled = apply(stalled, TimePassed(2.0, missed_s), now_s + missed_s)
        if is_heard:
            calm = apply(calm, NodeReported(told[number], ""), now_s)
            stalled = apply(stalled, NodeReported(told[number], ""), now_s + missed_s)
        assert stalled.nodes["a"].status is calm.nodes["a"].status
        assert stalled.replicas.keys() == calm.replicas.keys()


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    ("name", "remote_host", "kind", "is_cloud"),
    [
        ("a:8b", "", EngineKind.OLLAMA, False),
        ("a:8b", "https://ollama.com:443", EngineKind.OLLAMA, True),
        ("a:cloud", "", EngineKind.OLLAMA, True),
        ("me/a:120B-Cloud", "", EngineKind.OLLAMA, True),
        ("cloud:8b", "", EngineKind.OLLAMA, False),
        ("a:cloud", "", EngineKind.OPENAI, False),
    ],
)
def test_models_of_a_cloud_are_offered_only_where_that_is_allowed(
    name, remote_host, kind, is_cloud, allowed
):
    fleet = Fleet(cloud_models=allowed)
    known = model(name, remote_host=remote_host)
    fleet = fleet_of([report("n", [engine([known], kind=kind)])], fleet=fleet)
    key = canonical_name(name)
    offered = allowed or not is_cloud
    assert (key in fleet.replicas, key in fleet.unusable) == (offered, not offered)
    again = restored(fleet.nodes.values(), 9.0, cloud_models=allowed)
    assert again.replicas.keys() == fleet.replicas.keys()
    if not offered:
        (rejected,) = Load(Predictor()).board(key, fleet).rejected
        assert rejected.reason is Eliminated.CLOUD_MODEL
        assert rejected.detail == remote_host
