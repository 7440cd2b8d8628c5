"""The relay over real sockets, on both event loops."""

import asyncio
import socket
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.agent import relay as relay_module
from ollama_herd.agent import tunnel as tunnel_module
from ollama_herd.agent.errors import AgentError
from ollama_herd.agent.relay import Relay
from ollama_herd.agent.relay_head import Head, parse_head
from ollama_herd.clock import monotonic_s
from ollama_herd.engines.address import EngineAddress
from tests.pace import in_time

KEY = "secret-key"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def loop_factories() -> list[Any]:
    uvloop = pytest.importorskip("uvloop") if sys.platform != "win32" else None
    return [asyncio.new_event_loop, *([uvloop.new_event_loop] if uvloop else [])]


@pytest.fixture(params=loop_factories(), ids=lambda factory: factory.__module__)
def run(request) -> Callable[[Awaitable[None]], None]:
    """Runs a coroutine to its end on one of the event loops that the agent may run on."""

    def runner(work):
        with asyncio.Runner(loop_factory=request.param) as owned:
            owned.run(asyncio.wait_for(work, 30))

    return runner


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[EngineAddress]:
    """A bare TCP engine."""
    tasks: set[asyncio.Task] = set()

    async def held(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(held, "127.0.0.1", 0)
    try:
        yield EngineAddress("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def relaying(engines: dict[str, EngineAddress]) -> AsyncIterator[tuple[Relay, int]]:
    relay = Relay(KEY, engines.get)
    port = await relay.start(0, host="127.0.0.1")
    try:
        yield relay, port
    finally:
        await relay.close()


async def ask(port: int, engine_id: str = "e", key: str = KEY, extra: bytes = b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"CONNECT {engine_id} HTTP/1.1\r\nHost: {engine_id}\r\n"
        f"Authorization: Bearer {key}\r\n\r\n".encode()
        + extra
    )
    return reader, writer


async def through(port: int, extra: bytes = b""):
    reader, writer = await ask(port, extra=extra)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
    return reader, writer


async def until(holds: Callable[[], bool], within_s: float = 5.0) -> float:
    """Seconds until `holds`; fails when it does not in time."""
    started_s = monotonic_s()
    while not holds():
        assert in_time(monotonic_s() - started_s, within_s), "did not happen in time"
        await asyncio.sleep(0.002)
    return monotonic_s() - started_s


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end; a reset is an end too."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def test_bytes_pass_unchanged_both_ways_and_early_ones_too(run) -> None:
    async def work() -> None:
        async with serving(echo) as engine, relaying({"e": engine}) as (relay, port):
            reader, writer = await through(port, extra=b"early ")
            writer.write(b"\x00\xffrest")
            assert await reader.readexactly(12) == b"early \x00\xffrest"
            assert relay.tunnel_count == 1
            writer.close()
            await until(lambda: relay.tunnel_count == 0)

    run(work())


def test_a_head_may_come_byte_by_byte(run) -> None:
    async def work() -> None:
        async with serving(echo) as engine, relaying({"e": engine}) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in f"CONNECT e HTTP/1.1\r\nauthorization: Bearer {KEY}\r\n\r\nx".encode():
                writer.write(bytes([byte]))
                await writer.drain()
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == b"x"
            writer.close()

    run(work())


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (b"CONNECT e HTTP/1.1\r\nAuthorization: Bearer wrong\r\n\r\n", 401, b"wrong key"),
        (b"CONNECT e HTTP/1.1\r\n\r\n", 401, b"wrong key"),
        (b"CONNECT none HTTP/1.1\r\nAuthorization: Bearer wrong\r\n\r\n", 401, b"wrong key"),
        (
            f"CONNECT none HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode(),
            404,
            b"no engine 'none'",
        ),
        (b"GET / HTTP/1.1\r\n\r\n", 405, b"only takes CONNECT"),
        (b"\x16\x03\x01 hello\r\n\r\n", 400, b"first line"),
        (b"CONNECT e HTTP/1.1\r\nno colon here\r\n\r\n", 400, b"no colon"),
        (b"CONNECT e HTTP/1.1\r\nX: " + b"a" * 9000, 431, b"longer than 8192"),
        (b"CONNECT e HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431, b"longer than 8192"),
    ],
)
async def test_a_refusal_says_why_and_closes(head: bytes, status: int, reason: bytes) -> None:
    async with serving(echo) as engine, relaying({"e": engine}) as (relay, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        answer = await reader.read()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"Content-Type: text/plain" in answer
        assert reason in answer
        writer.close()
        await until(lambda: relay.tunnel_count == relay.stranger_count == 0)


async def test_an_engine_that_refuses_is_a_502() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        engine = EngineAddress("127.0.0.1", unused.getsockname()[1])
        async with relaying({"e": engine}) as (relay, port):
            reader, writer = await ask(port)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert engine.netloc.encode() in answer
            assert relay.tunnel_count == 0
            writer.close()


async def test_a_head_that_never_ends_times_out(monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "HEAD_TIMEOUT_S", 0.05)
    async with relaying({}) as (relay, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"CONNECT e HTTP/1.1\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        assert relay.stranger_count == 0
        writer.close()


async def test_many_silent_strangers_never_keep_the_router_out(monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "MAX_STRANGERS", 8)
    async with serving(echo) as engine, relaying({"e": engine}) as (relay, port):
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
        await until(lambda: relay.stranger_count == 8)
        reader, writer = await through(port, extra=b"hi")
        assert await reader.readexactly(2) == b"hi"
        for _, stranger in [*strangers, (reader, writer)]:
            stranger.close()


async def test_tunnels_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "MAX_TUNNELS", 2)
    async with serving(echo) as engine, relaying({"e": engine}) as (_, port):
        held = [await through(port) for _ in range(2)]
        reader, writer = await ask(port)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        for _, other in [*held, (reader, writer)]:
            other.close()


@pytest.mark.parametrize("way", ["close", "abort"])
def test_a_client_that_leaves_closes_the_engine_at_once(run, way: str) -> None:
    async def work() -> None:
        gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        async def generate(reader, writer) -> None:
            try:
                while True:
                    writer.write(b"token ")
                    await writer.drain()
                    await asyncio.sleep(0.002)
            except ConnectionError:
                gone.set_result(monotonic_s())

        async with serving(generate) as engine, relaying({"e": engine}) as (relay, port):
            reader, writer = await through(port)
            await reader.readexactly(60)
            left_s = monotonic_s()
            if way == "abort":
                writer.transport.abort()
            else:
                writer.close()
            assert in_time(await gone - left_s, 0.05)
            await until(lambda: relay.tunnel_count == 0)

    run(work())


def test_a_client_that_leaves_a_silent_engine_closes_it_at_once(run) -> None:
    async def work() -> None:
        gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        async def think(reader, writer) -> None:
            with suppress(ConnectionError):
                await reader.read()
            gone.set_result(monotonic_s())

        async with serving(think) as engine, relaying({"e": engine}) as (_, port):
            _, writer = await through(port)
            left_s = monotonic_s()
            writer.close()
            assert in_time(await gone - left_s, 0.05)

    run(work())


@pytest.mark.parametrize("way", ["close", "abort"])
def test_an_engine_that_goes_closes_the_client_at_once(run, way: str) -> None:
    async def work() -> None:
        async def die(reader, writer) -> None:
            await reader.readexactly(1)
            if way == "abort":
                writer.transport.abort()
            else:
                writer.close()

        async with serving(die) as engine, relaying({"e": engine}) as (relay, port):
            reader, writer = await through(port)
            writer.write(b"x")
            asked_s = monotonic_s()
            assert await reader.read() == b""
            assert in_time(monotonic_s() - asked_s, 0.05)
            writer.close()
            await until(lambda: relay.tunnel_count == 0)

    run(work())


def test_the_last_bytes_of_an_engine_that_closes_reach_a_slow_client(run) -> None:
    size = 20_000_000  # more than the kernel takes: the relay itself holds the last of it

    async def work() -> None:
        async def answer(reader, writer) -> None:
            writer.write(b"x" * size)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with serving(answer) as engine, relaying({"e": engine}) as (relay, port):
            own = socket.socket()
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.connect(("127.0.0.1", port))
            own.setblocking(False)  # noqa: FBT003 - the signature is the library's
            reader, writer = await asyncio.open_connection(sock=own, limit=4096)
            writer.write(f"CONNECT e HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            received = 0
            while data := await reader.read(65536):
                received += len(data)
                if received < 200_000:
                    await asyncio.sleep(0.002)
            assert received == size
            assert relay.tunnel_count <= 1
            writer.close()

    run(work())


def test_a_client_that_stops_reading_stops_the_engine_and_fills_no_memory(run) -> None:
    async def work() -> None:
        sent = 0

        async def flood(reader, writer) -> None:
            nonlocal sent
            piece = b"x" * 65536
            while True:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)

        async with serving(flood) as engine, relaying({"e": engine}) as (relay, port):
            own = socket.create_connection(("127.0.0.1", port))
            own.sendall(f"CONNECT e HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
            before = -1
            while sent != before:  # until the kernel's buffers are full too
                before = sent
                await asyncio.sleep(0.1)
            tracemalloc.start()
            try:
                first = tracemalloc.take_snapshot()
                await asyncio.sleep(0.3)
                grown = tracemalloc.take_snapshot().compare_to(first, "filename")
            finally:
                tracemalloc.stop()
            assert sent == before
            assert sum(entry.size_diff for entry in grown) < 1_000_000
            assert relay.buffered_bytes() < 2 * (tunnel_module.BUFFER_BYTES + 262_144)
            own.close()
            await until(lambda: relay.tunnel_count == 0)

    run(work())


def test_an_engine_that_stops_reading_stops_the_client(run) -> None:
    async def work() -> None:
        async with serving(nothing) as engine, relaying({"e": engine}) as (relay, port):
            _, writer = await through(port)
            writer.transport.set_write_buffer_limits(high=0)
            piece, sent, blocked = b"x" * 262_144, 0, False
            while not blocked:
                writer.write(piece)
                sent += len(piece)
                try:
                    await asyncio.wait_for(writer.drain(), 0.3)
                except TimeoutError:
                    blocked = True
                assert sent < 200_000_000
            assert relay.buffered_bytes() < 2 * (tunnel_module.BUFFER_BYTES + 262_144)
            writer.transport.abort()

    run(work())


def test_an_engine_that_takes_no_byte_of_an_upload_ends_the_tunnel(run, monkeypatch) -> None:
    monkeypatch.setattr(tunnel_module, "STALLED_UPLOAD_S", 0.2)

    async def work() -> None:
        async with serving(nothing) as engine, relaying({"e": engine}) as (relay, port):
            reader, writer = await through(port)
            writer.write(b"x" * 30_000_000)
            assert await end_of(reader) == b""
            await until(lambda: relay.tunnel_count == 0)
            writer.transport.abort()

    run(work())


def test_a_gigabyte_class_stream_passes_quickly(run) -> None:
    size = 200_000_000

    async def work() -> None:
        async def flood(reader, writer) -> None:
            piece = b"x" * 262_144
            for _ in range(size // len(piece) + 1):
                writer.write(piece)
                await writer.drain()
            await nothing(reader, writer)

        async with serving(flood) as engine, relaying({"e": engine}) as (_, port):
            reader, writer = await through(port)
            started_s = monotonic_s()
            received = 0
            while received < size:
                received += len(await reader.read(1 << 20))
            # 100 Gbit/s networks are no goal; a tenth of what one shared core does here is.
            assert received / (monotonic_s() - started_s) > 30_000_000
            writer.close()

    run(work())


def test_a_token_is_passed_within_a_millisecond_or_so(run) -> None:
    async def work() -> None:
        async with serving(echo) as engine, relaying({"e": engine}) as (_, port):
            reader, writer = await through(port)
            times = []
            for _ in range(200):
                started_s = monotonic_s()
                writer.write(b"token")
                await reader.readexactly(5)
                times.append(monotonic_s() - started_s)
            assert in_time(sorted(times)[100], 0.01)
            writer.close()

    run(work())


async def test_closing_the_relay_cuts_every_tunnel() -> None:
    async with serving(echo) as engine:
        relay = Relay(KEY, {"e": engine}.get)
        port = await relay.start(0, host="127.0.0.1")
        reader, writer = await through(port)
        _, stranger = await asyncio.open_connection("127.0.0.1", port)
        await relay.close()
        assert await end_of(reader) == b""
        await until(lambda: relay.tunnel_count == relay.stranger_count == 0)
        writer.close()
        stranger.close()


async def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    async with relaying({}) as (_, port):
        with pytest.raises(AgentError, match="--relay-port"):
            await Relay(KEY, {}.get).start(port, host="127.0.0.1")
        with pytest.raises(AgentError, match=str(port)):
            await Relay(KEY, {}.get).start(port)


@given(st.binary(max_size=200))
def test_any_head_is_understood_or_refused_with_a_reason(head: bytes) -> None:
    parsed = parse_head(head)
    if isinstance(parsed, tuple):
        status, reason = parsed
        assert status in (400, 405)
        assert reason
    else:
        assert head.startswith(b"CONNECT ")


@given(st.text("abc-.0123456789", min_size=1), st.text("abcXYZ_-", min_size=1), st.booleans())
def test_a_good_head_is_understood(engine_id: str, key: str, upper: bool) -> None:  # noqa: FBT001
    name = "AUTHORIZATION" if upper else "authorization"
    head = f"CONNECT {engine_id} HTTP/1.1\r\nHost: {engine_id}\r\n{name}:  Bearer {key} "
    parsed = parse_head(head.encode())
    assert isinstance(parsed, Head)
    assert parsed.engine_id == engine_id
    assert parsed.authorization == f"Bearer {key}".encode()
