"""Wrong requests: each gets the answer of a real Ollama or a clear one in its dialect."""

import gzip
import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Pair
from tests.e2e.processes import Herd
from tests.fakes.raw import Client, exchange, request_bytes
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.shapes import error_text

ANSWERED_BY_THE_ROUTER = (
    "027_generate_bad_json",
    "028_generate_empty_body",
    "030_generate_wrong_method",
    "056_chat_bad_json",
    "057_chat_empty_body",
    "061_chat_wrong_method",
    "066_not_found_path",
    "067_not_found_post",
    "068_put_chat",
    "148_v1_chat_bad_json",
    "149_v1_chat_empty_body",
    "152_v1_chat_wrong_method",
    "153_v1_unknown_path",
    "177_v1_messages_bad",
    "191_options_chat_foreign_origin",
    "192_options_no_origin",
    "194_get_foreign_origin",
    "195_post_foreign_origin",
    "212_gzip_request_body",
    "214_trailing_slash",
    "215_double_slash",
    "216_upper",
)
CHECKED_BY_THE_ENGINE = (
    "025_generate_suffix_unsupported",
    "031_generate_wrong_type",
    "033_generate_bad_option_type",
    "035_generate_keepalive_bad",
    "039_generate_format_bad",
    "043_chat_tools_unsupported",
    "048_chat_think_unsupported",
    "060_chat_messages_wrong_type",
    "070_embed",
    "073_embed_empty",
    "075_embed_wrong_type",
    "085_chat_on_embed_model",
    "086_generate_on_embed_model",
    "094_think_level_bad",
    "150_v1_chat_no_messages",
    "157_v1_chat_tools_unsupported",
    "169_v1_embeddings_completion_model",
    "178_v1_messages_no_max_tokens",
)
POST = b"POST /api/chat HTTP/1.1\r\nHost: herd\r\n"
FORM = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    b"Content-Type: multipart/form-data; boundary=edge\r\n"
)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi"}]}


@pytest.mark.parametrize("name", ANSWERED_BY_THE_ROUTER + CHECKED_BY_THE_ENGINE)
def test_answers_as_recorded(pair: Pair, name: str) -> None:
    recording = read(OLLAMA / f"{name}.txt")
    real = parse_response(recording.response, recording.method)
    answer = exchange(pair.port, recording.request)
    assert answer.status == real.status
    assert error_text(answer.body) == error_text(real.body)
    assert answer.header("content-type") == real.header("content-type")
    assert answer.header("location") == real.header("location")
    if real.status == 405:
        assert answer.header("allow") == real.header("allow")


@pytest.mark.parametrize("path", ["/api/version", "/api/chat", "/api/nope"])
def test_no_host(pair: Pair, path: str) -> None:
    recording = read(OLLAMA / "203_no_host_11.txt")
    method = "POST" if path == "/api/chat" else "GET"
    request = recording.request.replace(b"GET /api/version", f"{method} {path}".encode())
    answer = exchange(pair.port, request)
    assert answer.status == parse_response(recording.response).status
    assert b"Host" in answer.body
    assert answer.header("content-type").startswith("text/plain")


def test_wrong_method_on_tags_names_both(pair: Pair) -> None:
    answer = pair.call("POST", "/api/tags", {})
    assert (answer.status, answer.body) == (405, b"405 method not allowed")
    assert set(answer.header("allow").split(", ")) == {"GET", "HEAD"}


def test_invalid_name_as_recorded(pair: Pair) -> None:
    recording = read(OLLAMA / "059_chat_bad_model_name.txt")
    real = parse_response(recording.response)
    answer = exchange(pair.port, recording.request)
    assert (answer.status, answer.body) == (real.status, real.body)


def test_trailing_slash_of_a_get_moves_for_good(pair: Pair) -> None:
    answer = pair.call("GET", "/api/tags/")
    assert (answer.status, answer.header("location")) == (301, "/api/tags")


def test_unknown_path_with_a_slash_is_not_found(pair: Pair) -> None:
    assert pair.call("POST", "/nope/", {}).status == 404


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"model": 5, "messages": []}', "ChatRequest.model of type string"),
        (b"[]", "cannot unmarshal array"),
        (b'"x"', "cannot unmarshal string"),
        (b"null", "model is required"),
        (b'{"model": "tiny" "x": 1}', "after object key:value pair"),
        (b'{"model": "tiny",}', "looking for beginning of object key string"),
        (b"\xff\xfe", "looking for beginning of value"),
        (b'{"model": tru}', "in literal true"),
    ],
)
def test_malformed_bodies_are_400(pair: Pair, body: bytes, text: str) -> None:
    answer = pair.call("POST", "/api/chat", body)
    assert answer.status == 400
    assert text in answer.json()["error"]


