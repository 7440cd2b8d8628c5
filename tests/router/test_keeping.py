"""What is kept of answers under way is bounded, and who has to make room is counted."""

import asyncio

from ollama_herd.router.connection import TAIL_BYTES, EngineConnection
from ollama_herd.router.keeping import KEPT_BYTES, ROOM, Keeping, KeptStream


class Deaf(asyncio.Transport):
    """The edge: nobody reads what is written."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass


def stream(size: int, piece: int = 1000) -> EngineConnection:
    """A stream under way of which `size` bytes have come."""
    connection = EngineConnection()
    connection.connection_made(Deaf())
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.kept_bytes = KEPT_BYTES
    connection.relay(lambda _: None)
    feed(connection, size, piece)
    return connection


def feed(connection: EngineConnection, size: int, piece: int = 1000) -> None:
    for _ in range(size // piece):
        connection.data_received(b"%x\r\n%b\r\n" % (piece, b"x" * piece))


async def test_within_the_bound_all_is_kept() -> None:
    streams = [stream(50_000) for _ in range(4)]
    keeping = Keeping(1_000_000)
    keeping.look(streams)
    assert [len(s.kept() or b"") for s in streams] == [50_000] * 4
    totals = keeping.totals()
    assert totals.let_go == 0
    assert 200_000 <= totals.bytes <= 230_000  # pieces cost more than their bytes


async def test_the_largest_make_room() -> None:
    sizes = [20_000, 300_000, 40_000, 200_000, 60_000]
    streams = [stream(size) for size in sizes]
    keeping = Keeping(300_000)
    keeping.look(streams)
    kept = [s.kept() for s in streams]
    assert [size for size, data in zip(sizes, kept, strict=True) if data is None] == [
        300_000,
        200_000,
    ]
    assert keeping.totals().let_go == 2
    assert keeping.totals().bytes <= ROOM * 300_000
    keeping.look(streams)
    assert keeping.totals().let_go == 2


async def test_what_was_let_go_still_tells_its_end() -> None:
    connection = stream(100_000)
    connection.keep_no_more()
    assert connection.kept_size == 0
    feed(connection, 50_000)
    assert connection.kept() is None
    assert connection.kept_size == 0
    assert connection.tail() == b"x" * TAIL_BYTES


async def test_nothing_is_kept_where_there_is_no_room() -> None:
    streams = [stream(100_000) for _ in range(3)]
    Keeping(0).look(streams)
    assert [s.kept() for s in streams] == [None] * 3


async def test_translated_streams_count_as_well() -> None:
    connection = stream(0)
    connection.kept_bytes = 2 * TAIL_BYTES
    connection.beside = said = KeptStream()
    said.add(b"y" * 100_000)
    assert said.whole() == b"y" * 100_000
    keeping = Keeping(50_000)
    keeping.look([connection])
    assert said.whole() is None
    assert keeping.totals().let_go == 1
    said.add(b"more")
    assert said.whole() is None
    assert said.size == 0


def test_one_stream_alone_is_bounded_too() -> None:
    said = KeptStream()
    said.add(b"x" * KEPT_BYTES)
    assert said.whole() is not None
    said.add(b"x")
    assert said.whole() is None


async def test_frames_are_counted_however_they_arrive() -> None:
    lines = EngineConnection()
    lines.connection_made(Deaf())
    lines.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    lines.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    lines.relay(lambda _: None)
    lines.data_received(b"3\r\n{}\n\r\n" * 5)
    assert lines.frames == 5
    events = EngineConnection()
    events.connection_made(Deaf())
    events.send(b"POST / HTTP/1.1\r\n\r\n", b"")
    events.data_received(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    events.relay(lambda _: None)
    events.data_received(b"1c\r\nevent: ping\ndata: {}\n\ndata: \r\n4\r\n{}\n\n\r\n")
    assert events.frames == 2
