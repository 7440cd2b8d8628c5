"""Streams through the router: each piece at once, no stalls, no growing memory."""

import itertools
import statistics
import threading
import time

import pytest

from ollama_herd import clock
from tests.e2e.conftest import Pair
from tests.e2e.processes import wait_until
from tests.fakes.raw import Client
from tests.fakes.state import Scripted
from tests.pace import in_time

CHAT = {"model": "only-a", "messages": [{"role": "user", "content": "Say hi"}]}
TOKEN_MS = 20


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_each_token_comes_when_it_is_said(pair: Pair, path: str) -> None:
    """Of an answer without end: what waits for more than the next token never comes."""
    pair.engine("a").settings.token_ms = TOKEN_MS
    body = {**CHAT, "stream": True, "options": {"num_predict": -1}, "max_tokens": 90_000}
    with pair.open(path, body) as client:
        answer = client.begin()
        for _ in itertools.islice(client.body(answer), 30):
            pass
    gaps = [b - a for a, b in itertools.pairwise(answer.arrivals)]
    assert in_time(statistics.median(gaps), 5 * TOKEN_MS / 1000)


def test_no_stall_on_one_kept_connection(pair: Pair) -> None:
    """Nagle and delayed acknowledgements together would cost 40 ms at the start of each stream."""
    with Client(pair.port) as client:
        firsts = []
        for _ in range(30):
            client.ask("POST", "/api/chat", CHAT)
            answer = client.read()
            assert answer.status == 200
            firsts.append(answer.arrivals[0])
    assert in_time(sorted(firsts)[len(firsts) // 2], 0.03)


def test_first_bytes_wait_for_the_engine(pair: Pair) -> None:
    pair.engine("a").settings.prefill_ms = 200
    with pair.open("/api/chat", CHAT) as client:
        client.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        assert client.read().status == 200


def test_a_client_that_stops_reading_stops_the_engine(pair: Pair) -> None:
    """190 MB of answer wait for a client that does not read. The kernel's buffers may take up to
    72 MB of them (32 MB to receive and 4 MB to send, twice), the router next to nothing."""
    engine = pair.engine("a")
    engine.script(Scripted(tokens=("x" * 65536,) * 3000), "only-a")
    before = pair.herd.rss_bytes()
    with pair.open("/api/chat", CHAT) as client:
        client.begin()
        engine.wait_for(lambda c: c.tokens > 0)
        settled = _settled(lambda: engine.counters.tokens)
        assert settled < 1500
        assert pair.herd.rss_bytes() - before < 20 * 2**20
    engine.wait_for(lambda c: c.cancelled == 1)


def test_it_goes_on_when_the_client_reads_again(pair: Pair) -> None:
    engine = pair.engine("a")
    engine.script(Scripted(tokens=("x" * 65536,) * 300), "only-a")
    with pair.open("/api/chat", CHAT) as client:
        answer = client.begin()
        engine.wait_for(lambda c: c.tokens > 0)
        _settled(lambda: engine.counters.tokens)
        for _ in client.body(answer):
            pass
    assert answer.is_whole
    assert len(answer.body) > 300 * 65536
    assert answer.lines()[-1]["done"] is True


def test_a_slow_reader_does_not_hold_up_others(pair: Pair) -> None:
    engine = pair.engine("a")
    engine.script(Scripted(tokens=("x" * 65536,) * 1000), "only-a")
    with pair.open("/api/chat", CHAT) as client:
        client.begin()
        engine.wait_for(lambda c: c.tokens > 0)
        engine.script(None, "only-a")
        begun_s = clock.monotonic_s()
        for _ in range(20):
            assert pair.call("POST", "/api/chat", CHAT).status == 200
        assert in_time(clock.monotonic_s() - begun_s, 3)


def test_forty_streams_at_once_are_all_whole(pair: Pair) -> None:
    for engine in pair.engines:
        engine.settings.token_ms = 1
    body = {**CHAT, "model": "tiny", "options": {"num_predict": 40}}
    expected = {len(pair.direct("a", "POST", "/api/chat", body).body)}
    lengths: list[int] = []

    def ask() -> None:
        answer = pair.call("POST", "/api/chat", body, timeout_s=60)
        lengths.append(len(answer.body) if answer.is_whole else -1)

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(lengths) == 40
    assert set(lengths) == expected


def _settled(count: object) -> int:
    """A count that has not changed for half a second; it must settle within 10 s."""
    assert callable(count)
    last, since_s = -1, clock.monotonic_s()

    def is_settled() -> bool:
        nonlocal last, since_s
        now = int(count())
        if now != last:
            last, since_s = now, clock.monotonic_s()
        time.sleep(0.05)
        return clock.monotonic_s() - since_s > 0.5

    wait_until(is_settled, 10, "the engine to stop producing")
    return last
