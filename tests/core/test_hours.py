"""Hours at which people use a machine: learned at once, bounded, and no more than was seen."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.hours import HOURS, MEMORY_S, OwnerHours, present_share
from ollama_herd.core.learned import PredictorState
from ollama_herd.core.load import Load
from ollama_herd.core.node import Vitals
from ollama_herd.core.predict import Predictor
from ollama_herd.core.signals import Ask, price
from tests.core.fleets import GB, engine, fleet_of, model, report, request

LOOK_S = 30.0
HOUR = st.integers(0, HOURS - 1)
LOOKS = st.lists(st.tuples(HOUR, st.booleans(), st.integers(1, 40)), max_size=30)
WORK = range(9, 17)


def watched(stretches):
    """Hours after stretches of (hour of the week, in use, looks of half a minute)."""
    hours = OwnerHours()
    now_s = 0.0
    for hour, is_used, looks in stretches:
        for _ in range(looks):
            now_s += LOOK_S
            hours.saw(is_used=is_used, hour=hour, now_s=now_s)
    return hours


def week(used):
    """All hours of a week, in use where `used(hour of the week)` says so."""
    return [(hour, used(hour), 120) for hour in range(HOURS)]


def is_work(hour):
    return hour < 120 and hour % 24 in WORK


@given(LOOKS, HOUR)
def test_a_share_is_a_share(looks, hour):
    assert 0 <= watched(looks).share_at(hour) <= 1


@given(LOOKS, HOUR)
def test_nobody_seen_is_nobody_expected(looks, hour):
    assert watched([(at, False, count) for at, _, count in looks]).share_at(hour) == 0


@given(LOOKS, st.integers(0, 29), HOUR)
def test_more_use_never_lowers_a_share(looks, which, hour):
    more = [(at, is_used or i == which, n) for i, (at, is_used, n) in enumerate(looks)]
    assert watched(more).share_at(hour) >= watched(looks).share_at(hour) - 1e-6


@given(LOOKS)
def test_what_was_seen_outlives_a_restart(looks):
    before = watched(looks)
    again = OwnerHours()
    again.restore(before.state())
    for hour in range(HOURS):
        assert again.share_at(hour) == pytest.approx(before.share_at(hour), abs=2e-3)


@given(
    st.lists(
        st.tuples(st.integers(-400, 400), st.floats(allow_nan=True), st.floats(allow_nan=True))
    )
)
def test_a_spoiled_state_spoils_nothing(kept):
    hours = OwnerHours()
    hours.restore(kept)
    assert all(0 <= hours.share_at(hour) <= 1 for hour in range(HOURS))


def test_memory_does_not_grow_with_time():
    hours = watched(week(is_work) * 6)
    assert len(hours.state()) == HOURS
    assert all(seen <= MEMORY_S + 1 for _, seen, _ in hours.state())


def test_the_first_minutes_count():
    hours = watched([(9, True, 3)])
    assert hours.share > 0.05
    assert watched([(9, True, 20)]).share > 3 * hours.share


def test_one_day_tells_of_the_next():
    monday = watched([(hour, is_work(hour), 120) for hour in range(24)])
    assert monday.share_at(24 + 10) > 0.5  # Tuesday at ten
    assert monday.share_at(24 + 3) < 0.2
    assert monday.share_at(24 + 10) > monday.share_at(120 + 10)  # no such lesson for Saturday


def test_weeks_of_work_are_known_by_the_hour():
    hours = watched(week(is_work) * 3)
    for hour in range(HOURS):
        assert (hours.share_at(hour) > 0.9) if is_work(hour) else (hours.share_at(hour) < 0.1)


def test_new_habits_replace_old_ones():
    hours = watched(week(is_work) * 4 + week(lambda _: False) * 5)
    assert hours.share_at(10) < 0.3


def test_time_nobody_watched_says_nothing():
    hours = OwnerHours()
    for at_s in (0.0, 1e5, 2e5, 3e5):
        hours.saw(is_used=True, hour=5, now_s=at_s)
    assert hours.state() == ()


@given(st.floats(1, 1e5), st.floats(1, 1e5))
def test_a_longer_stay_meets_a_user_more_surely(stay_s, passes_s):
    assert 0 <= present_share(passes_s, stay_s) <= present_share(passes_s, 2 * stay_s) <= 1


# -- in a decision -----------------------------------------------------------------------------


def fleet(in_use=(), now_s=0.0):
    def vitals(node_id):
        percent = 80.0 if node_id in in_use else 0.0
        return Vitals(
            memory_total_bytes=64 * GB,
            memory_available_bytes=60 * GB,
            foreign_load_percent=percent,
        )

    return fleet_of(
        [
            report(name, [engine([model("m:7b")], ["m:7b"])], vitals=vitals(name))
            for name in ("a", "b")
        ],
        now_s,
    )


def passed(load, known, from_s, until_s):
    at_s = from_s
    while at_s < until_s:
        load.refresh(known, at_s)
        at_s += 5.0
    return at_s


def trend(load, known, now_s):
    """The availability term of each node in s."""
    ask = Ask(request("m:7b"), known.nodes, load, now_s)
    places = load.board("m:7b", known).places
    return {p.replica.node_id: price(p, ask).trend for p in places}


def test_a_user_who_is_away_at_the_usual_hour_is_priced():
    load = Load(Predictor())
    at_s = passed(load, fleet(in_use={"a"}), 0.0, 900.0)
    away = fleet()
    at_s = passed(load, away, at_s, at_s + 60.0)
    found = trend(load, away, at_s)
    assert found["a"] > found["b"] == 0
    pace = load.nodes["a"].pace
    assert pace.slow_later > pace.slow_decode > 1

    again = Predictor()
    body = msgspec.json.encode(load.predictor.state())
    again.restore(msgspec.json.decode(body, type=PredictorState))
    later = Load(again)
    passed(later, away, 0.0, 10.0)
    assert trend(later, away, 10.0)["a"] == pytest.approx(found["a"], rel=0.1)


def test_the_hour_is_that_of_the_wall():
    load = Load(Predictor())
    load.monday_s = -10 * 3600.0  # now is ten on a Monday
    passed(load, fleet(in_use={"a"}), 0.0, 120.0)
    assert [hour for hour, _, _ in load.predictor.state().nodes[0].hours] == [10]
    load.monday_s = -34 * 3600.0
    passed(load, fleet(in_use={"a"}), 120.0, 240.0)
    assert [hour for hour, _, _ in load.predictor.state().nodes[0].hours] == [10, 34]


def test_what_an_older_router_learned_is_read():
    load = Load(Predictor())
    passed(load, fleet(), 0.0, 60.0)
    state = msgspec.json.decode(msgspec.json.encode(load.predictor.state()))
    for node in state["nodes"]:
        del node["hours"]
    old = msgspec.json.decode(msgspec.json.encode(state), type=PredictorState)
    assert {node.node_id for node in old.nodes} == {"a", "b"}
    again = Predictor()
    again.restore(old)
    passed(Load(again), fleet(), 0.0, 60.0)
