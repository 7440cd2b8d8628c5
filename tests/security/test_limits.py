"""One client cannot take all there is: connections, requests, time."""

import contextlib
from collections.abc import Iterator

import pytest

from ollama_herd.router.crowd import REMEMBERED, Rates
from tests.e2e.processes import Herd, wait_until
from tests.fakes.raw import Client
from tests.security.conftest import CHAT

DIALECTS = ("/api/chat", "/v1/chat/completions", "/v1/messages")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    limits = {
        "HERD_MAX_CONNECTIONS_PER_CLIENT": "10",
        "HERD_UPLOAD_TIMEOUT_S": "2",
        "HERD_BODY_TIMEOUT_S": "30",
    }
    with Herd(tmp_path_factory.mktemp("bounded"), env=limits).ready() as herd:
        yield herd


@pytest.fixture
def bounded(standing: Herd) -> Herd:
    """With room for ten: what earlier tests opened has ended."""

    def is_empty() -> bool:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(standing.port)) for _ in range(10)]
            return not any(_first_line(client, 0.05) for client in clients)

    wait_until(is_empty, 15, "earlier connections to end")
    return standing


def _first_line(client: Client, timeout_s: float = 0.5) -> bytes:
    client.socket.settimeout(timeout_s)
    try:
        return client.socket.recv(12)
    except TimeoutError:
        return b""
    except ConnectionError:
        return b"reset"


@pytest.mark.parametrize("path", ["", "/api/version", "/api/chat"], ids=["idle", "moved", "data"])
def test_connections_of_one_client(bounded: Herd, path: str) -> None:
    """Also those that the other plane has taken over count, until they end."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(10):
            client = stack.enter_context(Client(bounded.port))
            if path:
                client.ask("POST" if path == "/api/chat" else "GET", path, CHAT)
                assert client.read().status in (200, 404)
            clients.append(client)
        extra = stack.enter_context(Client(bounded.port))
        assert _first_line(extra, 5) in (b"HTTP/1.1 429", b"reset")
        assert _first_line(clients[0]) == b""  # who is in stays in

    def is_free() -> bool:
        with Client(bounded.port) as client:
            return _first_line(client, 0.2) == b""

    wait_until(is_free, 10, "room for another connection")


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_trickles_is_bounded(bounded: Herd, path: str, *, is_chunked: bool) -> None:
    framing = "Transfer-Encoding: chunked" if is_chunked else "Content-Length: 100000"
    with Client(bounded.port, timeout_s=0.3) as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())

        def is_answered() -> bool:
            """A byte now and then: never silent for long."""
            with contextlib.suppress(ConnectionError):
                client.send(b"1\r\n \r\n" if is_chunked else b" ")
            try:
                return client.socket.recv(12) == b"HTTP/1.1 408"
            except TimeoutError:
                return False

        assert wait_until(is_answered, 12, "the end of patience") > 1


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    env = {"HERD_REQUESTS_PER_MINUTE_PER_CLIENT": "6"}
    with Herd(tmp_path_factory.mktemp("slowed"), env=env).ready() as herd:
        yield herd


def test_requests_of_one_client(slowed: Herd) -> None:
    answers = [slowed.call("POST", DIALECTS[i % 3], CHAT) for i in range(12)]
    assert {answer.status for answer in answers[:6]} <= {400, 404}
    assert {answer.status for answer in answers[7:]} == {429}
    for answer in answers[7:]:
        assert 1 <= int(answer.header("retry-after")) <= 10
        assert "requests_per_minute_per_client" in answer.body.decode()
    assert slowed.call("GET", "/fleet/status").status == 200  # looking is free


def test_what_is_known_of_clients_is_bounded() -> None:
    rates = Rates(1)
    for number in range(2 * REMEMBERED):
        assert rates.refusal(f"10.0.{number // 256}.{number % 256}") is None
    assert len(rates._buckets) == REMEMBERED
    assert rates.refusal("10.0.78.31") is not None  # the last one is known
