"""Each health check against fleet states in which it must speak up, and in which it must not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.fleet import Fleet, NodeDrained, NodeReported, apply
from ollama_herd.core.health.checks import CHECKS
from ollama_herd.core.health.history import LoadLog
from ollama_herd.core.health.tracking import CLEAR_S, MAX_FINDINGS, Tracked, health, look, track
from ollama_herd.core.health.values import (
    LoadSeen,
    RouterFacts,
    Seen,
    Severity,
    Snapshot,
    StoreState,
    Stuck,
)
from ollama_herd.core.node import EngineKind, Gpu, LoadedModel, Pressure, Reach, Vitals
from ollama_herd.core.request import OutcomeKind, RefusalKind, Usage
from tests.core.fleets import GB, engine, fleet_of, model, report
from tests.core.states import (
    GIB,
    NAME,
    NOW,
    asked,
    ended,
    failed,
    failed_pictures,
    gone,
    image_engine,
    in_memory,
    loaded_in_turn,
    node,
    predicted,
    skewed,
    snapshot,
    turned_away,
    vitals,
    waiting,
    with_context,
)
from tests.store.samples import attempt

LOUD_AND_QUIET = {
    "node-offline": (
        [gone("b"), gone(), snapshot(node(vitals=vitals(throttled=True, temperature_c=104.0)))],
        [snapshot(node("a"), node("b"))],
    ),
    "engine-unreachable": (
        [
            snapshot(node(engines=[engine([model()], error="connection refused")])),
            snapshot(report("a", [])),
        ],
        [
            snapshot(),
            snapshot(
                node(engines=[engine([model()]), engine([], engine_id="image-service", error="x")])
            ),
        ],
    ),
    "memory-pressure": (
        [
            snapshot(node(vitals=vitals(pressure=Pressure.WARN))),
            snapshot(node(vitals=vitals(pressure=Pressure.CRITICAL))),
            snapshot(node(vitals=vitals(memory_available_bytes=GIB))),
        ],
        [snapshot(), snapshot(node(vitals=Vitals()))],
    ),
    "unused-memory": (
        [
            snapshot(node(vitals=vitals(memory_available_bytes=50 * GIB)), queue=waiting(3)),
            snapshot(
                node("a", vitals=vitals(pressure=Pressure.CRITICAL)),
                node("b", vitals=vitals(memory_available_bytes=50 * GIB)),
            ),
        ],
        [
            snapshot(node(vitals=vitals(memory_available_bytes=50 * GIB))),
            snapshot(node(vitals=vitals()), queue=waiting(3)),
        ],
    ),
    "kv-cache": (
        [snapshot(node(engines=[in_memory(size_gb=20.0)], vitals=vitals()))],
        [
            snapshot(node(engines=[in_memory(size_gb=3.5)], vitals=vitals())),
            snapshot(node(engines=[in_memory(size_gb=60.0, weights_gb=40.0)], vitals=vitals())),
        ],
    ),
    "thrashing": (
        [snapshot(loads=loaded_in_turn("x", "y", "x", "y", "x", "y"))],
        [
            snapshot(loads=loaded_in_turn("u", "v", "w", "x", "y", "z")),
            snapshot(loads=loaded_in_turn("x", "x", "x")),
        ],
    ),
    "loads": (
        [
            snapshot(
                ended=ended(
                    1,
                    usage=Usage(load_ms=90_000.0),
                    decision=with_context(8192, model=model(NAME, 4.0)),
                )
            ),
            snapshot(node(engines=[engine([model()])]), ended=failed(3)),
        ],
        [
            snapshot(
                ended=ended(
                    1,
                    usage=Usage(load_ms=30_000.0),
                    decision=with_context(8192, model=model(NAME, 40.0)),
                )
            ),
            snapshot(ended=failed(3)),  # it is loaded: something else is wrong
        ],
    ),
    "context": (
        [
            snapshot(
                ended=ended(
                    1,
                    request=asked(9000),
                    usage=Usage(prompt_tokens=4000, output_tokens=5),
                    decision=with_context(4096),
                )
            ),
            snapshot(
                ended=ended(
                    1,
                    usage=Usage(prompt_tokens=96, output_tokens=4000, done_reason="length"),
                    decision=with_context(4096),
                )
            ),
            snapshot(
                node(engines=[in_memory(context=131072)]),
                ended=ended(60, usage=Usage(prompt_tokens=900, output_tokens=100)),
            ),
        ],
        [
            snapshot(
                node(engines=[in_memory(context=131072)]),
                ended=ended(60, usage=Usage(prompt_tokens=90_000, output_tokens=100)),
            ),
            snapshot(
                ended=ended(
                    1,
                    request=asked(3000),
                    usage=Usage(prompt_tokens=2900, output_tokens=50, done_reason="stop"),
                    decision=with_context(4096),
                )
            ),
        ],
    ),
    "versions": (
        [
            snapshot(node("a"), node("b", engines=[engine([model()], version="0.11.0")])),
            snapshot(node(agent_version="0.1"), router=RouterFacts(version="0.2")),
        ],
        [
            snapshot(node("a"), node("b")),
            snapshot(node(agent_version="0.2"), router=RouterFacts(version="0.2")),
            snapshot(
                node("a"),
                node("b", engines=[engine([model()], version="b1", kind=EngineKind.OPENAI)]),
            ),
        ],
    ),
    "error-rate": (
        [snapshot(ended=ended(50) + failed(5)), snapshot(ended=ended(20) + failed(20))],
        [
            snapshot(ended=ended(500) + failed(5)),
            snapshot(ended=failed(2)),
            snapshot(ended=ended(5) + ended(40, status=404, error="not_found")),
            snapshot(ended=ended(5) + ended(40, status=499, error="client_left")),
        ],
    ),
    "retry-rate": (
        [
            snapshot(
                ended=ended(30)
                + ended(
                    10,
                    node_id="b",
                    attempts=(
                        attempt(OutcomeKind.UNREACHABLE, node_id="a", first_byte_ms=-1.0),
                        attempt(node_id="b"),
                    ),
                )
            )
        ],
        [snapshot(ended=ended(40)), snapshot(ended=failed(40))],
    ),
    "stream-reliability": (
        [
            snapshot(ended=ended(40) + failed(5, OutcomeKind.TRUNCATED, 80.0, status=200)),
            snapshot(ended=ended(10) + failed(10, OutcomeKind.SILENT, 80.0, status=200)),
        ],
        [snapshot(ended=ended(40)), snapshot(ended=ended(40) + failed(5))],
    ),
    "stuck-runner": (
        [
            snapshot(ended=failed(2, OutcomeKind.SILENT)),
            snapshot(stuck=(Stuck("a", "ollama-11434", NAME, "no byte in 30 s"),)),
        ],
        [snapshot(ended=failed(2, OutcomeKind.SILENT) + ended(1)), snapshot(ended=failed(5))],
    ),
    "queue-saturation": (
        [
            snapshot(queue=waiting(60)),
            snapshot(queue=waiting(95)),
            snapshot(queue=waiting(1, waited_s=90.0)),
            snapshot(ended=turned_away(RefusalKind.QUEUE_FULL)),
            snapshot(ended=turned_away(RefusalKind.QUEUE_TIMEOUT)),
        ],
        [snapshot(queue=waiting(20)), snapshot(ended=turned_away(RefusalKind.UNKNOWN_MODEL))],
    ),
    "services": (
        [
            snapshot(node(engines=[image_engine("connection refused")])),
            snapshot(node(engines=[engine([], engine_id="image-service", error="no weights")])),
            snapshot(node(engines=[image_engine("")]), ended=failed_pictures(4)),
        ],
        [
            snapshot(node(engines=[image_engine("")])),
            snapshot(node(engines=[image_engine("")]), ended=failed_pictures(2)),
            snapshot(ended=failed(10)),
            snapshot(node(engines=[engine([model()], error="connection refused")])),
            snapshot(node(engines=[engine([], engine_id="speech-service")])),
        ],
    ),
    "disk": (
        [
            snapshot(node(vitals=vitals(disk_free_bytes=5 * GB))),
            snapshot(node(vitals=vitals(disk_free_bytes=GB // 2))),
        ],
        [snapshot(node(vitals=vitals())), snapshot(node(vitals=vitals(disk_total_bytes=0)))],
    ),
    "clock-skew": ([skewed(30.0), skewed(-300.0)], [skewed(0.5), snapshot()]),
    "exposure": (
        [
            snapshot(router=RouterFacts(host="0.0.0.0", port=11435)),
            snapshot(node(engines=[engine([model()], reach=Reach.LAN)])),
        ],
        [snapshot(), snapshot(router=RouterFacts(host="0.0.0.0", asks_for_keys=True))],
    ),
    "digests": (
        [
            snapshot(
                node("a"),
                node("b"),
                node("c", engines=[engine([model(digest="another")], version="0.12.3")]),
            )
        ],
        [snapshot(node("a"), node("b"))],
    ),
    "store": (
        [
            snapshot(store=StoreState(error="The disk is full.", pending=7)),
            snapshot(store=StoreState(dropped=9, dropped_recently=3)),
            snapshot(store=StoreState(pending=9000)),
        ],
        [
            snapshot(),
            snapshot(store=StoreState(is_on=False)),
            snapshot(store=StoreState(dropped=9)),
        ],
    ),
    "drift": ([snapshot(ended=predicted(6.0)), snapshot(ended=predicted(0.1))],
              [snapshot(ended=predicted(1.4)), snapshot(ended=predicted(6.0)[:20])]),
    "duplicates": (
        [
            snapshot(
                node(
                    engines=[
                        engine([model()], [NAME]),
                        engine([model()], [NAME], engine_id="ollama-11500"),
                    ]
                )
            )
        ],
        [snapshot(), snapshot(node(engines=[engine([model()], [NAME]), engine([model()])]))],
    ),
    "swap": (
        [snapshot(node(vitals=vitals(swap_used_bytes=9 * GIB)))],
        [
            snapshot(node(vitals=vitals(swap_used_bytes=GIB))),
            snapshot(node(vitals=vitals(swap_used_bytes=9 * GIB), engines=[engine([model()])])),
        ],
    ),
}  # fmt: skip


def found(state: Snapshot, code: str) -> list[Seen]:
    return [seen for (of, _), seen in look(state).items() if of == code]


def test_every_check_is_shown_loud_and_quiet() -> None:
    assert {check.code for check in CHECKS} == set(LOUD_AND_QUIET)


@pytest.mark.parametrize(
    ("code", "state"), [(c, s) for c, (loud, _) in LOUD_AND_QUIET.items() for s in loud]
)
def test_it_fires_with_numbers(code: str, state: Snapshot) -> None:
    seen = found(state, code)
    assert seen
    assert all(one.severity is not Severity.OK and one.text and one.name for one in seen)


@pytest.mark.parametrize(
    ("code", "state"), [(c, s) for c, (_, quiet) in LOUD_AND_QUIET.items() for s in quiet]
)
def test_it_stays_quiet(code: str, state: Snapshot) -> None:
    assert found(state, code) == []


def test_a_small_healthy_fleet_is_all_well() -> None:
    state = snapshot(node("a", vitals=vitals()), node("b", vitals=vitals()), ended=ended(100))
    assert look(state) == {}
    tracked, changes = track(Tracked(), look(state), NOW)
    assert not changes
    assert health(tracked, NOW).overall is Severity.OK


def test_severity_follows_what_is_at_stake() -> None:
    assert found(gone("b"), "node-offline")[0].severity is Severity.WARNING
    assert found(gone(), "node-offline")[0].severity is Severity.CRITICAL
    assert "nobody else has llama3.2:3b" in found(gone(), "node-offline")[0].text
    drained = apply(fleet_of([node()], NOW), NodeDrained("a", draining=True), NOW)
    assert found(snapshot(fleet=drained), "node-offline")[0].severity is Severity.INFO
    minor = snapshot(node("a"), node("b", engines=[engine([model()], version="0.12.9")]))
    assert found(minor, "versions")[0].severity is Severity.INFO


def test_a_node_that_said_goodbye_is_not_said_to_be_silent() -> None:
    left = fleet_of([node()], NOW - 60)
    left = fleet_of([node(seq=2, leaving=True)], NOW - 18, left)
    assert found(snapshot(fleet=left), "node-offline")[0].text.startswith("left 18 s ago")
    assert found(gone(), "node-offline")[0].text.startswith("no report for")


def test_what_flickers_is_told_once() -> None:
    check = "engine-unreachable"
    down = look(snapshot(node(engines=[engine([model()], error="refused")])))
    told = []
    state = Tracked()
    for second in range(40):  # every other look sees it, the last twenty none
        state, changes = track(state, down if second % 2 == 0 and second < 20 else {}, second)
        told += [(second, change.before, change.after) for change in changes]
    assert told == []  # it never lasted for as long as an engine may take to start
    state = Tracked()
    for second in range(60):
        here = second < 20 or (second % 2 == 0 and second < 30)
        state, changes = track(state, down if here else {}, second, 100.0)
        told += [(second, change.before, change.after) for change in changes]
    assert told == [
        (5, Severity.OK, Severity.CRITICAL),
        (28 + CLEAR_S, Severity.CRITICAL, Severity.OK),
    ]
    state, _ = track(Tracked(), down, 0.0, 100.0)
    state, _ = track(state, down, 6.0, 100.0)
    shown = health(state, 6.0, 100.0)
    assert (shown.overall, shown.time_s, shown.counts[Severity.CRITICAL]) == ("critical", 106.0, 1)
    assert (shown.checks[0].code, shown.checks[0].since_s) == (check, 100.0)
    assert shown.checks[0].findings[0].advice.startswith("Start the engine")


def test_a_change_of_severity_is_told() -> None:
    def pressed(pressure):
        return look(snapshot(node(vitals=vitals(pressure=pressure))))

    state, _ = track(Tracked(), pressed(Pressure.WARN), 0.0)
    state, first = track(state, pressed(Pressure.WARN), 11.0)
    state, second = track(state, pressed(Pressure.CRITICAL), 12.0)
    assert [(c.before, c.after) for c in (*first, *second)] == [
        ("ok", "warning"),
        ("warning", "critical"),
    ]
    assert health(state, 12.0).checks[0].since_s == 0.0


def test_a_hundred_findings_are_enough() -> None:
    bad = [node(str(n), vitals=vitals(disk_free_bytes=1)) for n in range(MAX_FINDINGS + 50)]
    assert len(found(snapshot(*bad), "disk")) == MAX_FINDINGS


def test_loads_are_seen_from_look_to_look() -> None:
    log = LoadLog()
    idle = engine([model(), model("b:1b")])
    busy = engine([model(), model("b:1b")], [NAME])
    first = fleet_of([node(engines=[busy])], 0.0)
    assert log.observe(first, 0.0) == ()  # it was there before
    second = fleet_of([node(engines=[idle], seq=2)], 1.0, first)
    assert log.observe(second, 1.0) == ()
    third = fleet_of([node(engines=[busy], seq=3)], 2.0, second)
    assert log.observe(third, 2.0) == (LoadSeen("a", "ollama-11434", NAME, 2.0),)
    assert log.observe(third, 3.0) == (LoadSeen("a", "ollama-11434", NAME, 2.0),)
    again = fleet_of([node(engines=[idle], seq=1, boot=2)], 4.0, third)
    assert len(log.observe(again, 4.0)) == 1
    assert log.observe(again, 5000.0) == ()


def test_a_report_that_was_long_under_way_is_no_skewed_clock() -> None:
    fleet = Fleet()
    for seq, delay_s in enumerate((0.01, 8.0, 0.01), 1):
        told = node(seq=seq, sent_at_ms=int(1e6))
        fleet = apply(fleet, NodeReported(told, "10.0.0.1", 1e3 + delay_s), NOW)
        assert abs(fleet.nodes["a"].clock_skew_s) < 3.0


@given(st.text(max_size=10_000), st.text(max_size=300))
def test_names_of_others_stay_on_one_line(error: str, version: str) -> None:
    hostile = "\x1b[2J<img src=x onerror=alert(1)>\n" + error[:400]
    bad = engine([model(hostile[:500])], error=error or "x", version=version)
    other = node("b", engines=[engine([model()], version="1.2.3")])
    named = msgspec.structs.replace(node("a", engines=[bad]), name=hostile)
    state = snapshot(named, other, queue=waiting(99, 99.0))
    for seen in look(state).values():
        assert all(c.isprintable() for c in seen.name + seen.text)
        assert len(seen.name) + len(seen.text) < 1000


extreme = st.sampled_from([0, 1, 2**31, 2**63 - 1])
odd = st.sampled_from([-1e308, -1.0, 0.0, 1e-300, 1e308])


@given(st.data())
def test_no_report_is_too_strange_to_look_at(data: st.DataObject) -> None:
    strange = Vitals(
        **{name: data.draw(extreme, name) for name in SIZES},
        cpu_percent=data.draw(odd),
        temperature_c=data.draw(odd),
        throttled=data.draw(st.booleans()),
        gpus=(Gpu(name="", memory_total_bytes=data.draw(extreme)),),
    )
    one = LoadedModel(name=NAME, size_bytes=data.draw(extreme), context_length=data.draw(extreme))
    busy = msgspec.structs.replace(engine([model()]), loaded=(one, one))
    told = msgspec.structs.replace(
        node(vitals=strange, engines=[busy]), sent_at_ms=data.draw(extreme)
    )
    fleet = apply(Fleet(), NodeReported(told, "10.0.0.1", data.draw(odd)), NOW)
    used = Usage(
        prompt_tokens=data.draw(extreme), output_tokens=data.draw(extreme), load_ms=data.draw(odd)
    )
    ends = ended(60, usage=used, total_ms=data.draw(odd), decision=with_context(data.draw(extreme)))
    state = snapshot(fleet=fleet, ended=ends, queue=waiting(3, data.draw(odd)))
    tracked, _ = track(Tracked(), look(state), NOW)
    assert msgspec.json.encode(health(tracked, NOW))


SIZES = (
    "memory_total_bytes",
    "memory_available_bytes",
    "swap_used_bytes",
    "disk_total_bytes",
    "disk_free_bytes",
)
