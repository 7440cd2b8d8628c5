"""The fake Ollama's scheduling, cancellation and faults: what the real one was seen to do."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ollama_herd import clock
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, Response, call
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.state import Counters, Fault, Scripted, Settings

FOR_EVER = {"num_predict": -1}


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama().in_thread() as running:
        yield running


def chat(fake: FakeOllama, **fields: object) -> Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi"}], **fields}
    return call(fake.port, "POST", "/api/chat", body)


def start_chat(fake: FakeOllama, **fields: object) -> Client:
    client = Client(fake.port)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi"}], **fields}
    client.ask("POST", "/api/chat", body)
    return client


def has_received(count: int, counters: Counters) -> bool:
    return counters.received == count


def test_one_line_is_one_chunk(fake: FakeOllama) -> None:
    said = chat(fake, options={"num_predict": 9})
    assert len(said.chunks) == 10
    assert all(chunk.endswith(b"\n") and chunk.count(b"\n") == 1 for chunk in said.chunks)
    assert said.lines()[-1]["eval_count"] == 9


def test_escapes_as_go_does(fake: FakeOllama) -> None:
    fake.script(Scripted(tokens=('<b>&"\u2028ü\n',)))
    assert b'"content":"\\u003cb\\u003e\\u0026\\"\\u2028\xc3\xbc\\n"' in chat(fake).body


def test_frozen_answers_are_equal_byte_for_byte() -> None:
    with FakeOllama(settings=Settings(is_frozen=True)).in_thread() as fake:
        assert chat(fake).body == chat(fake).body


def test_headers_come_with_the_first_token(fake: FakeOllama) -> None:
    fake.settings.prefill_ms = 150
    begun_s = clock.monotonic_s()
    with start_chat(fake) as client:
        client.begin()
        assert clock.monotonic_s() - begun_s >= 0.15


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_cancels_and_frees_the_slot(fake: FakeOllama, *, stream: bool) -> None:
    fake.settings.token_ms = 5
    client = start_chat(fake, stream=stream, options=FOR_EVER)
    fake.wait_for(lambda c: c.tokens > 3)
    client.close()
    fake.wait_for(lambda c: c.cancelled == 1 and c.in_flight == 0)
    assert fake.counters.finished == 0


def test_leaving_while_queued_takes_no_slot(fake: FakeOllama) -> None:
    fake.settings.token_ms = 5
    first = start_chat(fake, options=FOR_EVER)
    fake.wait_for(lambda c: c.in_flight == 1)
    second = start_chat(fake)
    fake.wait_for(lambda c: c.waiting == 1)
    second.close()
    fake.wait_for(lambda c: c.cancelled == 1 and c.waiting == 0)
    assert fake.counters.started == 1
    first.close()


def test_leaving_while_loading_aborts_the_load(fake: FakeOllama) -> None:
    fake.settings.load_ms = 5000
    client = start_chat(fake)
    fake.wait_for(lambda c: c.waiting == 1)
    client.close()
    fake.wait_for(lambda c: c.aborted_loads == 1 and c.cancelled == 1)


def test_slots_are_taken_in_order(fake: FakeOllama) -> None:
    fake.settings.num_parallel = 2
    fake.settings.token_ms = 3
    clients = []
    for i in range(5):
        clients.append(start_chat(fake, options={"num_predict": 20 + i}))
        fake.wait_for(partial(has_received, i + 1))
    ends: list[int] = []

    def drain(i: int) -> None:
        with clients[i] as client:
            client.read()
        ends.append(i)

    threads = [threading.Thread(target=drain, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert fake.counters.max_in_flight == 2
    assert sorted(ends[:2]) == [0, 1]
    assert ends[-1] == 4


def test_queue_full_only_for_requests_that_need_a_load(fake: FakeOllama) -> None:
    fake.settings.max_queue, fake.settings.max_loaded, fake.settings.token_ms = 1, 1, 5
    assert chat(fake).status == 200
    running = start_chat(fake, options=FOR_EVER)
    fake.wait_for(lambda c: c.in_flight == 1)
    same = [start_chat(fake) for _ in range(3)]
    fake.wait_for(lambda c: c.received == 5)
    others = [start_chat(fake, model="tiny-b") for _ in range(2)]
    fake.wait_for(lambda c: c.waiting == 5)
    refused = chat(fake, model="tiny-c:270m")
    recorded = parse_response(read(OLLAMA / "333_queuefull_other_model_1.txt").response)
    assert (refused.status, refused.body) == (recorded.status, recorded.body)
    for client in [running, *same, *others]:
        client.close()


def test_load_eviction_reload_and_aliases(fake: FakeOllama) -> None:
    fake.settings.max_loaded = 1
    chat(fake)
    chat(fake, model="tiny2")
    assert fake.counters.loads == 1
    names = [m["name"] for m in call(fake.port, "GET", "/api/ps").json()["models"]]
    assert names == ["tiny:latest"]
    chat(fake, options={"num_ctx": 2048})
    assert (fake.counters.loads, fake.counters.evictions) == (2, 1)
    loaded = call(fake.port, "GET", "/api/ps").json()["models"]
    assert [m["context_length"] for m in loaded] == [2048]
    chat(fake, model="tiny-b")
    assert (fake.counters.loads, fake.counters.evictions) == (3, 2)


def test_unload_and_keep_alive(fake: FakeOllama) -> None:
    chat(fake)
    said = call(fake.port, "POST", "/api/generate", {"model": "tiny", "keep_alive": 0})
    assert said.json()["done_reason"] == "unload"
    assert call(fake.port, "GET", "/api/ps").json() == {"models": []}
    call(fake.port, "POST", "/api/generate", {"model": "tiny", "keep_alive": -1})
    expires = call(fake.port, "GET", "/api/ps").json()["models"][0]["expires_at"]
    assert expires.startswith("2319-")


def test_runner_dies_mid_stream_as_recorded(fake: FakeOllama) -> None:
    fake.fail_next(Fault.ERROR_MID_STREAM, after_tokens=2)
    said = chat(fake)
    real = parse_response(read(OLLAMA / "321_runner_killed_midstream.txt").response)
    assert said.is_whole
    assert said.chunks[-1] == real.chunks[-1]
    fake.fail_next(Fault.ERROR_MID_STREAM)
    whole = chat(fake, stream=False)
    real = parse_response(read(OLLAMA / "323_runner_killed_nostream.txt").response)
    assert (whole.status, whole.body) == (real.status, real.body)
    fake.fail_next(Fault.ERROR_MID_STREAM, after_tokens=2)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
    said = call(fake.port, "POST", "/v1/chat/completions", body)
    assert said.is_whole
    assert b'"model":"","system_fingerprint"' in said.chunks[-1]
    assert b"[DONE]" not in said.body


def test_cut_stream_is_not_terminated(fake: FakeOllama) -> None:
    fake.fail_next(Fault.CUT_MID_STREAM, after_tokens=2)
    said = chat(fake)
    assert not said.is_whole
    assert len(said.chunks) == 2


def test_clean_end_has_no_marker(fake: FakeOllama) -> None:
    fake.fail_next(Fault.CLEAN_END, after_tokens=2)
    said = chat(fake)
    assert said.is_whole
    assert [line["done"] for line in said.lines()] == [False, False]


@pytest.mark.parametrize("fault", [Fault.STALL_MID_STREAM, Fault.SILENCE])
def test_silence_ends_when_the_client_leaves(fake: FakeOllama, fault: Fault) -> None:
    fake.fail_next(fault, after_tokens=2)
    client = start_chat(fake)
    fake.wait_for(lambda c: c.received == 1)
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.read()
    client.close()
    fake.wait_for(lambda c: c.cancelled == 1)


@pytest.mark.parametrize(
    "fault", [Fault.CLOSE, Fault.RESET, Fault.HALF_HEADER], ids=lambda f: f.value
)
def test_closes_before_an_answer(fake: FakeOllama, fault: Fault) -> None:
    fake.fail_next(fault)
    with pytest.raises(ConnectionError):
        chat(fake)
    assert chat(fake).status == 200


def test_answers_garbage(fake: FakeOllama) -> None:
    fake.fail_next(Fault.GARBAGE)
    with start_chat(fake) as client:
        assert not client.socket.recv(100).startswith(b"HTTP/")


def test_fails_with_a_status(fake: FakeOllama) -> None:
    fake.fail_next(Fault.ERROR_500, times=2)
    assert [chat(fake).status for _ in range(3)] == [500, 500, 200]
    fake.fail_next(Fault.BUSY_503)
    assert chat(fake).status == 503


def test_refuses_and_listens_again(fake: FakeOllama) -> None:
    with start_chat(fake, options=FOR_EVER) as client:
        client.begin()
        fake.refuse()
        assert client.closed_by_peer()
    with pytest.raises(ConnectionRefusedError):
        chat(fake)
    fake.listen()
    assert chat(fake).status == 200


def test_pipelined_requests_are_answered_in_order(fake: FakeOllama) -> None:
    with Client(fake.port) as client:
        client.ask("POST", "/api/chat", {"model": "tiny", "messages": [{"content": "a"}]})
        client.ask("GET", "/api/version")
        assert client.read().lines()[-1]["done"] is True
        assert client.read().json() == {"version": "0.33.0-rc2"}


def test_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "tests.fakes.ollama", "--model", "qwen3:0.6b", "--frozen"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            names = [m["name"] for m in call(port, "GET", "/api/tags").json()["models"]]
            assert names == ["qwen3:0.6b"]
            call(port, "POST", "/__fake__/script", {"tokens": ["Hel", "lo"]})
            call(port, "POST", "/__fake__/fault", {"fault": "error_500"})
            assert call(port, "POST", "/__fake__/settings", {"nope": 1}).status == 400
            body = {"model": "qwen3:0.6b", "prompt": "x", "stream": False}
            assert call(port, "POST", "/api/generate", body).status == 500
            assert call(port, "POST", "/api/generate", body).json()["response"] == "Hello"
            counters = json.loads(call(port, "GET", "/__fake__/counters").body)
            assert (counters["received"], counters["finished"]) == (2, 1)
        finally:
            process.kill()
