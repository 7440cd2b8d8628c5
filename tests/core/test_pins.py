"""Pinned models: loaded where they are not, kept there, never chosen to make room."""

from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.eviction import PINNED_LOSS_S
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import Gpu, Platform, Vitals
from ollama_herd.core.pins import Pin
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from tests.core.fleets import GB, engine, fleet_of, model, report, request

CARD = Platform(system="linux", machine="x86_64", memory_bandwidth_bytes_s=900 * GB)
FOR_EVER = "2319-03-05T12:00:00Z"
SOON = "2026-11-22T10:23:14Z"


def card(free_gb):
    gpu = Gpu(
        name="NVIDIA RTX 4090",
        vendor="nvidia",
        memory_total_bytes=24 * GB,
        memory_free_bytes=int(free_gb * GB),
    )
    return Vitals(
        memory_total_bytes=64 * GB, memory_available_bytes=60 * GB, cpu_count=8, gpus=(gpu,)
    )


def node(node_id, names, loaded=(), *, free_gb=64.0, seq=1, expires=SOON, sizes=None, **more):
    one = engine([model(n, (sizes or {}).get(n, 4.0)) for n in names], loaded, **more)
    kept = tuple(msgspec.structs.replace(item, expires_at=expires) for item in one.loaded)
    return report(
        node_id,
        [msgspec.structs.replace(one, loaded=kept)],
        seq=seq,
        platform=CARD,
        vitals=card(min(free_gb, 24.0)),
    )


class Case:
    def __init__(self, *reports, pins=()):
        self.scheduler = Scheduler(QueueSettings(placement=False), Predictor())
        self.now_s = 0.0
        self.fleet = fleet_of(reports)
        self.scheduler.on_fleet(self.fleet, 0.0)
        self.scheduler.pin(tuple(Pin(canonical_name(name), where) for name, where in pins))

    def hear(self, *reports, after_s=4.0):
        self.now_s += after_s
        self.fleet = fleet_of(reports, self.now_s, self.fleet)
        self.scheduler.on_fleet(self.fleet, self.now_s)

    def placed(self):
        """(node, model, keep-alive) of each load that is sent now."""
        found = []
        for grant in self.scheduler.place(self.fleet, self.now_s):
            run = self.scheduler.load.running[grant.request_id]
            replica = grant.decision.winner.replica
            found.append((replica.node_id, replica.model.name, run.request.keep_alive_s))
            self.scheduler.on_first_byte(grant.request_id, self.now_s)
            self.scheduler.on_finished(
                grant.request_id, OutcomeKind.COMPLETED, None, self.fleet, self.now_s
            )
        return found


def test_a_pinned_model_is_loaded_and_kept_once():
    case = Case(node("a", ["m:7b"]), node("b", ["m:7b"]), pins=[("m:7b", "b")])
    assert case.placed() == [("b", "m:7b", inf)]
    case.hear(node("b", ["m:7b"], ["m:7b"], seq=2, expires=FOR_EVER), after_s=70.0)
    assert case.placed() == []
    (stands,) = case.scheduler.pinned()
    assert (stands.node_id, stands.is_loaded) == ("b", True)


def test_a_model_whose_time_was_set_anew_is_kept_again():
    """A client's own keep-alive replaces that of the pin."""
    case = Case(node("b", ["m:7b"], ["m:7b"]), pins=[("m:7b", "")])
    assert case.placed() == [("b", "m:7b", inf)]
    case.hear(node("b", ["m:7b"], ["m:7b"], seq=2, expires=FOR_EVER), after_s=70.0)
    assert case.placed() == []
    case.hear(node("b", ["m:7b"], ["m:7b"], seq=3, expires=SOON), after_s=70.0)
    assert case.placed() == [("b", "m:7b", inf)]


def test_any_node_means_one_and_stays_that_one():
    fleet = [node(n, ["m:7b"]) for n in "abc"]
    case = Case(*fleet, pins=[("m:7b", "")])
    ((where, _, _),) = case.placed()
    for seq in range(2, 6):
        others = [node(n, ["m:7b"], ["m:7b"], seq=seq) for n in "abc" if n != where]
        case.hear(node(where, ["m:7b"], ["m:7b"], seq=seq, expires=FOR_EVER), *others, after_s=70.0)
        assert case.placed() == []
        assert [p.node_id for p in case.scheduler.pinned()] == [where]


