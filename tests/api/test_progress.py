"""Several progress streams become one that a client of one Ollama understands."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.progress import MAX_LINE_BYTES, Progress
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response

MANAGE = OLLAMA.parent / "ollama_manage"
LAYERS = [("sha256:" + "a" * 64, 1000), ("sha256:" + "b" * 64, 70)]

steps = st.lists(st.integers(0, 1000), min_size=1, max_size=8).map(sorted)
endings = st.sampled_from(["success", "success", "success", "error", "cut"])


@st.composite
def streams(draw):
    """Lines of one node, as Ollama writes them; `ending` is how it goes."""
    lines = [{"status": "pulling manifest"}]
    for digest, total in LAYERS:
        for done in [*draw(steps), 1000]:
            line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total}
            if done:
                line["completed"] = done * total // 1000
            lines.append(line)
    lines += [{"status": "verifying sha256 digest"}]
    if draw(st.booleans()):
        lines += [{"status": "removing unused layers"}]
    lines += [{"status": "writing manifest"}]
    ending = draw(endings)
    if ending != "success":
        lines = lines[: draw(st.integers(0, len(lines)))]
    if ending != "cut":
        lines.append({"error": "disk full"} if ending == "error" else {"status": ending})
    return ending, b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@st.composite
def fleets(draw):
    """Streams of one to four nodes and an interleaving of their bytes."""
    nodes = draw(st.lists(streams(), min_size=1, max_size=4))
    pieces = []
    for index, (_, data) in enumerate(nodes):
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
        bounds = [0, *cuts, len(data)]
        pieces.append([(index, data[a:b]) for a, b in itertools.pairwise(bounds)])
    order = []
    while any(pieces):
        choice = draw(st.sampled_from([i for i, left in enumerate(pieces) if left]))
        order.append(pieces[choice].pop(0))
    return [ending for ending, _ in nodes], order


def merge(count, order):
    progress = Progress([f"n{i}" for i in range(count)])
    out = [progress.feed(index, data) for index, data in order]
    out += [progress.end(index) for index in range(count)]
    out.append(progress.finish())
    return progress, b"".join(out)


def lines_of(out):
    assert out.endswith(b"\n")
    return [json.loads(line) for line in out[:-1].split(b"\n")]


@given(fleets())
def test_exactly_one_success_and_only_when_all_succeed(fleet):
    endings, order = fleet
    progress, out = merge(len(endings), order)
    lines = lines_of(out)
    successes = [line for line in lines if line == {"status": "success"}]
    errors = [line for line in lines if "error" in line]
    if all(ending == "success" for ending in endings):
        assert (len(successes), errors) == (1, [])
        assert lines[-1] == successes[0]
        assert not progress.has_failed
    else:
        assert (successes, len(errors)) == ([], 1)
        assert lines[-1] == errors[0]
    assert progress.succeeded() == [i for i, e in enumerate(endings) if e == "success"]


@given(fleets())
def test_a_layer_never_goes_backwards_nor_ahead_of_a_node(fleet):
    endings, order = fleet
    _, out = merge(len(endings), order)
    lowest = {}
    for line in lines_of(out):
        if "digest" in line:
            assert line["total"] == dict(LAYERS)[line["digest"]]
            done = line.get("completed", 0)
            assert lowest.get(line["digest"], 0) <= done <= line["total"]
            lowest[line["digest"]] = done
    if all(ending == "success" for ending in endings):
        assert lowest == dict(LAYERS)


@given(fleets())
def test_each_status_once_in_the_order_of_every_node(fleet):
    endings, order = fleet
    _, out = merge(len(endings), order)
    said = [line["status"] for line in lines_of(out) if "status" in line and "digest" not in line]
    assert len(said) == len(set(said)) or len(endings) == 1
    phases = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
    assert [s for s in said if s in phases] == [s for s in phases if s in said]


@given(fleets())
def test_cuts_make_no_difference(fleet):
    endings, order = fleet
    whole = {}
    for index, data in order:
        whole[index] = whole.get(index, b"") + data
    joined = [(index, whole[index]) for index in sorted(whole)]
    one_by_one = [
        (index, line + b"\n") for index, data in joined for line in data.split(b"\n") if line
    ]
    assert merge(len(endings), joined)[1] == merge(len(endings), one_by_one)[1]


@given(fleets())
def test_what_is_done_is_told_while_it_happens(fleet):
    """Nothing waits for the end but the last statuses and the last line."""
    endings, order = fleet
    progress = Progress([f"n{i}" for i in range(len(endings))])
    so_far = b"".join(progress.feed(index, data) for index, data in order)
    if all(ending == "success" for ending in endings):
        assert b"writing manifest" in so_far
        assert b"success" not in so_far


def test_the_slowest_node_is_shown():
    progress = Progress(["a", "b"])

    def layer(done):
        line = {"status": "pulling aaaa", "digest": LAYERS[0][0], "total": 1000, "completed": done}
        return json.dumps(line).encode() + b"\n"

    assert lines_of(progress.feed(0, layer(500)))[0].get("completed", 0) == 0
    assert lines_of(progress.feed(1, layer(200)))[0]["completed"] == 200
    assert progress.feed(1, layer(200)) == b""
    assert lines_of(progress.feed(0, layer(900)))[0]["completed"] == 200
    assert lines_of(progress.feed(1, layer(950)))[0]["completed"] == 900
    progress.feed(0, b'{"status":"success"}\n')
    assert lines_of(progress.feed(1, layer(960)))[0]["completed"] == 960


def test_a_finished_phase_waits_for_the_others():
    progress = Progress(["a", "b"])
    layer = json.dumps({"status": "pulling aaaa", "digest": LAYERS[0][0], "total": 9}).encode()
    assert (
        progress.feed(0, b'{"status":"pulling manifest"}\n') == b'{"status":"pulling manifest"}\n'
    )
    assert progress.feed(1, b'{"status":"pulling manifest"}\n') == b""
    progress.feed(0, layer + b"\n")
    progress.feed(1, layer + b"\n")
    assert progress.feed(0, b'{"status":"writing manifest"}\n') == b""
    assert (
        progress.feed(1, b'{"status":"writing manifest"}\n') == b'{"status":"writing manifest"}\n'
    )


def test_the_failing_node_is_named_and_the_others_are_told():
    progress = Progress(["a", "b"])
    progress.feed(0, b'{"status":"success"}\n')
    progress.feed(1, b'{"error":"no space left on device"}\n')
    assert lines_of(progress.finish()) == [{"error": "node b: no space left on device; done on a"}]


def test_what_all_nodes_say_is_no_nodes_fault():
    progress = Progress(["a", "b"])
    line = b'{"error":"pull model manifest: file does not exist"}\n'
    assert progress.feed(0, line) + progress.feed(1, line) == b""
    assert progress.finish() == line


def test_a_cut_stream_is_an_error():
    progress = Progress(["a", "b"])
    progress.feed(0, b'{"status":"success"}\n')
    progress.end(1, "it went offline")
    assert progress.error == "node b: it went offline; done on a"


def test_garbage_is_an_error():
    progress = Progress(["a"])
    assert progress.feed(0, b"<html>\n") == b""
    assert progress.error == "it answered with something else: <html>"


def test_a_line_without_end_is_no_line():
    progress = Progress(["a"])
    progress.feed(0, b"x" * (MAX_LINE_BYTES + 1))
    assert progress.has_failed


SINGLE = [
    "120_create_from_stream",
    "122_create_from_unknown",
    "124_create_bad_files",
    "130_pull_refused_stream",
    "138_push_unknown",
    "400_pull_ok_stream_loopback_registry",
    "402_pull_unknown_404_stream",
    "408b_pull_same_at_once",
]


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("size", [1, 61, 10**6])
def test_one_node_passes_as_it_is(name, size):
    body = parse_response(read(MANAGE / f"{name}.txt").response).body
    order = [(0, body[start : start + size]) for start in range(0, len(body), size)]
    assert merge(1, order)[1] == body


@pytest.mark.parametrize("name", SINGLE)
def test_two_nodes_in_step_say_the_same_once(name):
    body = parse_response(read(MANAGE / f"{name}.txt").response).body
    lines = [line + b"\n" for line in body.split(b"\n") if line]
    order = [(index, line) for line in lines for index in (0, 1)]
    _, out = merge(2, order)
    real, merged = lines_of(body), lines_of(out)
    assert merged[-1] == real[-1]
    plain = [line for line in merged if "digest" not in line]
    assert plain == [line for line in real if "digest" not in line]
    last = {line["digest"]: line for line in real if "digest" in line}
    assert {line["digest"]: line for line in merged if "digest" in line} == last
