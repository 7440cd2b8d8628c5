"""Every form in which HTTP lets a client ask, on the fast path and beside it."""

import pytest

from tests.e2e.conftest import Pair
from tests.fakes.raw import Client, exchange, request_bytes
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi"}]}
WHOLE = {**CHAT, "stream": False}

FORMS = (
    "204_http10_no_host",
    "207_http10_stream",
    "208_chunked_request_body",
    "209_expect_100",
    "210_no_content_type",
    "211_text_plain",
    "217_query_ok",
    "219_trailing_json",
    "222_connection_close",
    "190_options_chat_allowed_origin",
    "193_get_allowed_origin",
    "196_same_origin",
    "002_head_root",
    "004_head_version",
    "006_head_tags",
)


@pytest.mark.parametrize("name", FORMS)
def test_answers_as_recorded(pair: Pair, name: str) -> None:
    recording = read(OLLAMA / f"{name}.txt")
    real = parse_response(recording.response, recording.method)
    answer = exchange(pair.port, recording.request)
    assert answer.status == real.status
    assert answer.is_whole
    content_type = real.header("content-type")
    assert answer.header("content-type") == content_type
    if recording.method != "HEAD":
        assert body_shape(content_type, answer.body) == body_shape(content_type, real.body)
    for header in ("access-control-allow-origin", "access-control-allow-methods", "connection"):
        if real.header(header):
            assert answer.header(header) == real.header(header)


def test_http10_stream_ends_with_the_connection(pair: Pair) -> None:
    request = request_bytes("POST", "/api/chat", CHAT).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = exchange(pair.port, request)
    assert answer.framing == "close"
    assert answer.body == pair.direct("a", "POST", "/api/chat", CHAT).body


@pytest.mark.parametrize("count", [2, 5])
def test_pipelined_requests_are_answered_in_order(pair: Pair, count: int) -> None:
    for engine in pair.engines:
        engine.settings.token_ms = 2
    requests = [
        request_bytes("POST", "/api/generate", {"model": f"only-{'ab'[i % 2]}", "prompt": f"p{i}"})
        for i in range(count)
    ]
    with Client(pair.port) as client:
        client.send(b"".join(requests))
        for i in range(count):
            lines = client.read().lines()
            assert lines[0]["model"] == f"only-{'ab'[i % 2]}"
            assert lines[0]["response"] == f"p{i}"
            assert lines[-1]["done"] is True


def test_pipelined_mix_of_fast_and_other_paths(pair: Pair) -> None:
    mixed = [
        request_bytes("POST", "/api/chat", WHOLE),
        request_bytes("GET", "/api/version"),
        request_bytes("POST", "/api/chat", WHOLE),
        request_bytes("GET", "/"),
    ]
    with Client(pair.port) as client:
        client.send(b"".join(mixed))
        assert client.read().json()["done"] is True
        assert client.read().json() == {"version": "0.33.0-rc2"}
        assert client.read().json()["done"] is True
        assert client.read().body == b"Ollama is running"


def test_many_requests_on_one_connection(pair: Pair) -> None:
    with Client(pair.port) as client:
        for i in range(50):
            body = {"model": "tiny", "prompt": f"n{i}", "stream": i % 2 == 0}
            client.ask("POST", "/api/generate", body)
            answer = client.read()
            assert answer.status == 200
            assert f"n{i}".encode() in answer.body


@pytest.mark.parametrize("size", [1, 7, 100])
def test_request_in_small_pieces(pair: Pair, size: int) -> None:
    data = request_bytes("POST", "/api/chat", WHOLE)
    with Client(pair.port) as client:
        for start in range(0, len(data), size):
            client.socket.sendall(data[start : start + size])
        assert client.read().json()["done"] is True


def test_chunked_upload_in_pieces(pair: Pair) -> None:
    body = request_bytes("POST", "/x", WHOLE).partition(b"\r\n\r\n")[2]
    pieces = [body[i : i + 9] for i in range(0, len(body), 9)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    answer = pair.call("POST", "/api/chat", chunks, headers={"Transfer-Encoding": "chunked"})
    assert answer.status == 200
    assert answer.body == pair.direct("a", "POST", "/api/chat", WHOLE).body


OFFERS_HTTP2 = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
}
"""What Java's own client sends with its first request, and each Java library on top of it."""


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/show"])
def test_an_offer_of_http2_is_answered_in_http1(pair: Pair, path: str) -> None:
    with Client(pair.port) as client:
        for offer in (OFFERS_HTTP2, {}, OFFERS_HTTP2):
            client.ask("POST", path, WHOLE, offer)
            answer = client.read()
            assert answer.status == 200, answer.body
            assert answer.json()


def test_connection_close_is_honoured(pair: Pair) -> None:
    with Client(pair.port) as client:
        client.ask("POST", "/api/chat", CHAT, {"Connection": "close"})
        answer = client.read()
        assert answer.lines()[-1]["done"] is True
        assert answer.header("connection").lower() == "close"
        assert client.closed_by_peer(2)


def test_expect_100_gets_its_100(pair: Pair) -> None:
    data = request_bytes("POST", "/api/chat", WHOLE, {"Expect": "100-continue"})
    head, _, body = data.partition(b"\r\n\r\n")
    with Client(pair.port) as client:
        client.send(head + b"\r\n\r\n")
        assert client.socket.recv(100).startswith(b"HTTP/1.1 100 ")
        client.send(body)
        assert client.read().json()["done"] is True


def test_large_body_with_images(pair: Pair) -> None:
    image = "A" * 20_000_000
    body = {"model": "only-a", "messages": [{"role": "user", "content": "x", "images": [image]}]}
    answer = pair.call("POST", "/api/chat", {**body, "stream": False}, timeout_s=60)
    assert answer.status == 200
    sent = [r for r in pair.engine("a").state.requests if r[0] == "POST"][-1]
    assert len(sent[3]) > 20_000_000
    pair.engine("a").state.requests.clear()


def test_query_string_reaches_nobody_else(pair: Pair) -> None:
    answer = pair.call("POST", "/api/chat?x=1", WHOLE)
    assert answer.status == 200
