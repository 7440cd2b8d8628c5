"""Uploads to an engine: streamed at the slower side's pace, early answers heard at once."""

import asyncio
import hashlib

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from ollama_herd.core.node import Endpoint
from ollama_herd.router.asking import ask
from ollama_herd.router.models.upload import Body, upload
from ollama_herd.router.slow import BodyRefused
from ollama_herd.router.upstream import Upstream, UpstreamFailed
from tests.router.engines import engine

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
PIECE = b"x" * 65536


def content() -> StreamReader:
    """A request body as aiohttp hands it over."""
    return StreamReader(client(), 2**16, loop=asyncio.get_running_loop())


def client() -> BaseProtocol:
    """The edge: a client that is there."""
    protocol = BaseProtocol(asyncio.get_running_loop())
    protocol.connection_made(asyncio.Transport())
    return protocol


async def send(address: Endpoint, body: Body, idle_s: float = 5.0):
    return await upload(Upstream(idle_s), address, b"/api/blobs/sha256:x", (), body)


async def read_chunked(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(parts)


async def test_chunks_arrive_whole():
    got = []

    async def talk(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        got.append(await read_chunked(reader))
        writer.write(OK)

    stream = content()
    for piece in (b"one", b"two", b"three"):
        stream.feed_data(piece)
    stream.feed_eof()
    async with engine(talk) as address:
        answer = await send(address, Body(stream, None, 5))
    assert (answer.status, got) == (200, [b"onetwothree"])


async def test_an_early_answer_is_heard_while_the_client_still_sends():
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.Event().wait()

    stream = content()
    stream.feed_data(PIECE)
    async with engine(talk) as address:
        answer = await asyncio.wait_for(send(address, Body(stream, 10**12, 60)), 5)
    assert answer.status == 200


async def test_an_engine_that_does_not_read_stops_the_client():
    go = asyncio.Event()
    digest = hashlib.sha256()
    pieces = 800

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        left = pieces * len(PIECE)
        while left:
            data = await reader.read(2**20)
            left -= len(data)
            digest.update(data)
        writer.write(OK)

    class Counted(StreamReader):
        taken = 0

        async def readany(self) -> bytes:
            self.taken += 1
            if self.taken == pieces:
                self.feed_eof()
            return PIECE

        def at_eof(self) -> bool:
            return self.taken >= pieces

    stream = Counted(client(), 2**16, loop=asyncio.get_running_loop())
    async with engine(talk) as address:
        sending = asyncio.ensure_future(send(address, Body(stream, pieces * len(PIECE), 5)))
        before = -1
        while stream.taken != before:  # until nothing moves any more
            before = stream.taken
            await asyncio.sleep(0.2)
        assert 0 < before < pieces / 2
        go.set()
        assert (await asyncio.wait_for(sending, 20)).status == 200
    assert digest.hexdigest() == hashlib.sha256(PIECE * pieces).hexdigest()


async def test_an_engine_that_goes_away():
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    stream = content()
    stream.feed_data(PIECE)
    async with engine(talk) as address:
        with pytest.raises(UpstreamFailed):
            await send(address, Body(stream, 10**9, 60))


async def test_a_client_that_stops_sending():
    gone = asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        while await reader.read(65536):
            pass
        gone.set()

    stream = content()
    stream.feed_data(b"beginning")
    async with engine(talk) as address:
        with pytest.raises(BodyRefused) as refused:
            await send(address, Body(stream, 1000, 0.05))
        await asyncio.wait_for(gone.wait(), 5)
    assert refused.value.error.status == 408


async def test_a_client_that_is_gone():
    cut = asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        try:
            while await reader.read(65536):
                pass
        finally:
            cut.set()

    stream = content()
    stream.feed_data(b"beginning")
    stream.set_exception(ConnectionResetError("gone"))
    async with engine(talk) as address:
        with pytest.raises(UpstreamFailed):
            await send(address, Body(stream, 1000, 60))
        await asyncio.wait_for(cut.wait(), 5)


async def test_through_a_relay():
    """CONNECT first; then the engine behind it hears the call, by whatever method."""
    heads = []

    async def talk(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if b"DELETE" in heads[-1]:
            heads.append(await reader.readexactly(2))
        else:
            heads.append(await read_chunked(reader))
        writer.write(OK)

    async with engine(talk) as address:
        tunnelled = Endpoint(address.host, address.port, "ollama-1", "secret")
        answer = await ask(Upstream(5), tunnelled, b"DELETE", b"/api/delete", b"{}")
        assert answer.status == 200
        stream = content()
        stream.feed_data(b"data")
        stream.feed_eof()
        assert (await send(tunnelled, Body(stream, None, 5))).status == 200
    assert heads[0].startswith(b"CONNECT ollama-1 HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret" in heads[0]
    assert heads[1].startswith(b"DELETE /api/delete HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert heads[2] == b"{}"
    assert heads[5] == b"data"


async def test_a_head_answer_has_no_body_to_wait_for():
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 102\r\n\r\n")
        await asyncio.Event().wait()

    async with engine(talk) as address:
        answer = await ask(Upstream(5), address, b"HEAD", b"/api/blobs/x", timeout_s=5)
    assert (answer.status, answer.body) == (404, b"")


async def test_an_engine_that_says_nothing():
    async def talk(reader, writer):
        await asyncio.Event().wait()

    async with engine(talk) as address:
        with pytest.raises(UpstreamFailed, match="no answer within"):
            await ask(Upstream(5), address, b"GET", b"/api/tags", timeout_s=0.05)


async def test_an_answer_that_is_too_long_is_not_called_broken():
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"x" * 30)
        await asyncio.Event().wait()

    async with engine(talk) as address:
        with pytest.raises(UpstreamFailed, match="more than 20 bytes"):
            await ask(Upstream(5), address, b"GET", b"/api/tags", timeout_s=5, limit_bytes=20)
