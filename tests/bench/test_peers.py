"""The pure parts of the comparison with other routers: command lines, answers, outcomes, tables."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pages
import wire
import wire_openai
import write_docs
from peers import environments, run, tables
from peers.exchange import Answer, judge
from peers.faults import REFUSE, Cell, cells, count
from peers.heartbeats import heartbeat
from peers.kinds import KINDS, OLLAMA, OPENAI, PATHS, Place, litellm_config
from peers.reading import Read, read
from tests.e2e.fault_matrix import Form
from tests.fakes.raw import Response

ORDER = wire.Order(id=7, chunks=4, period_us=1000)
PACKAGED = [kind for kind in KINDS.values() if kind.package]
STREAM = Form(PATHS[OPENAI], is_stream=True)


def _stream(dialect, numbers=range(4), order=ORDER):
    return dialect.STREAM_HEAD + b"".join(
        dialect.chunk(1000 + number, order.id, number) for number in numbers
    )


def _answer(raw, cuts=()):
    answer, start = Answer(), 0
    for at_us, end in enumerate([*sorted(cuts), len(raw)]):
        if end > start:
            is_whole = answer.add(raw[start:end], 5000 + at_us)
            start = end
    return answer, is_whole


@pytest.mark.parametrize("kind", PACKAGED, ids=lambda kind: kind.name)
def test_commands_name_both_engines_and_listen_on_loopback_only(kind, tmp_path):
    command = kind.command(Place(tmp_path, 4711, (1001, 1002)))

    assert "127.0.0.1" in command
    assert "4711" in command
    assert not any("0.0.0.0" in word for word in command)
    if kind.name in ("sglang-router", "vllm-router"):
        assert {"http://127.0.0.1:1001", "http://127.0.0.1:1002"} <= set(command)


def test_litellm_knows_every_model_on_both_engines(tmp_path):
    config = litellm_config(Place(tmp_path, 1, (1001, 1002), ("a", "b")))

    assert config.count('model_name: "a"') == config.count('model_name: "b"') == 2
    assert config.count("http://127.0.0.1:1001/v1") == 2
    assert "telemetry: false" in config


def test_heartbeats_of_the_peer_name_engine_and_models():
    body = heartbeat(1, 1002, ["a", "b"])

    assert body["node_id"] == "bench-1"
    assert body["ollama_host"] == "http://127.0.0.1:1002"
    assert [model["name"] for model in body["ollama"]["models_loaded"]] == ["a", "b"]


@pytest.mark.parametrize("kind", PACKAGED, ids=lambda kind: kind.name)
def test_every_version_is_pinned(kind):
    lines = environments.pins(kind.package).read_text().splitlines()

    assert all("==" in line for line in lines if line)
    assert environments.version(kind.package)


def test_telemetry_is_off_where_a_router_has_it(tmp_path):
    assert KINDS["ollama-herd"].surroundings(tmp_path)["FLEET_TELEMETRY"] == "false"
    assert KINDS["litellm"].surroundings(tmp_path)["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    assert all(k.surroundings(tmp_path)["HOME"] == str(tmp_path) for k in KINDS.values())


@pytest.mark.parametrize("dialect", [wire, wire_openai])
@given(cuts=st.lists(st.integers(min_value=1, max_value=900), max_size=6))
def test_a_stream_is_right_however_it_is_read(dialect, cuts):
    raw = _stream(dialect) + dialect.final_chunk(4)
    answer, is_whole = _answer(raw, [cut % len(raw) for cut in cuts])

    assert is_whole
    judged = judge(answer, ORDER)
    assert judged.problem == ""
    assert len(judged.delays_us) == 4


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (_stream(wire_openai, [0, 1, 3]) + wire_openai.final_chunk(4), "3 chunks of 4"),
        (_stream(wire_openai, [0, 2, 1, 3]) + wire_openai.final_chunk(4), "not in order"),
        (_stream(wire_openai) + b"0\r\n\r\n", "no end marker"),
        (_stream(wire_openai, order=wire.Order(8)) + b"0\r\n\r\n", "another stream"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503"),
    ],
)
def test_a_damaged_stream_is_a_problem(raw, problem):
    assert problem in judge(_answer(raw)[0], ORDER).problem


@pytest.mark.parametrize("dialect", [wire, wire_openai])
def test_a_small_answer_has_1_kb_and_its_request_too(dialect):
    order = wire.Order(12)
    body = dialect.answer(12)
    answer, is_whole = _answer(dialect.ANSWER_HEAD % len(body) + body)

    assert len(body) == wire.BODY_BYTES
    assert len(dialect.request(order, 1).partition(b"\r\n\r\n")[2]) == wire.BODY_BYTES
    assert is_whole
    assert judge(answer, order).problem == ""
    assert judge(answer, wire.Order(13)).problem


def test_marks_are_found_behind_a_translation():
    text = b'{"delta":"000000001234000070000019"} {"delta": "00000000123400007000001"}'

    assert [mark[:3] for mark in wire_openai.marks(text)] == [(1234, 7, 1)]


def test_a_quick_run_leaves_out_the_faults_that_hang():
    named = {fault for fault, _ in cells(KINDS["litellm"], quick=True)}

    assert "silence" not in named
    assert REFUSE in named
    assert {form.path for _, form in cells(KINDS["litellm"], quick=False)} == {PATHS[OPENAI]}


def _events(*texts, end=b"data: [DONE]\n\n"):
    events = [b'data: {"id":"1","choices":[{"delta":{"content":"%b"}}]}\n\n' % t for t in texts]
    return Response(200, "OK", [], "chunked", body=b"".join(events) + end, is_whole=True,
                    arrivals=[0.1])  # fmt: skip


WHOLE = Read("ab", is_whole=True)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (_events(b"a", b"b"), "completed"),
        (_events(b"a"), "silent"),
        (_events(b"a", end=b""), "silent"),
        (Response(502, "Bad Gateway", [], "length", is_whole=True), "told"),
        (Response(0, "connection reset", [], "close"), "told"),
        (None, "hung"),
    ],
)
def test_each_outcome_is_counted_where_it_belongs(answer, where):
    cell = Cell("close", STREAM.name)
    count(cell, STREAM, answer, WHOLE)

    counted = {key: getattr(cell, key) for key in ("completed", "told", "silent", "hung")}
    assert counted == {key: int(key == where) for key in counted}


@pytest.mark.parametrize(
    ("body", "text", "is_whole"),
    [
        (b'{"message":{"content":"a"},"done":true}', "a", True),
        (b'{"message":{"content":"a"}}\n{"message":{"content":"b"},"done":true}', "ab", True),
        (b'{"message":{"content":"a"}}\n', "a", False),
        (b'{"message":{"content":"a"}}\n{"error":"died"}', "a", False),
    ],
)
def test_lines_of_ollama_are_read_without_any_of_their_counts(body, text, is_whole):
    form = Form(PATHS[OLLAMA], is_stream=True)
    got = read(form, Response(200, "OK", [], "chunked", body=body, is_whole=True))

    assert (got.text, got.is_whole) == (text, is_whole)
    assert got.error == ("died" if b"died" in body else "")


def test_half_a_json_answer_is_an_error_to_a_client():
    form = Form(PATHS[OPENAI], is_stream=False)
    half = Response(200, "OK", [], "length", body=b'{"choices":[{"mess', is_whole=True)

    assert "not an answer" in read(form, half).error


def _values(cpu_us, gap_ms=0.5):
    left = {"mid_p50_ms": 2.2, "gap_p50_ms": gap_ms, "before_p50_ms": 1.0, "plain_p50_ms": 1.0}
    return {
        "request_cpu_us": cpu_us,
        "requests_per_s": 1e6 / cpu_us,
        "chunk_cpu_us": cpu_us / 2,
        "added_us": 250.0,
        "rss_mb": 20.0,
        "growth_mb": 0.0,
        "left": left,
        "problems": [],
    }


RESULTS = {
    "costs": {
        "nginx": [{OPENAI: _values(10)}, {OPENAI: _values(20)}],
        "herd": [{OPENAI: _values(30)}, {OPENAI: _values(80)}],
        "litellm": [{OPENAI: _values(9000, gap_ms=0.0)}, {}],
    },
    "faults": {
        "herd": [{"fault": "close", "form": STREAM.name, "requests": 12, "completed": 12,
                  "told": 0, "silent": 0, "hung": 0, "met": 3}],
        "litellm": [{"fault": "close", "form": STREAM.name, "requests": 12, "completed": 7,
                     "told": 4, "silent": 1, "hung": 0, "met": 5}],
    },
    "probes": {"engine": {OPENAI: {"half a JSON body": "400 unexpected | EOF"}}},
    "failed": {"costs": {"litellm": "did not start"}},
    "versions": {"nginx": "1.0", "herd": "0.1.0", "litellm": "2.0", "engine": "itself"},
    "order": ["nginx", "herd", "litellm"],
    "where": "a machine",
    "machine": {"cores": 2, "load_average": "7.5"},
    "how": "medians",
    "is_closed": False,
    "quick": False,
}  # fmt: skip


def test_costs_are_medians_and_ratios_are_taken_within_a_round():
    table = tables.tables(RESULTS)[0]
    herd = next(row for row in table.rows if row[0].startswith(tables.OURS))

    assert herd[1] == "55 (30-80)"
    assert herd[2] == "3.5"
    assert herd[-1] == "2 / <1 / 1 / 1"


def test_an_engine_that_was_not_told_in_a_round_was_not_told():
    row = next(row for row in tables.tables(RESULTS)[0].rows if row[0].startswith("LiteLLM"))

    assert row[-1] == "2 / no / 1 / 1"


def test_outcomes_say_what_became_of_the_others():
    table = next(table for table in tables.tables(RESULTS) if "end right" in table.title)

    assert table.rows == [("close", "12/12", "7/12, 4 errors, 1 CUT SHORT")]
    unmet = copy.deepcopy(RESULTS["faults"]["herd"][0]) | {"met": 0}
    assert tables.outcome(unmet) == "12/12, not met"


def test_the_page_tells_what_failed_and_that_the_network_was_open():
    page = tables.markdown(RESULTS)

    assert "LiteLLM proxy 2.0 not measured: costs: did not start" in page
    assert "could have reached the network" in page
    assert "busy with other work" in page
    assert "unexpected \\| EOF" in page


def test_results_replace_what_is_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n")
    pages.put(page, "x", "new")

    assert page.read_text() == "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n"
    with pytest.raises(ValueError, match="no markers"):
        pages.put(page, "y", "new")


def test_timings_become_rows():
    one = {"name": "test_decide[50-60-110]", "params": {"count": 50, "busy": 60, "target_us": 110}}
    timings = {"benchmarks": [one | {"stats": {"min": 44.1e-6, "median": 50e-6}}]}

    assert write_docs.decisions_table(timings).splitlines()[-1] == (
        "| a decision among 50 nodes, 60 requests under way | 44.1 | 50.0 |"
    )


def test_parts_of_several_runs_make_one_result(tmp_path):
    empty = {"costs": {}, "faults": {}, "probes": {}, "how": "", "is_closed": True, "failed": {}}
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    close = {"form": "f", "fault": "close"}
    first = {"faults": {"herd": [close | {"told": 0}]}, "failed": {"faults": {"x": "y"}}}
    second = {
        "faults": {"herd": [close | {"told": 9}, {"form": "g", "fault": "close"}]},
        "costs": {"herd": [1]},
        "how": "so",
        "is_closed": False,
    }
    files[0].write_text(json.dumps(empty | first))
    files[1].write_text(json.dumps(empty | second))

    merged = run.merged(files)

    assert merged["costs"] == {"herd": [1]}
    assert merged["faults"] == {"herd": [close | {"told": 0}, {"form": "g", "fault": "close"}]}
    assert merged["how"] == "so"
    assert merged["is_closed"] is False
    assert merged["failed"] == {"faults": {"x": "y"}}
