"""The quick ways of pricing a place give what the one way for all places gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core import signals
from ollama_herd.core.node import Platform
from ollama_herd.core.place import Priced
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind, Usage
from ollama_herd.core.scheduler import Grant, QueueSettings, Scheduler
from ollama_herd.core.signals import Ask, price, price_any
from tests.core.fleets import engine, fleet_of, model, report, request

NAMES = ["m:7b", "other:1b"]
FACTS = [name for name in dir(Priced) if not name.startswith("_") and name != "place"]

asks = st.builds(
    lambda name, stream, prompt, limit, context, blocks: {
        "name": name,
        "stream": stream,
        "prompt_tokens": prompt,
        "max_tokens": limit,
        "load_options": (("num_ctx", context),) if context else (),
        "prefix": (7,) * blocks,
    },
    st.sampled_from([NAMES[0]] * 4 + NAMES[1:]),
    st.booleans(),
    st.integers(0, 3000),
    st.sampled_from([None, None, 0, 5, 400]),
    st.sampled_from([0] * 8 + [8192]),
    st.sampled_from([0] * 6 + [3]),
)
steps = st.lists(
    st.tuples(
        st.floats(0.0, 4.0),
        st.one_of(
            asks,
            st.tuples(st.sampled_from(["first byte", "end"]), st.integers(0, 99)),
        ),
    ),
    max_size=40,
)
chips = st.sampled_from(
    [
        Platform(system="linux", machine="x86_64"),
        Platform(system="darwin", machine="arm64", chip="Apple M3 Ultra"),
    ]
)


def walk(scheduler, fleet, history):
    """Let it happen; the time afterwards."""
    now_s, running = 0.0, []
    for pause_s, what in history:
        now_s += pause_s
        effects = ()
        if isinstance(what, dict):
            effects = scheduler.on_request(request(now_s=now_s, **what), fleet, now_s)
        elif running:
            kind, which = what
            request_id = running[which % len(running)]
            if kind == "first byte":
                scheduler.on_first_byte(request_id, now_s)
            else:
                running.remove(request_id)
                usage = Usage(prompt_tokens=200, output_tokens=which, decode_ms=900.0)
                effects = scheduler.on_finished(
                    request_id, OutcomeKind.COMPLETED, usage, fleet, now_s
                )
        running += [effect.request_id for effect in effects if isinstance(effect, Grant)]
    return now_s


@given(steps, asks, st.sampled_from([1, 2, 4, 16]), chips, st.floats(0.0, 5.0))
def test_a_quick_price_is_the_price(history, asked, slots, chip, pause_s):
    fleet = fleet_of(
        report(node_id, [engine([model(n) for n in NAMES], loaded, slots=slots)], platform=chip)
        for node_id, loaded in (("a", NAMES[:1]), ("b", NAMES), ("c", []))
    )
    scheduler = Scheduler(QueueSettings(), Predictor())
    now_s = walk(scheduler, fleet, history) + pause_s
    load = scheduler.load
    ask = Ask(request(now_s=now_s, **asked), fleet.nodes, load, now_s)
    for place in load.board(ask.request.model_key, fleet).places:
        quick, slow = price(place, ask), price_any(place, ask)
        for fact in FACTS:
            assert getattr(quick, fact) == pytest.approx(getattr(slow, fact), rel=1e-9), fact


@pytest.mark.skipif(not signals.__file__.endswith(".py"), reason="machine code is not patched")
def test_a_busy_fleet_is_priced_the_quick_way(monkeypatch):
    fleet = fleet_of(report(n, [engine([model(NAMES[0])], NAMES[:1], slots=16)]) for n in "ab")
    scheduler = Scheduler(QueueSettings(), Predictor())
    monkeypatch.setattr(signals, "price_any", None)
    for number in range(16):
        assert scheduler.on_request(request(NAMES[0], 0.1 * number), fleet, 0.1 * number)