def test_a_pin_on_any_node_takes_one_that_has_it_loaded():
    case = Case(node("a", ["m:7b"]), node("b", ["m:7b"], ["m:7b"]), pins=[("m:7b", "")])
    assert case.placed() == [("b", "m:7b", inf)]


def test_unpinning_gives_the_model_back_to_its_engine():
    case = Case(node("a", ["m:7b"], ["m:7b"]), pins=[("m:7b", "")])
    assert case.placed() == [("a", "m:7b", inf)]
    case.scheduler.pin(())
    case.now_s = 10.0
    assert case.placed() == [("a", "m:7b", 300.0)]
    case.now_s = 100.0
    assert case.placed() == []
    assert case.scheduler.pinned() == ()


def test_a_pin_keeps_the_window_that_is_loaded_and_so_does_letting_go():
    """Without its number the engine would load the model anew, with its default."""
    case = Case(node("a", ["m:7b"], ["m:7b"], context_length=4096))
    wide = (("num_ctx", 8192),)
    asked = request("m:7b", load_options=wide)
    case.scheduler.on_request(asked, case.fleet, 0.0)
    case.scheduler.on_first_byte(asked.request_id, 0.1)
    case.scheduler.on_finished(asked.request_id, OutcomeKind.COMPLETED, None, case.fleet, 0.2)
    for pins in ((Pin("m:7b"),), ()):
        case.scheduler.pin(pins)
        case.now_s += 5.0
        (grant,) = case.scheduler.place(case.fleet, case.now_s)
        sent = case.scheduler.load.running[grant.request_id].request
        assert sent.load_options == wide
        assert not grant.decision.winner.cost.context_fit_ms
        case.scheduler.on_finished(
            grant.request_id, OutcomeKind.COMPLETED, None, case.fleet, case.now_s
        )


def test_a_pin_waits_for_who_is_busy_and_for_another_pin():
    sizes = {"m:7b": 16.0, "n:7b": 16.0}
    names = ["m:7b", "n:7b"]
    full = {"sizes": sizes, "free_gb": 5.0}
    case = Case(node("a", names, ["n:7b"], **full), pins=[("m:7b", "a")])
    (effect,) = case.scheduler.on_request(request("n:7b"), case.fleet, 0.0)
    assert isinstance(effect, Grant)
    assert case.placed() == []
    both = Case(
        node("a", names, ["n:7b"], expires=FOR_EVER, **full), pins=[("n:7b", "a"), ("m:7b", "a")]
    )
    assert both.placed() == []
    assert {p.is_loaded for p in both.scheduler.pinned()} == {True, False}


def test_a_pin_without_a_place_says_why():
    case = Case(node("a", ["m:7b"]), pins=[("gone:7b", ""), ("m:7b", "nowhere")])
    assert case.placed() == []
    reasons = [p.reason for p in case.scheduler.pinned()]
    assert reasons == ["no node has it", "no node that has it can be used now"]


NAMES = ["a:7b", "b:7b", "c:7b"]
SIZES = dict.fromkeys(NAMES, 10.0) | {"new:7b": 10.0}


def evicting(used=(), pins=(), free_gb=3.0, asked="new:7b", **more):
    """A machine with three idle models in memory, and a request for a fourth: what has to go."""
    names = [*NAMES, "new:7b"]
    case = Case(node("x", names, NAMES, free_gb=free_gb, sizes=SIZES, **more), pins=pins)
    case.placed()
    for name in NAMES:  # from now on the router knows them
        case.scheduler.explain(request(name), 0.0)
    for name, keep_alive_s in used:
        one = request(name, 0.0, keep_alive_s=keep_alive_s)
        case.scheduler.on_request(one, case.fleet, 1.0)
        case.scheduler.on_finished(one.request_id, OutcomeKind.COMPLETED, None, case.fleet, 2.0)
    (effect,) = case.scheduler.on_request(request(asked, 6.0), case.fleet, 6.0)
    return [r.model.name for r in effect.decision.evicts], effect.decision.winner


