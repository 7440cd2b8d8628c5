"""Requests that two parsers could read differently: each is refused whole, or read in one way only,
and an engine sees nothing of what was hidden in it."""

import json

import pytest

from tests.fakes.raw import Client
from tests.security.conftest import CHAT, Target

BODY = json.dumps(CHAT).encode()
HIDDEN = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nX-Hidden: yes\r\nContent-Length: 2\r\n\r\n{}"


def post(*headers: bytes, path: bytes = b"/api/chat", body: bytes = BODY) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


LENGTH = b"Content-Length: %d" % len(BODY)

AMBIGUOUS = {
    "length and chunked": post(LENGTH, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunked and length": post(b"Transfer-Encoding: chunked", LENGTH, body=b"0\r\n\r\n" + HIDDEN),
    "two lengths": post(LENGTH, b"Content-Length: 2", body=BODY + HIDDEN),
    "a list of lengths": post(b"Content-Length: 2, 2", body=b"{}" + HIDDEN),
    "signed length": post(b"Content-Length: +2", body=b"{}" + HIDDEN),
    "negative length": post(b"Content-Length: -2", body=b"{}" + HIDDEN),
    "hex length": post(b"Content-Length: 0x2", body=b"{}" + HIDDEN),
    "underscored length": post(b"Content-Length: 1_0", body=b"{}" + HIDDEN),
    "length with words": post(b"Content-Length: 2 x", body=b"{}" + HIDDEN),
    "endless length": post(b"Content-Length: " + b"9" * 40, body=b"{}"),
    "arabic digits": post(b"Content-Length: \xd9\xa2", body=b"{}" + HIDDEN),
    "empty length": post(b"Content-Length:", body=HIDDEN),
    "space before colon": post(b"Content-Length : 2", body=b"{}" + HIDDEN),
    "tab before colon": post(b"Transfer-Encoding\t: chunked", LENGTH),
    "folded header": post(b"X-A: b\r\n Content-Length: 2", LENGTH),
    "folded length": post(b"Content-Length:\r\n 2", body=b"{}" + HIDDEN),
    "unknown coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunked not last": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n" + HIDDEN),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n" + HIDDEN),
    "vertical tab": post(b"Transfer-Encoding: \x0bchunked", LENGTH),
    "nul in a value": post(b"X-A: a\x00b", LENGTH),
    "nul in a name": post(b"X-A\x00: b", LENGTH),
    "bare cr in a value": post(b"X-A: a\rX-Hidden: yes", LENGTH),
    "bare lf in a value": post(b"X-A: a\nContent-Length: 2", LENGTH),
    "no name": post(b": b", LENGTH),
    "no colon": post(b"X-A", LENGTH),
    "space in the path": post(LENGTH, path=b"/api/chat x"),
    "control in the path": post(LENGTH, path=b"/api/\x01chat"),
    "two hosts": post(b"Host: y", b"Connection: close", LENGTH),
    "lower version": post(LENGTH).replace(b"HTTP/1.1", b"HTTP/1.1x"),
    "chunk size with sign": post(b"Transfer-Encoding: chunked", body=b"+2\r\n{}\r\n0\r\n\r\n"),
    "chunk size too long": post(b"Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\n{}"),
    "chunk without its end": post(b"Transfer-Encoding: chunked", body=b"2\r\n{}XX0\r\n\r\n"),
    "chunk with a bare lf": post(b"Transfer-Encoding: chunked", body=b"2\n{}\n0\n\n" + HIDDEN),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("path", [b"/api/chat", b"/api/tags"], ids=["data", "control"])
def test_ambiguous_requests_are_refused(target: Target, name: str, path: bytes) -> None:
    sent = AMBIGUOUS[name].replace(b"/api/chat", path, 1)
    before = target.engine.counters.received
    with Client(target.herd.port, timeout_s=10) as client:
        client.send(sent)
        try:
            answer = client.read()
        except ConnectionError:
            answer = None
        assert answer is None or answer.status in (400, 405, 413, 501), answer
        if answer is None or answer.status != 405:
            assert client.closed_by_peer()  # what follows is not taken for a request
        elif answer.status == 405:
            client.socket.settimeout(1)
            try:
                rest = client.socket.recv(65536)
            except TimeoutError:
                rest = b""
            assert b" 200 " not in rest
    assert target.engine.counters.received == before
    assert not [r for r in target.engine.state.requests if "x-hidden" in str(r[2]).lower()]


def test_an_honest_request_gets_through_in_every_framing(target: Target) -> None:
    """The requests above are refused for what is wrong with them, not by chance."""
    chunked = b"%x;a=b\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(BODY), BODY)
    for sent in (
        post(LENGTH),
        post(b"Transfer-Encoding: chunked", body=chunked),
        post(LENGTH, b"X-Odd: \xff\xfe"),
        post(LENGTH, b"X-Empty:"),
        post(b"content-LENGTH:%d" % len(BODY)),
    ):
        assert target.raw(sent).status == 200, sent


def test_chunk_extensions_and_trailers_do_not_reach_the_engine(target: Target) -> None:
    extended = b"%x;ext=X-Hidden\r\n%b\r\n0\r\nX-Hidden: yes\r\n\r\n" % (len(BODY), BODY)
    assert target.raw(post(b"Transfer-Encoding: chunked", body=extended)).status == 200
    _, _, headers, body = target.engine.state.requests[-1][:4]
    assert "x-hidden" not in str(headers).lower()
    assert body == BODY


def test_a_head_of_bare_line_feeds_is_read_as_go_reads_it(target: Target) -> None:
    sent = post(LENGTH).replace(b"\r\n", b"\n")
    with Client(target.herd.port, timeout_s=10) as client:
        client.send(sent)
        assert client.read().status == 200
        client.send(sent)  # after one that stayed with the data plane
        assert client.read().status == 200
        client.send(b"GET /api/version HTTP/1.1\nHost: x\n\n")
        assert client.read().json()["version"]


@pytest.mark.parametrize("end", [b"\nX-Hidden: yes\r\n\r\n", b"\n\r\n", b"\r\n\n", b"\r\n\n\r\n"])
def test_a_head_that_mixes_the_ends_of_its_lines_is_refused_at_once(
    target: Target, end: bytes
) -> None:
    with Client(target.herd.port, timeout_s=5) as client:
        client.send(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 0" + end)
        assert client.read().status == 400
        assert client.closed_by_peer()
    with Client(target.herd.port, timeout_s=5) as client:
        client.send(b"POST /api/chat HTTP/1.1\nHost: x\nContent-Length: 0" + end)
        assert client.read().status == 400
        assert client.closed_by_peer()


def test_lines_after_a_head_of_bare_line_feeds_are_its_body(target: Target) -> None:
    body = json.dumps({**CHAT, "x": "a"}, indent=1).encode().replace(b"\n", b"\r\n\r\n")
    length = b"Content-Length: %d" % len(body)
    head = post(length, body=b"").replace(b"\r\n", b"\n")
    assert target.raw(head + body).status == 200
    assert target.engine.state.requests[-1][3] == body


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /\r\n", 400),
        (b"GET /api/version\r\n\r\n", 400),
        (b"EHLO example.com\r\n", 400),
        (b"SSH-2.0-client\r\n", 400),
        (b"OPTIONS * RTSP/1.0\r\n", 400),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"POST /api/chat HTTP/2.0\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_what_is_no_http_1_is_refused_at_its_first_line(
    target: Target, line: bytes, status: int
) -> None:
    with Client(target.herd.port, timeout_s=5) as client:
        client.send(line)
        assert client.read().status == status
        assert client.closed_by_peer()


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "path", [b"/api/chat", b"/api/show", b"/api/pull", b"/api/blobs/sha256:" + b"0" * 64]
)
@pytest.mark.parametrize(
    "chunk", [b"zz\r\n{}", b"f" * 17 + b"\r\n", b"2\r\n{}XX", b"2\r\n{}\r\n0\r\nX-A b\r\n\r\n"]
)
def test_a_bad_chunk_is_refused_when_it_comes(target: Target, path: bytes, chunk: bytes) -> None:
    """The handler waits for the body already."""
    received = target.engine.counters.received
    with Client(target.herd.port, timeout_s=5) as client:
        client.send(post(CHUNKED, b"Expect: 100-continue", path=path, body=b""))
        assert client.socket.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(chunk)
        answer = client.read()
        assert answer.status == 400
        assert b"chunk" in answer.body
        assert client.closed_by_peer()
    assert target.engine.counters.received == received


