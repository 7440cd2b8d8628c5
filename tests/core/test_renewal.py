"""Idle models that will be asked again stay loaded; what anybody has set is left as it is."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import Pressure
from ollama_herd.core.predict import Predictor
from ollama_herd.core.renewal import HORIZON_S, is_expected
from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "m:7b"
WALL_S = 1_790_000_000.0
ANSWER_S = 3.0
USUAL_S = 300.0
MINUTE = 60.0
STEP_S = 4.0


class Ollama:
    """An engine with one model and its keep-alive, and a router that hears of it."""

    def __init__(
        self, keep_alive="default", *, skew_s=0.0, placement=True, pressure=Pressure.NORMAL
    ):
        self.scheduler = Scheduler(QueueSettings(placement=placement), Predictor())
        self.scheduler.load.wall_s = WALL_S
        self.keep_alive, self.skew_s, self.pressure = keep_alive, skew_s, pressure
        self.session_s = USUAL_S
        self.expires_s = -1.0  # of the model, router seconds; below now: it is not loaded
        self.context = 4096
        self.loads = self.seq = 0
        self.touches = []
        self.asked_for = []
        self.fleet = Fleet()
        self.now_s = 0.0

    def report(self):
        self.seq += 1
        is_loaded = self.expires_s > self.now_s
        one = engine([model(NAME)], [NAME] if is_loaded else [], keep_alive=self.keep_alive)
        at = datetime.fromtimestamp(WALL_S + self.skew_s + self.expires_s, UTC)
        kept = tuple(
            msgspec.structs.replace(
                item, expires_at=at.isoformat().replace("+00:00", "Z"), context_length=self.context
            )
            for item in one.loaded
        )
        said = report("a", [msgspec.structs.replace(one, loaded=kept)], seq=self.seq)
        vitals = msgspec.structs.replace(said.vitals, pressure=self.pressure)
        self.fleet = fleet_of(
            [msgspec.structs.replace(said, vitals=vitals)], self.now_s, self.fleet
        )
        known = self.fleet.nodes["a"]
        nodes = {"a": msgspec.structs.replace(known, clock_skew_s=self.skew_s)}
        self.fleet = msgspec.structs.replace(self.fleet, nodes=nodes)
        self.scheduler.on_fleet(self.fleet, self.now_s)

    def use(self, keep_alive_s=None):
        """What an Ollama does at any request."""
        if self.expires_s <= self.now_s:
            self.loads += 1
            self.session_s = USUAL_S
        if keep_alive_s is not None:
            self.session_s = keep_alive_s
        self.expires_s = self.now_s + self.session_s

    def ask(self, **more):
        asked = request(NAME, self.now_s, **more)
        effects = self.scheduler.on_request(asked, self.fleet, self.now_s)
        assert isinstance(effects[0], Grant)
        self.use(more.get("keep_alive_s"))
        self.scheduler.on_first_byte(asked.request_id, self.now_s)
        return asked.request_id

    def end(self, request_id):
        self.use()
        self.scheduler.on_finished(request_id, OutcomeKind.COMPLETED, None, self.fleet, self.now_s)

    def place(self):
        for grant in self.scheduler.place(self.fleet, self.now_s):
            asked = self.scheduler.load.running[grant.request_id].request
            assert self.expires_s > self.now_s, "a renewal must not load"
            before = self.expires_s
            self.use(asked.keep_alive_s)
            assert self.expires_s >= before, "nor shorten"
            assert asked.keep_alive_s is None
            assert len(self.scheduler.load.running) == 1, "nor come between"
            self.touches.append(self.now_s)
            self.asked_for.append(asked.load_options)
            self.scheduler.on_first_byte(grant.request_id, self.now_s)
            self.scheduler.on_finished(
                grant.request_id, OutcomeKind.COMPLETED, None, self.fleet, self.now_s
            )

    def run(self, pauses, rest_s=3600.0, **more):
        """Requests with these pauses between them, then none for `rest_s`."""
        at_s, arrivals = 10.0, [10.0]
        for pause in pauses:
            at_s += pause
            arrivals.append(at_s)
        until_s, running, ends_s = at_s + rest_s, None, 0.0
        while self.now_s < until_s:
            if running is not None and self.now_s >= ends_s:
                self.end(running)
                running = None
            if arrivals and running is None and self.now_s >= arrivals[0]:
                arrivals.pop(0)
                running, ends_s = self.ask(**more), self.now_s + ANSWER_S
            self.report()
            self.place()
            self.now_s += STEP_S
        return self


def test_a_model_asked_every_seven_minutes_stays_loaded_after_it_has_shown_that():
    engine_ = Ollama().run([7 * MINUTE] * 8)
    assert engine_.loads == 3
    assert Ollama(placement=False).run([7 * MINUTE] * 8).loads == 9


def test_a_model_nobody_asks_for_any_more_goes():
    engine_ = Ollama().run([7 * MINUTE] * 6, rest_s=3 * 3600.0)
    last_s = 10.0 + 6 * 7 * MINUTE
    assert engine_.expires_s < last_s + 7 * MINUTE + USUAL_S + MINUTE
    assert engine_.touches
    assert all(at_s <= last_s + 7 * MINUTE + MINUTE for at_s in engine_.touches)


def test_what_is_asked_twice_a_day_is_let_go():
    assert not Ollama().run([6 * 3600.0] * 3).touches


@pytest.mark.parametrize("keep_alive", ["", "24h", "5m", "-1", "0"])
def test_an_operators_keep_alive_stands_and_so_does_one_that_cannot_be_read(keep_alive):
    assert not Ollama(keep_alive).run([7 * MINUTE] * 6).touches


@pytest.mark.parametrize("keep_alive_s", [30.0, 300.0, 1200.0, 1e9])
def test_a_clients_keep_alive_stands(keep_alive_s):
    assert not Ollama().run([7 * MINUTE] * 6, keep_alive_s=keep_alive_s).touches


def test_a_keep_alive_that_somebody_gave_past_the_herd_stands():
    """The model then goes at another time than five minutes after the herd's last use."""
    engine_ = Ollama().run([7 * MINUTE] * 6, rest_s=5.0)
    assert engine_.touches
    engine_.touches.clear()
    engine_.use(keep_alive_s=100.0)
    for _ in range(60):
        engine_.now_s += 2.0
        engine_.report()
        engine_.place()
    assert not engine_.touches