@pytest.mark.parametrize(
    "packed", [gzip.compress(b'{"model": "tiny"}'), b"not gzip at all"], ids=["packed", "broken"]
)
@pytest.mark.parametrize("path", ["/api/chat", "/api/show", "/fleet/pins"])
@pytest.mark.parametrize("chunked", [True, False])
def test_gzip_is_not_unpacked(pair: Pair, path: str, packed: bytes, *, chunked: bool) -> None:
    """As by a real Ollama; and so a few bytes cannot become a memory full of blanks."""
    length, body = f"Content-Length: {len(packed)}", packed
    if chunked:
        length, body = (
            "Transfer-Encoding: chunked",
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed),
        )
    with Client(pair.herd.port) as client:
        client.send(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Encoding: gzip\r\n{length}\r\n\r\n".encode()
            + body
        )
        answer = client.read("POST")
    assert answer.status == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["/fleet/pins", "/fleet/measure"])
def test_a_fixed_bound_names_no_setting(pair: Pair, path: str) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer x"}
    answer = pair.call("POST", path, b" " * 20_000_000, headers=headers)
    assert answer.status == 413
    assert answer.json()["error"].endswith("bytes; send less: that is all that this path takes")


@pytest.mark.parametrize("stream", ['"yes"', "5", "{}"])
def test_wrong_type_of_stream(pair: Pair, stream: str) -> None:
    body = f'{{"model":"tiny","prompt":"x","stream":{stream}}}'.encode()
    answer = pair.call("POST", "/api/generate", body)
    assert answer.status < 500
    assert answer.is_whole


def test_last_of_duplicate_keys_wins(pair: Pair) -> None:
    body = b'{"model":"nope","prompt":"x","model":"only-a","stream":true,"Stream":false}'
    answer = pair.call("POST", "/api/generate", body)
    assert answer.status == 200
    assert answer.json()["model"] == "only-a"
    body = b'{"model":"only-a","prompt":"x","MODEL":"nope"}'
    assert pair.call("POST", "/api/generate", body).status == 404


def test_deep_nesting_and_long_names_do_no_harm(pair: Pair) -> None:
    deep = b'{"model":"tiny","prompt":"x","options":' + b"[" * 100_000
    answer = pair.call("POST", "/api/generate", deep)
    assert answer.status in (400, 500)
    assert answer.json()["error"]
    name = "x" * 100_000
    answer = pair.call("POST", "/api/chat", {**CHAT, "model": name})
    assert answer.status in (400, 404)
    assert pair.call("POST", "/api/chat", CHAT).status == 200


def test_missing_model_in_v1(pair: Pair) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/responses"):
        answer = pair.call("POST", path, {"messages": CHAT["messages"], "input": "x"})
        assert answer.status in (400, 404), path
        assert answer.json()["error"]["message"], path


@pytest.mark.parametrize(
    "garbage",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        POST + b"Host: x\r\nContent-Length: -5\r\n\r\n",
        POST + b"Host: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        POST + b"Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Host : x\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /api/tags HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["word", "tls", "binary", "version", "negative", "lengths", "both", "space", "chunk"],
)
def test_garbage_gets_400_and_the_door(pair: Pair, garbage: bytes) -> None:
    with Client(pair.port, timeout_s=5) as client:
        client.send(garbage)
        answer = client.read()
        assert answer.status in (400, 505)
        assert client.closed_by_peer()
    assert pair.call("GET", "/api/version").status == 200


def test_half_sent_body_then_gone(pair: Pair) -> None:
    for _ in range(20):
        with Client(pair.port) as client:
            head = request_bytes("POST", "/api/chat", CHAT).replace(b"Content-Length: ", b"X-L: ")
            client.send(head.replace(b"\r\n\r\n", b"\r\nContent-Length: 5000\r\n\r\n", 1))
    assert pair.call("POST", "/api/chat", CHAT).status == 200
    assert pair.engine("a").counters.received + pair.engine("b").counters.received == 1


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    """A router with small limits and no nodes."""
    limits = {
        "HERD_HEADER_TIMEOUT_S": "1",
        "HERD_BODY_TIMEOUT_S": "1",
        "HERD_IDLE_TIMEOUT_S": "1",
        "HERD_MAX_BODY_BYTES": "100000",
        "HERD_MAX_CONNECTIONS": "50",
    }
    with Herd(tmp_path_factory.mktemp("strict"), env=limits).ready() as herd:
        yield herd


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_oversize_body_is_413_in_the_dialect(strict: Herd, path: str, *, is_chunked: bool) -> None:
    body = b'{"model":"x","messages":"' + b"a" * 200_000 + b'"}'
    headers = {}
    if is_chunked:
        headers["Transfer-Encoding"] = "chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    answer = strict.call("POST", path, body, headers)
    assert answer.status == 413
    error = answer.json()["error"]
    text = error if path == "/api/chat" else error["message"]
    assert "100000" in text