def test_a_bad_chunk_of_a_pipelined_request_is_its_own(target: Target) -> None:
    with Client(target.herd.port, timeout_s=5) as client:
        first = b"GET /api/version HTTP/1.1\r\nHost: x\r\n\r\n"
        client.send(first + post(CHUNKED, body=b""))
        assert client.read().json()["version"]
        client.send(b"zz\r\n{}")
        assert client.read().status == 400


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"deflate,chunked", b"identity, chunked"])
def test_other_transfer_codings_are_501_as_gos(target: Target, coding: bytes) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    with Client(target.herd.port, timeout_s=5) as client:
        client.send(post(b"Transfer-Encoding: " + coding, body=body))
        assert client.read().status == 501
        assert client.closed_by_peer()


def test_nobody_is_connected_elsewhere(target: Target) -> None:
    for asked in (b"127.0.0.1:80", b"/api/chat"):
        sent = b"CONNECT " + asked + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        assert target.raw(sent).status in (404, 405)


def test_endless_chunk_extensions_take_no_room(target: Target) -> None:
    chunk = b"1;" + b"a" * 10_000_000 + b"\r\n \r\n"
    sent = post(b"Transfer-Encoding: chunked", body=chunk + b"0\r\n\r\n")
    with Client(target.herd.port, timeout_s=20) as client:
        try:
            client.send(sent)
            assert client.read().status in (400, 413)
        except ConnectionError:
            pass
    assert target.herd.rss_bytes() < 300 * 2**20
    assert target.is_well()