def test_a_machine_that_is_short_of_memory_is_left_alone():
    assert not Ollama(pressure=Pressure.WARN).run([7 * MINUTE] * 6).touches


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_clocks_need_not_agree(skew_s):
    assert Ollama(skew_s=skew_s).run([7 * MINUTE] * 6).loads == 3


def test_the_window_that_is_loaded_stays():
    engine_ = Ollama()
    engine_.context = 8192
    wide = (("num_ctx", 8192),)
    assert engine_.run([7 * MINUTE] * 5, load_options=wide).touches
    assert set(engine_.asked_for) == {wide}


pauses = st.lists(st.floats(5.0, 5000.0), max_size=8)


@settings(max_examples=20, deadline=None)
@given(pauses)
def test_it_helps_and_never_holds_without_end(found):
    """Whatever the pauses: no more loads than without, uses far apart, and an end."""
    rest_s = 2 * HORIZON_S + 2000.0
    with_it = Ollama().run(found, rest_s)
    without = Ollama(placement=False).run(found, rest_s)
    assert with_it.loads <= without.loads
    gaps = [b - a for a, b in zip(with_it.touches, with_it.touches[1:], strict=False)]
    assert all(gap >= 240.0 for gap in gaps)
    longest = max(found, default=0.0)
    last_s = 10.0 + sum(found)
    assert all(at_s <= last_s + max(longest, MINUTE) + MINUTE for at_s in with_it.touches)


seen = st.lists(st.floats(120.0, 1e5), max_size=16)


@given(seen, st.floats(0.0, 1e5))
def test_one_more_that_came_soon_is_never_an_argument_against(found, idle_s):
    if is_expected(found, idle_s):
        assert is_expected([*found, idle_s + HORIZON_S / 2], idle_s)
    else:
        assert not is_expected([*found, idle_s + 2 * HORIZON_S], idle_s)


@given(seen)
def test_nothing_is_expected_after_the_longest_pause(found):
    assert not is_expected(found, max(found, default=0.0))
