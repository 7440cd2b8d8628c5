"""A whole router in this process: an engine that has a file already answers before it is sent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_herd.config import RouterSettings
from ollama_herd.core.node import EngineKind, EngineReport
from ollama_herd.router.admission import claim_of
from ollama_herd.router.app import Herd, running
from tests.core.fleets import report
from tests.router.engines import engine

DIGEST = "sha256:" + "0" * 64
BODY = b"x" * (32 * 2**20)


@pytest.fixture
async def herd(tmp_path: Path) -> AsyncIterator[Herd]:
    settings = RouterSettings(host="127.0.0.1", port=0, home=tmp_path, mdns=False)
    async with running(settings) as herd:
        yield herd


def join(herd: Herd, port: int, seq: int = 1) -> None:
    told = EngineReport(engine_id="ollama-1", kind=EngineKind.OLLAMA, port=port)
    said = report("a", [told], seq=seq)
    herd.registry.report(said, claim_of(said, "127.0.0.1", "key"))


async def post(port: int, body: bytes) -> bytes:
    """The first line of the answer; it is read while the body is still being sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /api/blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        return await asyncio.wait_for(reader.readline(), 10)
    finally:
        writer.transport.abort()


async def test_the_client_hears_it_at_once(herd: Herd) -> None:
    async def has_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(3600)

    async with engine(has_it) as address:
        join(herd, address.port)
        assert await post(herd.port, BODY) == b"HTTP/1.1 200 OK\r\n"


async def test_an_engine_that_closes_in_the_middle(herd: Herd) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2**20)
        writer.transport.abort()

    async with engine(dies) as address:
        join(herd, address.port)
        assert await post(herd.port, BODY) == b"HTTP/1.1 502 Bad Gateway\r\n"
