"""What is counted of requests, held against the traces themselves."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.counts import Counts, Histogram
from ollama_herd.core.request import OutcomeKind, Refusal, RefusalKind, Usage
from ollama_herd.core.tally import MAX_MODELS, MAX_PLACES, OTHER, STEP_S, WINDOW_STEPS, Key, Tally
from ollama_herd.core.trace import Trace
from tests.store.samples import attempt, trace


def tallied(*traces, now_s=0.0):
    tally = Tally()
    for one in traces:
        tally.add([one], now_s)
    return tally


def only(tally: Tally) -> Counts:
    (counts,) = tally.totals().values()
    return counts


def test_a_request_is_counted_once_under_its_place() -> None:
    tally = tallied(trace(), trace(status=404, error="not_found"))
    assert list(tally.totals()) == [Key("llama3.2:latest", "node-a", "ollama")]
    counts = only(tally)
    assert (counts.requests, counts.completed, counts.client_errors) == (2, 1, 1)
    assert (counts.prompt_tokens, counts.output_tokens) == (22, 14)
    assert counts.attempts == {OutcomeKind.COMPLETED: 2}
    assert (counts.ttft_s.count, round(counts.ttft_s.total, 3)) == (2, 0.161)
    assert counts.decode_s.count == 2


def test_every_end_is_one_of_four() -> None:
    ends = {
        "completed": trace(),
        "client_errors": trace(status=400, error="bad_request"),
        "failed": trace(status=502, error="unreachable"),
        "cancelled": trace(status=499, error="client_left"),
    }
    for name, one in ends.items():
        counts = only(tallied(one))
        assert {n: getattr(counts, n) for n in ends} == {n: int(n == name) for n in ends}
    broken = only(tallied(trace(status=200, error="truncated")))
    assert (broken.failed, broken.completed) == (1, 0)
    left = only(tallied(trace(status=200, error="client_left")))
    assert left.cancelled == 1


def test_attempts_belong_to_their_nodes() -> None:
    first = attempt(OutcomeKind.UNREACHABLE, node_id="node-b", first_byte_ms=-1.0, ended_ms=5.0)
    second = attempt(started_ms=6.0)
    totals = tallied(trace(attempts=(first, second))).totals()
    by_node = {key.node_id: counts for key, counts in totals.items()}
    assert by_node["node-b"].attempts == {OutcomeKind.UNREACHABLE: 1}
    assert by_node["node-b"].requests == 0
    assert by_node["node-a"].retried == 1
    assert by_node["node-a"].hedged == 0
    hedged = tallied(trace(attempts=(first, second), hedged=True)).totals()
    assert hedged[Key("llama3.2:latest", "node-a", "ollama")].hedged == 1


def test_a_stream_that_broke_off_and_went_on() -> None:
    first = attempt(OutcomeKind.TRUNCATED, ended_ms=500.0)
    second = attempt(node_id="node-b", started_ms=501.0)
    one = trace(attempts=(first, second), node_id="node-b", continued=True)
    same_words = msgspec.structs.replace(one, continued=False, tags=("continued",))
    totals = tallied(one, same_words).totals()
    assert sum(counts.continued for counts in totals.values()) == 1
    assert totals[Key("llama3.2:latest", "node-a", "ollama")].broken == 2


def test_names_that_no_engine_has_are_no_labels() -> None:
    refusal = Refusal(RefusalKind.UNKNOWN_MODEL, "x")
    one = trace(
        model="made-up", status=404, error="x", attempts=(), node_id="", usage=None, refusal=refusal
    )
    totals = tallied(*[one] * 3).totals()
    assert [key.model for key in totals] == [""]
    assert only(tallied(*[one] * 3)).refused == {RefusalKind.UNKNOWN_MODEL: 3}


def test_models_and_places_are_bounded() -> None:
    many = [trace(model=f"m{n}:latest") for n in range(MAX_MODELS + 50)]
    totals = tallied(*many).totals()
    assert len(totals) <= MAX_MODELS + 1
    assert totals[Key(OTHER, "node-a", "ollama")].requests >= 50
    spread = [
        trace(model=f"m{n % 40}:latest", node_id=f"n{n}", attempts=(attempt(node_id=f"n{n}"),))
        for n in range(MAX_PLACES + 100)
    ]
    totals = tallied(*spread).totals()
    assert sum(counts.requests for counts in totals.values()) == MAX_PLACES + 100
    assert sum(key.model != OTHER for key in totals) == MAX_PLACES


def test_what_is_recent_moves_on_and_totals_stay() -> None:
    tally = Tally()
    steps = WINDOW_STEPS + 3
    for step in range(steps):
        tally.add([trace()], step * STEP_S)
    (recent,) = tally.recent((steps - 1) * STEP_S).by_place.values()
    assert recent.requests == WINDOW_STEPS
    assert only(tally).requests == steps
    assert tally.recent(1e6).by_place == {}
    assert only(tally).requests == steps


def test_loads_and_cut_prompts_are_noticed() -> None:
    assert only(tallied(trace(usage=Usage(load_ms=40.0)))).loads == 0
    counts = only(tallied(trace(usage=Usage(load_ms=4000.0))))
    assert (counts.loads, counts.load_s, counts.slow_loads) == (1, 4.0, 0)


_ENDS = st.sampled_from(
    [
        trace(),
        trace(status=404, error="not_found"),
        trace(status=200, error="truncated", usage=None),
        trace(status=499, error="client_left", ttft_ms=-1.0),
        trace(usage=Usage(prompt_tokens=40, output_tokens=9, load_ms=4000.0)),
        trace(usage=Usage(done_reason="length"), node_id="node-b"),
        trace(attempts=(attempt(OutcomeKind.SILENT, node_id="node-b"), attempt()), hedged=True),
        trace(attempts=(), node_id="", refusal=Refusal(RefusalKind.NO_NODE, "x"), status=503),
    ]
)


@given(st.lists(_ENDS, max_size=20))
def test_it_makes_no_difference_how_many_are_counted_at_once(traces: list[Trace]) -> None:
    together = Tally()
    together.add(traces, 0.0)
    alone = tallied(*traces).totals()
    assert together.totals().keys() == alone.keys()
    for key, counts in together.totals().items():
        assert _figures(counts) == _figures(alone[key])


def _figures(counts: Counts) -> dict[str, object]:
    figures = {}
    for name in dir(counts):
        value = getattr(counts, name)
        if name.startswith("_") or callable(value):
            continue
        is_histogram = isinstance(value, Histogram)
        figures[name] = (value.slots, round(value.total, 6)) if is_histogram else value
    return figures


@given(st.lists(st.floats(0, 1e6)), st.lists(st.floats(0, 1e6)))
def test_histograms_add_up(left: list[float], right: list[float]) -> None:
    bounds = (0.5, 1.0, 100.0)
    one, other, both = Histogram(bounds), Histogram(bounds), Histogram(bounds)
    for values, histogram in ((left, one), (right, other), (left + right, both)):
        for value in values:
            histogram.add(value)
    one.merge(other)
    assert one.slots == both.slots
    assert one.count == len(left) + len(right)
    assert sum(both.slots[:2]) == sum(value <= 1.0 for value in left + right)