def test_pipelined_requests_are_answered_in_turn(target: Target) -> None:
    """Each on its own: the length of one body decides where the next request begins."""
    unknown = json.dumps({**CHAT, "model": "nope"}).encode()
    second = post(b"Content-Length: %d" % len(unknown), body=unknown)
    with Client(target.herd.port, timeout_s=10) as client:
        client.send(post(LENGTH) + second + b"GET /api/version HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = [client.read() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 404, 200]
    assert answers[2].json()["version"]


def test_a_body_that_looks_like_a_request_is_a_body(target: Target) -> None:
    body = json.dumps({**CHAT, "x": HIDDEN.decode()}).encode()
    with Client(target.herd.port, timeout_s=10) as client:
        client.send(post(b"Content-Length: %d" % len(body), body=body))
        assert client.read().status == 200
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)  # no second answer


@pytest.mark.parametrize(
    "header",
    [
        b"Connection: close, X-Secret\r\nX-Secret: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authorization: Basic x",
        b"TE: trailers",
        b"Authorization: Bearer secret",
        b"X-Api-Key: secret",
        b"Cookie: herd_session=x",
        b"Origin: http://localhost",
    ],
)
def test_what_is_for_the_herd_stays_here(target: Target, header: bytes) -> None:
    assert target.raw(post(header, LENGTH)).status == 200
    names = {name.lower() for name, _ in target.engine.state.requests[-1][2]}
    assert header.partition(b":")[0].decode().lower() not in names - {"connection"}


@pytest.mark.parametrize(
    "path",
    [
        b"/api/chat?x=%0d%0aX-Hidden:%20yes",
        b"/api/chat?x=%00",
        b"/api/chat#x",
        b"/api/chat;x=1",
        b"/api/./chat",
        b"/api/x/../chat",
        b"//api/chat",
        b"http://127.0.0.1:1/api/chat",
        b"/api/chat%0d%0aX-Hidden:%20yes",
        b"/api/chat\xff",
    ],
)
def test_no_path_gets_a_line_into_the_engines_head(target: Target, path: bytes) -> None:
    with Client(target.herd.port, timeout_s=10) as client:
        client.send(post(LENGTH, path=path))
        assert client.read().status in (200, 307, 400, 404)
    for method, asked, headers in (r[:3] for r in target.engine.state.requests):
        assert "x-hidden" not in str(headers).lower()
        assert "\r" not in asked
        assert "\n" not in asked
        assert method in ("GET", "POST", "HEAD")


@pytest.mark.parametrize("model", ["a\r\nX-Hidden: yes", "a\nb", "\x00", "é\r\n\r\nHTTP/1.1 200"])
def test_no_model_name_gets_a_line_into_a_head(target: Target, model: str) -> None:
    for body in ({**CHAT, "model": model}, {**CHAT, "model": "no", "fallback_models": [model]}):
        answer = target.call("POST", "/api/chat", body)
        assert answer.status in (400, 404)
        assert not answer.header("x-hidden")
    answer = target.call("POST", "/api/chat", CHAT, X_Herd_Tags="a\tb", X_Herd_Priority="x" * 500)
    assert answer.status == 200
