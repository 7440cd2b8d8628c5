"""Before the first byte a failure is somebody else's turn; after it, the truth is told."""

import pytest

from tests.e2e.conftest import Pair
from tests.fakes.checks import QUEUE_FULL
from tests.fakes.dialects import RUNNER_DIED
from tests.fakes.state import Fault

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi"}]}

QUICK = [
    Fault.ERROR_500,
    Fault.BUSY_503,
    Fault.CLOSE,
    Fault.RESET,
    Fault.HALF_HEADER,
    Fault.GARBAGE,
    Fault.WEB_PAGE,
    Fault.EMPTY,
]
PATHS = {
    "/api/chat": {**CHAT},
    "/api/generate": {"model": "tiny", "prompt": "x", "stream": False},
    "/api/embed": {"model": "nomic-embed-text", "input": "x"},
    "/v1/chat/completions": {**CHAT, "stream": True},
    "/v1/messages": {**CHAT, "max_tokens": 5},
}


def fail_first(pair: Pair, fault: Fault) -> None:
    """Whichever engine is asked first fails once."""
    for engine in pair.engines:
        engine.fail_next(fault)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", QUICK, ids=lambda f: f.value)
def test_a_failing_node_is_replaced(pair: Pair, fault: Fault, path: str) -> None:
    failing = pair.engine("a")
    failing.fail_next(fault, times=-1)
    for _ in range(3):
        answer = pair.call("POST", path, PATHS[path])
        assert answer.status == 200, answer.body
        assert answer.is_whole
        assert answer.header("x-herd-node") == "b"
    failing.heal()


def test_the_failure_is_counted_as_an_attempt(pair: Pair) -> None:
    pair.engine("a").fail_next(Fault.CLOSE, times=-1)
    attempts = {pair.call("POST", "/api/chat", CHAT).header("x-herd-attempts") for _ in range(6)}
    assert attempts <= {"1", "2"}


def test_engine_that_refuses_connections(pair: Pair) -> None:
    pair.engine("a").refuse()
    try:
        for _ in range(3):
            answer = pair.call("POST", "/api/chat", CHAT)
            assert answer.status == 200
            assert answer.header("x-herd-node") == "b"
    finally:
        pair.engine("a").listen()
    pair.herd.wait_models("only-a:latest")


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.BUSY_503], ids=lambda f: f.value)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_the_last_engines_own_words(pair: Pair, fault: Fault, path: str) -> None:
    body = {**CHAT, "max_tokens": 5}
    for engine in pair.engines:
        engine.fail_next(fault, times=3)
    answer = pair.call("POST", path, body)
    direct_fault = pair.engine("a")
    direct_fault.heal()
    direct_fault.fail_next(fault)
    direct = pair.direct("a", "POST", path, body)
    assert (answer.status, answer.body) == (direct.status, direct.body)
    assert answer.header("content-type") == direct.header("content-type")
    if fault is Fault.BUSY_503:
        assert QUEUE_FULL.encode() in answer.body


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "fault", [Fault.CLOSE, Fault.GARBAGE, Fault.WEB_PAGE], ids=lambda f: f.value
)
def test_no_engine_said_anything(pair: Pair, fault: Fault, path: str) -> None:
    for engine in pair.engines:
        engine.fail_next(fault, times=-1)
    answer = pair.call("POST", path, {**CHAT, "max_tokens": 5})
    assert answer.status in (502, 503), answer.body
    error = answer.json()["error"]
    text = error if path == "/api/chat" else error["message"]
    assert "a" in text
    assert len(text) > 20


def test_client_errors_are_not_retried(pair: Pair) -> None:
    body = {**CHAT, "tools": [{"type": "function"}]}
    assert pair.call("POST", "/api/chat", body).status == 400
    assert sum(e.counters.received for e in pair.engines) == 1


def test_not_implemented_is_not_retried(pair: Pair) -> None:
    body = {"model": "tiny", "input": "x"}
    assert pair.call("POST", "/api/embed", body).status == 501
    assert sum(e.counters.received for e in pair.engines) == 1


BROKEN = [Fault.CUT_MID_STREAM, Fault.CLEAN_END]


@pytest.mark.parametrize("fault", BROKEN, ids=lambda f: f.value)
def test_a_broken_ollama_stream_says_so(pair: Pair, fault: Fault) -> None:
    fail_first(pair, fault)
    answer = pair.call("POST", "/api/chat", CHAT)
    assert answer.is_whole
    lines = answer.lines()
    assert [line.get("done") for line in lines[:3]] == [False] * 3
    assert lines[-1]["error"]
    assert "done" not in lines[-1]


@pytest.mark.parametrize("fault", [*BROKEN, Fault.ERROR_MID_STREAM], ids=lambda f: f.value)
def test_a_broken_openai_stream_says_so(pair: Pair, fault: Fault) -> None:
    fail_first(pair, fault)
    answer = pair.call("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    assert answer.is_whole
    assert b"[DONE]" not in answer.body
    assert answer.body.endswith(b"\n\n")
    assert b'data: {"error":' in answer.body.rstrip().rpartition(b"\n\n")[2]


@pytest.mark.parametrize("fault", [*BROKEN, Fault.ERROR_MID_STREAM], ids=lambda f: f.value)
def test_a_broken_anthropic_stream_says_so(pair: Pair, fault: Fault) -> None:
    fail_first(pair, fault)
    answer = pair.call("POST", "/v1/messages", {**CHAT, "stream": True, "max_tokens": 30})
    assert answer.is_whole
    assert b"message_stop" not in answer.body
    last = answer.body.rstrip().rpartition(b"\n\n")[2]
    assert last.startswith(b"event: error\ndata: ")


def test_the_engines_own_error_line_passes_unmodified(pair: Pair) -> None:
    fail_first(pair, Fault.ERROR_MID_STREAM)
    answer = pair.call("POST", "/api/chat", {**CHAT, "model": "only-a"})
    assert answer.is_whole
    assert answer.lines()[-1] == {"error": RUNNER_DIED}
    assert len(answer.lines()) == 4


def test_a_cut_whole_answer_is_had_elsewhere(pair: Pair) -> None:
    pair.engine("a").fail_next(Fault.CUT_MID_STREAM, times=-1)
    for _ in range(3):
        answer = pair.call("POST", "/api/chat", {**CHAT, "stream": False})
        assert answer.is_whole
        assert answer.json()["done"] is True


def test_a_cut_whole_answer_does_not_look_whole(pair: Pair) -> None:
    fail_first(pair, Fault.CUT_MID_STREAM)
    answer = pair.call("POST", "/api/chat", {**CHAT, "stream": False})
    assert answer.status == 502
    assert answer.json()["error"]


def test_silence_on_one_node_ends_when_the_client_leaves(pair: Pair) -> None:
    fail_first(pair, Fault.SILENCE)
    client = pair.open("/api/chat", CHAT)
    for engine in pair.engines:
        engine.state.requests.clear()
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.read()
    client.close()
    pair.herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "nothing to be in flight")


def test_healthy_again_after_faults(pair: Pair) -> None:
    for fault in QUICK:
        fail_first(pair, fault)
        pair.call("POST", "/api/chat", CHAT)
    for engine in pair.engines:
        engine.heal()
    nodes = {pair.call("POST", "/api/generate", {"model": f"only-{n}"}).status for n in "ab"}
    assert nodes == {200}
