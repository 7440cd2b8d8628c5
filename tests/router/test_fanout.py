"""One call on several engines: pace, cancellation, engines that go away in the middle."""

import asyncio
import json

from ollama_herd.router.models.fanout import Call, FanOut
from ollama_herd.router.models.targets import Target
from ollama_herd.router.upstream import Upstream
from tests.router.engines import NDJSON, engine

CALL = Call(b"/api/pull", (), b'{"model":"tiny"}')
LINE = b'{"status":"pulling aaaa","digest":"sha256:aaaa","total":10,"completed":%d}\n'
SUCCESS = b'{"status":"success"}\n'


def target(name, address):
    return Target(name, "ollama-1", name, address)


def fan_out(*targets, is_usable=lambda _target: True):
    return FanOut(Upstream(5), targets, CALL, is_usable)


async def pull(reader, writer, *lines):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(NDJSON + b"".join(lines))
    await writer.drain()


async def test_two_engines_are_one():
    async def talk(reader, writer):
        await pull(reader, writer, LINE % 5, LINE % 10, SUCCESS)

    out = []
    async with engine(talk) as a, engine(talk) as b:
        work = fan_out(target("a", a), target("b", b))
        await work.run(out.append)
    assert [t.name for t in work.succeeded()] == ["a", "b"]
    assert json.loads(b"".join(out).splitlines()[-1])["completed"] == 10
    assert work.last_line() == SUCCESS
    assert (work.answer().status, work.answer().body) == (200, SUCCESS.strip())


async def test_a_client_that_does_not_read_stops_the_engine():
    sent = 0

    async def talk(reader, writer):
        nonlocal sent
        await pull(reader, writer)
        for number in range(400_000):
            writer.write(LINE % number)
            sent += len(LINE)
            await writer.drain()
        writer.write(SUCCESS)
        await writer.drain()

    async with engine(talk) as address:
        work = fan_out(target("a", address))
        got = 0

        def take(data):
            nonlocal got
            if not got:
                work.pause()
            got += len(data)

        running = asyncio.ensure_future(work.run(take))
        before = -1
        while sent != before:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.2)
        assert 0 < got < 400_000
        assert sent < 400_000 * len(LINE) / 2
        work.resume()
        await asyncio.wait_for(running, 30)
    assert work.last_line() == SUCCESS
    assert got >= 400_000 * (len(LINE) - 2)


async def test_cancelling_closes_every_connection():
    under_way, gone = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def talk(reader, writer):
        await pull(reader, writer, LINE % 1)
        under_way.release()
        try:
            await reader.read()
        finally:
            gone.release()

    async with engine(talk) as a, engine(talk) as b:
        running = asyncio.ensure_future(fan_out(target("a", a), target("b", b)).run(bytes))
        for _ in "ab":
            await asyncio.wait_for(under_way.acquire(), 5)
        running.cancel()
        for _ in "ab":
            await asyncio.wait_for(gone.acquire(), 1)


async def test_a_node_that_goes_offline_in_silence():
    async def silent(reader, writer):
        await pull(reader, writer, LINE % 1)
        await reader.read()

    async def good(reader, writer):
        await pull(reader, writer, SUCCESS)

    async with engine(good) as a, engine(silent) as b:
        usable = {"a", "b"}
        work = fan_out(target("a", a), target("b", b), is_usable=lambda t: t.name in usable)
        running = asyncio.ensure_future(work.run(bytes))
        usable.discard("b")
        await asyncio.wait_for(running, 5)
    assert json.loads(work.last_line()) == {"error": "node b: it went offline; done on a"}
    assert work.answer().status == 500


async def test_nobody_is_there():
    async with engine(pull) as address:
        pass
    work = fan_out(target("a", address))
    await work.run(bytes)
    assert work.answer().status == 502
    assert work.succeeded() == []


async def test_refusals_of_all_are_passed_on_as_they_are():
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            b'Content-Length: 20\r\n\r\n{"error":"bad name"}'
        )

    async with engine(talk) as a, engine(talk) as b:
        work = fan_out(target("a", a), target("b", b))
        await work.run(bytes)
    answer = work.answer()
    assert (answer.status, answer.body) == (400, b'{"error":"bad name"}')
    assert answer.content_type == b"application/json"