def test_what_is_missed_least_goes():
    gone, winner = evicting([("a:7b", None), ("c:7b", None)])
    assert gone == ["b:7b"]
    assert winner.cost.loaded_state_ms > 0


def test_nothing_goes_where_there_is_room_or_no_choice():
    assert evicting(free_gb=24.0, max_loaded=9)[0] == []
    strangers = Case(node("x", [*NAMES, "new:7b"], NAMES, free_gb=3.0, sizes=SIZES))
    (effect,) = strangers.scheduler.on_request(request("new:7b"), strangers.fleet, 1.0)
    assert effect.decision.evicts == ()  # loaded by others: not ours to unload
    only = Case(node("x", ["a:7b", "new:7b"], ["a:7b"], free_gb=3.0, sizes=SIZES))
    (effect,) = only.scheduler.on_request(request("new:7b"), only.fleet, 1.0)
    assert effect.decision.evicts == ()


def test_what_somebody_asked_to_be_kept_is_not_named():
    gone, _ = evicting([("a:7b", None), ("b:7b", 3600.0), ("c:7b", None)])
    assert len(gone) == 1
    assert gone != ["b:7b"]
    assert evicting(expires=FOR_EVER)[0] == []  # the engine chooses


def test_a_keep_alive_holds_until_another_is_named():
    """So does Ollama: a request that says nothing leaves the last one in place."""
    gone, _ = evicting([("b:7b", 3600.0), ("b:7b", None), ("a:7b", None), ("c:7b", None)])
    assert gone in (["a:7b"], ["c:7b"])
    gone, _ = evicting([("b:7b", 3600.0), ("b:7b", 0.0), ("a:7b", 60.0), ("c:7b", 60.0)])
    assert gone == ["b:7b"]


def test_a_pinned_model_is_not_named_and_makes_its_machine_dear():
    gone, _ = evicting([("b:7b", None), ("c:7b", None)], pins=[("a:7b", "x")])
    assert gone in (["b:7b"], ["c:7b"])
    names = ["a:7b", "new:7b"]
    elsewhere = Case(
        node("x", names, ["a:7b"], free_gb=3.0, sizes=SIZES),
        node("y", ["new:7b"], sizes=SIZES),
        pins=[("a:7b", "x")],
    )
    elsewhere.placed()
    (effect,) = elsewhere.scheduler.on_request(request("new:7b"), elsewhere.fleet, 6.0)
    assert effect.decision.winner.replica.node_id == "y"
    other = next(c for c in effect.decision.candidates if c.replica.node_id == "x")
    assert other.cost.memory_fit_ms >= 1e3 * PINNED_LOSS_S


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([None, 60.0])), max_size=6),
    st.sets(st.sampled_from(NAMES), max_size=3),
    st.floats(0.0, 24.0),
)
def test_only_idle_models_nobody_spoke_for_are_named(used, pinned, free_gb):
    gone, _ = evicting(used, pins=[(name, "x") for name in sorted(pinned)], free_gb=free_gb)
    kept = {name for name, keep_alive_s in dict(used).items() if keep_alive_s}
    assert not {*gone} & (pinned | kept)
    assert len(gone) < len(NAMES)


@pytest.mark.parametrize("nodes", [1, 3])
def test_pins_come_to_rest(nodes):
    """Whatever is pinned, loads end."""
    reports = [node(f"n{i}", NAMES, sizes=SIZES) for i in range(nodes)]
    case = Case(*reports, pins=[(name, "") for name in NAMES])
    loads = 0
    loaded = {f"n{i}": set() for i in range(nodes)}
    for seq in range(2, 40):
        for where, name, _ in case.placed():
            loads += 1
            loaded[where].add(name)
        told = [
            node(
                n,
                NAMES,
                sorted(there),
                free_gb=24.0 - 11 * len(there),
                seq=seq,
                expires=FOR_EVER,
                sizes=SIZES,
            )
            for n, there in loaded.items()
        ]
        case.hear(*told, after_s=30.0)
    assert loads <= len(NAMES)
    assert sum(map(len, loaded.values())) == min(len(NAMES), 2 * nodes)
