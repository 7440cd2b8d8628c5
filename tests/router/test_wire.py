"""The client's side of the data plane, over real sockets."""

import asyncio
import contextlib
from pathlib import Path

import pytest
import structlog

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.config import RouterSettings
from ollama_herd.router.head import RequestHead
from ollama_herd.router.wire import ClientConnection, Door

uvloop = pytest.importorskip("uvloop")

REQUEST = b"POST /api/chat HTTP/1.1\r\nHost: herd\r\nContent-Length: 2\r\n\r\n{}"


def test_bytes_for_a_client_that_has_left_are_dropped(tmp_path: Path) -> None:
    """uvloop raises where asyncio's own loop is silent."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write_to_a_client_that_left(RouterSettings(home=tmp_path)))


async def write_to_a_client_that_left(settings: RouterSettings) -> None:
    replies: asyncio.Queue[ClientConnection] = asyncio.Queue()
    left = asyncio.Event()

    async def serve(
        _endpoint: Endpoint, _head: RequestHead, _body: bytes, reply: ClientConnection
    ) -> None:
        reply.start(200, (), None)
        reply.write(b"first")
        replies.put_nowait(reply)
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    loop = asyncio.get_running_loop()
    door = Door(serve=serve, hand_over=asyncio.Protocol, limits=settings)
    server = await loop.create_server(door, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        reply = await replies.get()
        assert (await reader.readuntil(b"first")).startswith(b"HTTP/1.1 200")
        writer.close()
        async with asyncio.timeout(5):
            await left.wait()
        reply.write(b"second")
        reply.flush()
        reply.finish()
        assert reply.transport.is_closing()
    finally:
        server.close()


async def test_a_defect_outside_the_request_path_is_told_and_ends_the_connection(
    tmp_path: Path,
) -> None:
    settings = RouterSettings(home=tmp_path)

    async def serve(
        _endpoint: Endpoint, _head: RequestHead, _body: bytes, _reply: ClientConnection
    ) -> None:
        raise LookupError("a defect")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # asyncio's own word on the task
    door = Door(serve=serve, hand_over=asyncio.Protocol, limits=settings)
    server = await loop.create_server(door, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        with structlog.testing.capture_logs() as told:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
        writer.close()
    finally:
        server.close()
    assert [line["event"] for line in told] == ["request path failed"]
    assert isinstance(told[0]["exc_info"], LookupError)
