"""What one connection to an engine makes of its bytes, read in whatever pieces the kernel gives."""

import asyncio

import pytest

from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.connection import MAX_HEAD_BYTES, EngineConnection, UpstreamFailed


class Wire(asyncio.Transport):
    """The edge: takes what is written, and remembers whether it was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.cut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.cut = True


def connected() -> tuple[EngineConnection, Wire]:
    connection, wire = EngineConnection(), Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_one_read_with_a_long_body_behind_its_head() -> None:
    connection, _ = connected()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    body = b"x" * (4 * MAX_HEAD_BYTES)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await head
    got: list[bytes] = []
    connection.relay(got.append)
    assert await connection.ended()
    assert b"".join(got) == body
    assert connection.tail() == body[-8192:]


async def test_a_head_without_end_is_refused() -> None:
    connection, wire = connected()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\n")
    for number in range(MAX_HEAD_BYTES // 1000 + 2):
        connection.data_received(b"X-%d: %b\r\n" % (number, b"y" * 1000))
    with pytest.raises(UpstreamFailed) as failed:
        await head
    assert failed.value.outcome is OutcomeKind.GARBAGE
    assert wire.cut


async def test_a_relay_that_answers_without_end_is_refused() -> None:
    connection, wire = connected()
    pipe = asyncio.ensure_future(connection.open_tunnel("ollama-1", "key"))
    await asyncio.sleep(0)
    for _ in range(MAX_HEAD_BYTES // 1000 + 2):
        connection.data_received(b"y" * 1000)
    assert wire.cut
    with pytest.raises(UpstreamFailed) as failed:
        await pipe
    assert failed.value.outcome is OutcomeKind.UNREACHABLE


async def test_what_the_router_says_no_engine_says() -> None:
    connection, _ = connected()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(
        b"HTTP/1.1 200 OK\r\nX-Herd-Node: another\r\nAccess-Control-Allow-Origin: *\r\n"
        b"X-Request-Id: 7\r\nContent-Length: 0\r\n\r\n"
    )
    await head
    assert connection.headers == [(b"X-Request-Id", b"7")]


async def test_bytes_after_the_answer_end_the_connection() -> None:
    connection, wire = connected()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await head
    assert await connection.read_all(10) == b"ok"
    assert connection.is_reusable()
    connection.data_received(b"more")
    assert wire.cut
    assert not connection.is_reusable()


async def test_tail_is_kept_from_single_bytes() -> None:
    connection, _ = connected()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n")
    await head
    got: list[bytes] = []
    connection.relay(got.append)
    body = b"".join(b"%d," % number for number in range(4000))[:20000].ljust(20000, b".")
    for place in range(len(body)):
        connection.data_received(body[place : place + 1])
    assert await connection.ended()
    assert b"".join(got) == body
    assert connection.tail() == body[-8192:]


@pytest.mark.parametrize(
    ("server", "content_type", "is_reusable"),
    [
        (b"llama.cpp", b"text/event-stream", False),
        (b"llama.cpp", b"application/json; charset=utf-8", True),
        (b"uvicorn", b"text/event-stream", True),
    ],
)
async def test_llamacpp_closes_behind_a_stream_without_saying_so(
    server: bytes, content_type: bytes, *, is_reusable: bool
) -> None:
    connection, _ = connected()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(
        b"HTTP/1.1 200 OK\r\nServer: %b\r\nContent-Type: %b\r\nKeep-Alive: timeout=5, max=100\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % (server, content_type)
    )
    await head
    connection.relay(lambda _data: None)
    assert await connection.ended()
    assert connection.is_reusable() is is_reusable


async def test_a_body_that_reads_like_the_answer_before() -> None:
    connection, _ = connected()
    before = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(before)
    await head
    assert await connection.read_all(10) == b"ok"
    connection.let_go()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nIt said: ")
    await head
    got: list[bytes] = []
    connection.relay(got.append)
    rest = b"." * (1000 - len(b"It said: ") - len(before))
    connection.data_received(before)
    connection.data_received(rest)
    assert await connection.ended()
    assert b"".join(got) == b"It said: " + before + rest
