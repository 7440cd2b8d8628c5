"""What the router read itself holds against reports that are older, and yields to newer ones."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.fleet import EngineRelisted, apply
from ollama_herd.core.node import Model
from ollama_herd.core.relisting import HOLD_S, agrees, corrected, relisted
from tests.core.fleets import engine, fleet_of, model, report

lists = st.dictionaries(
    st.sampled_from(["a:1", "b:1", "c:1"]), st.sampled_from(["d1", "d2", "d3"])
).map(lambda names: tuple(Model(name=n, digest=d) for n, d in names.items()))


def told(models):
    return {m.name: m.digest for m in models}


@given(lists, lists)
def test_a_report_from_before_changes_nothing(before, read):
    held = relisted(before, read, None, 0.0)
    again = corrected(held, before)
    assert told(again.models) == told(read)
    assert told(corrected(again, before).models) == told(read)


@given(lists, lists, lists)
def test_a_second_change_while_the_first_is_not_reported(before, first, second):
    held = relisted(before, first, None, 0.0)
    held = corrected(held, before)
    held = relisted(held.models, second, held, 1.0)
    assert told(corrected(held, before).models) == told(second)


@given(lists, lists)
def test_once_the_agent_has_seen_it_nothing_is_held(before, read):
    held = corrected(relisted(before, read, None, 0.0), read)
    assert told(held.models) == told(read)
    assert agrees(held)


@given(lists, lists, lists)
def test_the_agent_is_believed_in_what_it_says_anew(before, read, later):
    held = corrected(relisted(before, read, None, 0.0), later)
    for name in {*told(before), *told(read), *told(later)}:
        if told(later).get(name) != told(before).get(name):
            assert told(held.models).get(name) == told(later).get(name)
        else:
            assert told(held.models).get(name) == told(read).get(name)


@given(lists, lists, lists)
def test_an_old_reading_is_forgotten(before, first, second):
    held = relisted(before, first, None, 0.0)
    assert not held.is_over(HOLD_S)
    later = HOLD_S + 0.1
    assert held.is_over(later)
    assert relisted(first, second, held, later).reported == first


def test_a_copy_has_the_weights_of_its_source():
    known = (model("tiny", digest="d", weights="w", capabilities=("completion",)),)
    read = (Model(name="tiny", digest="d"), Model(name="copy", digest="d"))
    assert [m.weights for m in relisted(known, read, None, 0.0).models] == ["w", "w"]


def test_the_fleet_shows_it_at_once():
    one, two = model("one"), model("two")
    fleet = fleet_of([report("a", [engine([one])]), report("b", [engine([one])])])
    fleet = apply(fleet, EngineRelisted("a", "ollama-11434", (two,)), 1.0)
    assert [r.node_id for r in fleet.replicas["one:latest"]] == ["b"]
    assert [r.node_id for r in fleet.replicas["two:latest"]] == ["a"]
    assert apply(fleet, EngineRelisted("a", "ollama-11434", (two,)), 1.0) is fleet
    assert apply(fleet, EngineRelisted("x", "ollama-11434", ()), 1.0) is fleet
    assert apply(fleet, EngineRelisted("a", "other", ()), 1.0) is fleet
