"""Requests with different load-time options take turns on a runner; clients share it fairly."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from ollama_herd.core.shares import Shares
from ollama_herd.core.turns import TURN_MAX_S
from tests.core.fleets import engine, fleet_of, model, report, request

NAME = "m:7b"
SERVICE_S = 1.0
RELOAD_S = 3.0
USAGE = Usage(prompt_tokens=200, output_tokens=30, load_ms=1.0, prefill_ms=100.0, decode_ms=900.0)


class Engine:
    """Simulated machines with real reload rules, under a scheduler; no time but its own."""

    def __init__(self, nodes=1, slots=1):
        reports = [
            report(f"n{i}", [engine([model(NAME)], [NAME], slots=slots)]) for i in range(nodes)
        ]
        self.fleet = fleet_of(reports)
        self.scheduler = Scheduler(QueueSettings(), Predictor())
        self.options = dict.fromkeys((r.node_id for r in reports), ())
        self.reloads = 0
        self.now_s = 0.0
        self.events = [(0.9, -1, None, "")]
        self.serial = 0
        self.asked = {}
        self.started = {}
        self.ended = {}
        self.then = {}

    def at(self, at_s, act, what):
        self.serial += 1
        heapq.heappush(self.events, (at_s, self.serial, act, what))

    def ask_at(self, at_s, then=None, **more):
        asked = request(NAME, at_s, **more)
        self.asked[asked.request_id] = asked
        if then is not None:
            self.then[asked.request_id] = then
        self.at(at_s, self._ask, asked.request_id)
        return asked.request_id

    def run(self, until_s):
        while self.events and self.events[0][0] <= until_s:
            self.now_s, _, act, what = heapq.heappop(self.events)
            if act is None:
                self._take(self.scheduler.on_fleet(self.fleet, self.now_s))
                heapq.heappush(self.events, (self.now_s + 1.0, -1, None, ""))
            else:
                act(what)

    def _ask(self, request_id):
        self._take(self.scheduler.on_request(self.asked[request_id], self.fleet, self.now_s))

    def _take(self, effects):
        for effect in effects:
            assert isinstance(effect, Grant)
            self.started[effect.request_id] = self.now_s
            winner = effect.decision.winner
            node_id, wanted = winner.replica.node_id, self.asked[effect.request_id].load_options
            if winner.num_ctx:
                wanted = (("num_ctx", winner.num_ctx),)
            pause_s = 0.0
            if wanted != self.options[node_id]:
                self.options[node_id] = wanted
                self.reloads += 1
                pause_s = RELOAD_S
            self.at(self.now_s + pause_s + 0.1, self._first, effect.request_id)
            self.at(self.now_s + pause_s + SERVICE_S, self._end, effect.request_id)

    def _first(self, request_id):
        self.scheduler.on_first_byte(request_id, self.now_s)

    def _end(self, request_id):
        self.ended[request_id] = self.now_s
        self._take(
            self.scheduler.on_finished(
                request_id, OutcomeKind.COMPLETED, USAGE, self.fleet, self.now_s
            )
        )
        if request_id in self.then:
            self.then.pop(request_id)()


def windows(number):
    return (("num_ctx", (8192, 16384)[number % 2]),)


@pytest.mark.parametrize("slots", [1, 2])
def test_mixed_windows_are_batched_and_nobody_starves(slots):
    """A steady mixture at most of one machine's capacity; in order of arrival every second
    request would load the model anew.
    """
    world = Engine(slots=slots)
    ids = [
        world.ask_at(1.6 * n / slots, load_options=windows(n), client=f"c{n % 2}")
        for n in range(100)
    ]
    world.run(1000.0)
    assert len(world.ended) == 100
    assert world.reloads <= 20
    waits = [world.started[i] - world.asked[i].arrived_s for i in ids]
    assert max(waits) < 2 * TURN_MAX_S


def test_a_stream_of_one_window_does_not_keep_out_the_other():
    """Two slots, never empty: the other window's request has the runner run dry for it."""
    world = Engine(slots=2)
    for n in range(400):
        world.ask_at(0.45 * n, load_options=windows(0), client="many")
    other = world.ask_at(20.0, load_options=windows(1), client="one")
    world.run(180.0)
    assert other in world.started
    assert world.started[other] - 20.0 < TURN_MAX_S + 10.0
    assert world.reloads <= 3


def test_two_clients_that_ask_one_after_the_other_do_not_take_turns_by_request():
    """Each asks again as soon as it has its answer: in order of arrival all would reload."""
    world = Engine()

    def ask_again(number):
        if world.now_s < 120.0:
            world.ask_at(
                world.now_s + 0.05,
                then=lambda: ask_again(number),
                load_options=windows(number),
                client=f"c{number}",
            )

    for number in range(2):
        ask_again(number)
    world.run(300.0)
    assert len(world.ended) > 50
    assert world.reloads < len(world.ended) / 4


def test_different_windows_live_on_different_machines():
    world = Engine(nodes=2)
    for n in range(60):
        world.ask_at(1.3 * n, load_options=windows(n), client=f"c{n % 2}")
    world.run(300.0)
    assert len(world.ended) == 60
    assert world.reloads <= 4


def test_requests_without_window_never_reload_beside_those_with_one():
    world = Engine()
    for n in range(40):
        world.ask_at(2.0 * n, load_options=windows(0) if n % 2 else ())
    world.run(300.0)
    assert len(world.ended) == 40
    assert world.reloads == 1


def test_a_client_that_floods_does_not_delay_one_that_asks_now_and_then():
    world = Engine()
    for _ in range(60):
        world.ask_at(0.0, client="flood")
    single = [world.ask_at(10.0 * n + 5.0, client="single") for n in range(4)]
    world.run(200.0)
    waits = [world.started[i] - world.asked[i].arrived_s for i in single]
    assert max(waits) < 10 * SERVICE_S  # 60 were there before it


def test_long_answers_count_for_more_than_short_ones():
    """Share is by tokens: who took few long ones stands back as who took many short ones."""
    shares = Shares()
    shares.started("long", 1000.0)
    for _ in range(5):
        shares.started("short", 100.0)
    assert shares.of("long", 0.0) == pytest.approx(2 * shares.of("short", 0.0))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0.1, 1e5),
            st.floats(0.0, 1e5),
            st.floats(0.0, 100.0),
        ),
        max_size=40,
    )
)
def test_shares_are_never_negative_and_fade(history):
    shares, now_s = Shares(), 0.0
    for client, tokens, taken, pause_s in history:
        now_s += pause_s
        shares.started(client, tokens)
        before = shares.of(client, now_s)
        assert before > 0
        shares.ended(client, tokens, taken, now_s)
        assert shares.of(client, now_s) >= 0
    shares.forget(now_s + 3600.0)
    assert len(shares) == 0