def test_oversize_is_refused_before_it_is_sent(strict: Herd) -> None:
    with Client(strict.port, timeout_s=5) as client:
        client.send(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{")
        assert client.read().status == 413
        assert client.closed_by_peer()


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /api/chat HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"GET /api/tags HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"GET",
        b"",
    ],
    ids=["inference", "other", "word", "nothing"],
)
def test_slow_head_is_bounded(strict: Herd, sent: bytes) -> None:
    with Client(strict.port) as client:
        client.send(sent)
        assert client.closed_by_peer(6)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /api/chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"POST /fleet/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /api/chat HTTP/1.0\r\nContent-Length: 100\r\n\r\n{",
        b"POST /api/chat HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        FORM + b"\r\n",
        FORM + b"\r\n--edge\r\nContent-Disp",
    ],
    ids=["length", "chunked", "heartbeat", "http10", "expect", "form", "form-part"],
)
def test_slow_body_is_bounded(strict: Herd, sent: bytes) -> None:
    with Client(strict.port) as client:
        client.send(sent)
        assert client.closed_by_peer(6)


@pytest.mark.parametrize("first", ["/api/version", "/api/chat"])
def test_slow_head_of_a_later_request_is_bounded(strict: Herd, first: str) -> None:
    with Client(strict.port) as client:
        client.ask("POST" if first == "/api/chat" else "GET", first, CHAT)
        assert client.read().is_whole
        client.send(b"POST /api/chat HTTP/1.1\r\nHo")
        assert client.closed_by_peer(6)


def test_idle_connection_is_closed(strict: Herd) -> None:
    with Client(strict.port) as client:
        client.ask("POST", "/api/chat", CHAT)
        assert client.read().status == 404
        assert client.closed_by_peer(6)


@pytest.mark.parametrize("line", [b"POST /api/chat", b"GET /api/tags"], ids=["raw", "other"])
def test_header_flood_is_refused(strict: Herd, line: bytes) -> None:
    flood = b"".join(b"X-%d: %b\r\n" % (i, b"y" * 100) for i in range(2000))
    with Client(strict.port, timeout_s=5) as client:
        answer = None
        try:
            client.send(line + b" HTTP/1.1\r\nHost: x\r\n" + flood + b"\r\n")
            answer = client.read()
        except ConnectionError:
            assert client.closed_by_peer()
        assert answer is None or answer.status in (400, 413, 431)


def test_one_endless_header_is_refused(strict: Herd) -> None:
    with Client(strict.port, timeout_s=5) as client:
        try:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3_000_000)
            assert client.read().status in (400, 413, 431)
        except ConnectionError:
            assert client.closed_by_peer()
    assert strict.rss_bytes() < 300 * 2**20


def test_more_connections_than_allowed_are_refused(strict: Herd) -> None:
    clients = [Client(strict.port) for _ in range(60)]
    try:
        answers = 0
        for client in clients:
            client.socket.settimeout(0.3)
            try:
                answers += client.socket.recv(12) == b"HTTP/1.1 503"
            except TimeoutError:
                break
            except ConnectionError:
                answers += 1
        for client in clients[50:]:
            assert client.closed_by_peer(3)
    finally:
        for client in clients:
            client.close()
    strict.wait_status(lambda _status: True, "the router to answer again")


def test_unknown_model_without_any_node(strict: Herd) -> None:
    answer = strict.call("POST", "/api/chat", CHAT)
    assert (answer.status, answer.json()) == (404, {"error": "model 'tiny' not found"})
    assert strict.call("GET", "/api/tags").json() == {"models": []}
    assert strict.call("GET", "/v1/models").json() == {"object": "list", "data": []}
    assert json.loads(strict.call("GET", "/api/ps").body) == {"models": []}


@pytest.mark.parametrize("path", ["/fleet/measure", "/fleet/pins"])
def test_a_name_that_is_no_utf8_is_refused(strict: Herd, path: str) -> None:
    answer = strict.call("POST", path, b'{"model":"\xff","node":"a"}')
    assert answer.status == 400
    assert "utf-8" in answer.json()["error"]
    assert "Traceback" not in strict.log()


@pytest.mark.parametrize("cursor", ["1:9223372036854775808", "1:-1", "nan", "1e999:" + "9" * 30])
def test_a_cursor_that_names_no_row_is_refused(strict: Herd, cursor: str) -> None:
    answer = strict.call("GET", f"/dashboard/api/traces?before={cursor}")
    assert answer.status == 400
    assert answer.json()["field"] == "before"


def test_a_setting_may_come_in_pieces(strict: Herd) -> None:
    with Client(strict.port) as client:
        client.send(
            b"PUT /dashboard/api/settings/max_attempts HTTP/1.1\r\nHost: x\r\n"
            b'Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{"val'
        )
        assert strict.call("GET", "/api/version").status == 200  # the first piece has been read
        client.send(b'ue":4}')
        answer = client.read()
        assert (answer.status, answer.json()["value"]) == (200, 4)
