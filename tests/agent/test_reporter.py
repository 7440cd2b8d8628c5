"""Reporting to a router on a real socket: deltas, restarts, refusals, other routers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from ollama_herd.agent import report as report_module
from ollama_herd.agent import reporter as reporter_module
from ollama_herd.agent.identity import Identity, NodeKeys
from ollama_herd.agent.report import About, Sections
from ollama_herd.agent.reporter import FixedRouter, Reporter, ways_to
from ollama_herd.agent.router_answer import ReportFailed, error_text, read_reply
from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import EngineKind, EngineReport, Platform, ReportReply, Vitals
from ollama_herd.tasks import cancel_and_wait, spawn
from tests.agent.fake_engine import until
from tests.agent.fake_router import FakeRouter, router_running
from tests.pace import in_time

ABOUT = About("id", 7, "name", "1.0", 11436, "relay-key")
ENGINE = EngineReport(engine_id="ollama-1", kind=EngineKind.OLLAMA, port=1)


class Choice:
    """Routers as discovery gives them: the test says which."""

    def __init__(self, url: str) -> None:
        self.urls: asyncio.Queue[str] = asyncio.Queue()
        self.urls.put_nowait(url)
        self.given_up: list[str] = []

    async def next(self) -> str:
        return await self.urls.get()

    def give_up(self, url: str) -> None:
        self.given_up.append(url)
        self.urls.put_nowait(url)  # there is no other


class Node:
    """What a reporter is told to say, and what it said to people."""

    def __init__(self) -> None:
        self.sections = Sections(Platform(system="linux"), Vitals(cpu_count=2), (ENGINE,))
        self.said: list[str] = []
        self.seen_as: list[str] = []

    def change(self, error: str) -> None:
        engines = (msgspec.structs.replace(ENGINE, error=error),)
        self.sections = msgspec.structs.replace(self.sections, engines=engines)


@asynccontextmanager
async def reporting(routers) -> AsyncIterator[tuple[Node, Reporter]]:
    node = Node()
    async with aiohttp.ClientSession() as session:
        reporter = Reporter(
            ABOUT,
            NodeKeys(Path("nowhere"), Identity("n", "node-key")),
            routers=routers,
            session=session,
            sections=lambda: node.sections,
            seen_as=node.seen_as.append,
            say=node.said.append,
        )
        task = spawn(reporter.run(), name="reporter")
        try:
            yield node, reporter
        finally:
            assert not task.done()
            await cancel_and_wait(task)


async def test_first_everything_then_what_changed() -> None:
    async with router_running() as router, reporting(FixedRouter(router.url)) as (node, _):
        await until(lambda: len(router.reports) >= 3)
        node.change("nothing listens")
        seen = len(router.reports)
        await until(lambda: len(router.reports) >= seen + 3)
        first, second = router.reports[:2]
        assert first.engines == (ENGINE,)
        assert first.vitals == Vitals(cpu_count=2)
        assert first.platform == Platform(system="linux")
        assert (first.name, first.relay_port, first.relay_key) == ("name", 11436, "relay-key")
        assert (second.engines, second.vitals, second.platform) == (None, None, None)
        changed = [report for report in router.reports[1:] if report.engines is not None]
        assert [report.engines[0].error for report in changed] == ["nothing listens"]
        assert [report.seq for report in router.reports] == list(range(1, len(router.reports) + 1))
        assert {report.boot for report in router.reports} == {7}
        assert set(router.keys) == {"Bearer node-key"}
        assert node.said == [f"reporting to the router at {router.url}"]
        assert node.seen_as == ["127.0.0.1"]


async def test_the_router_sets_the_interval() -> None:
    async with router_running() as router:
        router.usual = ReportReply(interval_s=0.3)
        started_s = monotonic_s()
        async with reporting(FixedRouter(router.url)):
            await until(lambda: len(router.reports) >= 4)
        assert monotonic_s() - started_s >= 0.85


async def test_an_absurd_interval_is_bounded() -> None:
    async with router_running() as router:
        router.usual = ReportReply(interval_s=-5)
        async with reporting(FixedRouter(router.url)):
            await asyncio.sleep(0.5)
        assert 2 <= len(router.reports) <= 7


async def test_news_does_not_wait_for_the_next_heartbeat() -> None:
    async with router_running() as router:
        router.usual = ReportReply(interval_s=30)
        async with reporting(FixedRouter(router.url)) as (node, reporter):
            await until(lambda: len(router.reports) == 1)
            node.change("dead")
            reporter.tell_news()
            assert in_time(await until(lambda: len(router.reports) == 2), 1)
            assert router.reports[1].engines[0].error == "dead"


async def test_a_router_that_asks_for_everything_gets_it_at_once() -> None:
    async with router_running() as router:
        router.replies = [ReportReply(), ReportReply(resend=True, interval_s=30)]
        router.replies[0] = ReportReply(interval_s=0.1)
        router.usual = ReportReply(interval_s=30)
        async with reporting(FixedRouter(router.url)):
            await until(lambda: len(router.reports) == 3)
            assert router.reports[1].engines is None
            assert router.reports[2].engines == (ENGINE,)
            assert router.reports[2].relay_key == "relay-key"


async def test_a_router_that_always_asks_for_everything_is_not_flooded() -> None:
    async with router_running() as router:
        router.usual = ReportReply(resend=True, interval_s=0.2)
        async with reporting(FixedRouter(router.url)):
            await asyncio.sleep(0.7)
        assert len(router.reports) <= 5


async def test_a_router_that_restarts_gets_everything_again() -> None:
    async with router_running() as router, reporting(FixedRouter(router.url)) as (node, _):
        await until(lambda: len(router.reports) >= 2)
        await router.stop()
        await until(lambda: any("cannot be reached" in line for line in node.said))
        await router.start()
        seen = len(router.reports)
        assert in_time(await until(lambda: len(router.reports) > seen), 3)
        assert router.reports[seen].engines == (ENGINE,)
        await until(lambda: len(node.said) == 3)
        assert node.said[0] == node.said[2]
        assert node.seen_as == ["127.0.0.1", "127.0.0.1"]


async def test_an_absent_router_is_waited_for_with_one_line() -> None:
    router = FakeRouter()
    await router.start()
    await router.stop()
    async with reporting(FixedRouter(router.url)) as (node, _):
        await until(lambda: node.said)
        await asyncio.sleep(1)
        assert node.said == [
            (
                f"the router at {router.url} cannot be reached (nothing listens there); "
                "see whether 'herd' runs there; trying again"
            )
        ]
        await router.start()
        await until(lambda: router.reports)
    await router.stop()


async def test_an_answer_that_is_lost_makes_the_next_report_say_everything() -> None:
    """The router may hold what it did not confirm; a delta against older news would be wrong."""
    async with router_running() as router:
        router.replies = [ReportReply(interval_s=0.05), (500, "lost")]
        async with reporting(FixedRouter(router.url)) as (node, _):
            await until(lambda: len(router.reports) >= 3)
            assert router.reports[1].engines is None
            assert router.reports[2].engines == (ENGINE,)
            assert any("answered 500: lost" in line for line in node.said)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_is_shown_once_and_tried_again(status: int, monkeypatch) -> None:
    monkeypatch.setattr(report_module, "FIRST_BACKOFF_S", 0.05)
    async with router_running() as router:
        router.usual = (status, "node id 'id' belongs to another key")
        async with reporting(Choice(router.url)) as (node, _):
            await until(lambda: len(router.reports) >= 3)
            assert node.said == [
                f"the router at {router.url} refuses this node: node id 'id' belongs to another key"
            ]
            router.usual = ReportReply(interval_s=0.1)
            await until(lambda: len(node.said) == 2)


async def test_a_report_that_is_not_believed_says_why() -> None:
    async with router_running() as router:
        router.usual = ReportReply(accepted=False, reason="stale report", interval_s=0.1)
        async with reporting(FixedRouter(router.url)) as (node, _):
            await until(lambda: len(router.reports) >= 3)
            assert len(node.said) == 1
            assert "stale report" in node.said[0]
            assert all(report.engines is not None for report in router.reports)


async def test_a_reply_that_comes_in_pieces_is_one_reply() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = msgspec.json.encode(ReportReply(interval_s=5))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:9])
        await asyncio.sleep(0.05)
        writer.write(body[9:])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, reporting(FixedRouter(url)) as (node, _):
        await until(lambda: bool(node.said))
        assert node.said == [f"reporting to the router at {url}"]


async def test_another_router_is_followed() -> None:
    async with router_running() as first, router_running() as second:
        first.usual = ReportReply(interval_s=30)
        choice = Choice(first.url)
        async with reporting(choice) as (node, _):
            await until(lambda: len(first.reports) == 1)
            choice.urls.put_nowait(second.url)
            assert in_time(await until(lambda: len(second.reports) >= 2), 1)
            assert second.reports[0].engines == (ENGINE,)
            assert second.reports[1].engines is None
            assert node.said[-1].endswith(second.url)


async def test_a_silent_router_is_given_up_but_not_flooded() -> None:
    """Alone on the network, discovery offers the same router again at once."""
    router = FakeRouter()
    await router.start()
    await router.stop()
    choice = Choice(router.url)
    async with reporting(choice):
        await until(lambda: choice.given_up)
        given_up = len(choice.given_up)
        await asyncio.sleep(0.5)
        assert len(choice.given_up) <= given_up + 1
        assert set(choice.given_up) == {router.url}


async def test_a_router_that_hangs_is_an_absent_one(monkeypatch) -> None:
    monkeypatch.setattr(reporter_module, "SEND_TIMEOUT_S", 0.1)

    async def hang(reader, writer) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with reporting(FixedRouter(url)) as (node, _):
        await until(lambda: node.said)
        assert node.said == [f"the router at {url} does not answer; trying again"]
    server.close()


async def test_looking_for_a_router_says_what_else_can_be_done(monkeypatch) -> None:
    monkeypatch.setattr(reporter_module, "PATIENCE_S", 0.05)
    async with router_running() as router:
        choice = Choice(router.url)
        choice.urls.get_nowait()
        async with reporting(choice) as (node, _):
            await until(lambda: node.said)
            assert "--router" in node.said[0]
            choice.urls.put_nowait(router.url)
            await until(lambda: router.reports)


async def test_goodbye_is_said_once_known_and_fails_silently() -> None:
    async with (
        router_running() as router,
        reporting(FixedRouter(router.url)) as (node, reporter),
    ):
        await until(lambda: node.said)
        await reporter.goodbye()
        leaving = [report for report in router.reports if report.leaving]
        assert len(leaving) == 1
        await router.stop()
        await reporter.goodbye()  # nobody there: no error
        await router.start()


async def test_goodbye_to_a_router_that_was_never_reached_is_not_tried() -> None:
    router = FakeRouter()
    await router.start()
    await router.stop()
    async with reporting(FixedRouter(router.url)) as (node, reporter):
        await until(lambda: node.said)
        await reporter.goodbye()
    assert router.reports == []


@pytest.mark.parametrize(
    ("status", "body", "reason", "is_refusal"),
    [
        (200, b"hello", "no router of a herd", False),
        (200, b'{"interval_s":"x"}', "no router of a herd", False),
        (404, b"404 page not found", "has no /fleet/heartbeat", False),
        (403, b'{"error":"another key"}', "refuses this node: another key", True),
        (502, b"<html>\n bad\tgateway", "answered 502: <html> bad gateway", False),
        (500, b"", "no reason given", False),
        (302, b"", "answered 302", False),
    ],
)
def test_bad_answers_say_why(status: int, body: bytes, reason: str, is_refusal) -> None:
    with pytest.raises(ReportFailed, match=reason) as raised:
        read_reply("http://r:1", status, body)
    assert "http://r:1" in str(raised.value)
    assert raised.value.is_refusal is is_refusal


def test_error_texts_are_short_lines() -> None:
    assert len(error_text(b"x" * 10_000)) <= 300
    assert error_text(b'{"error":"a\\nb"}') == "a b"
    assert error_text(b"\xff") == "\ufffd"


async def test_a_router_on_this_machine_is_reached_over_loopback_first() -> None:
    assert await ways_to("http://127.0.0.1:11435") == ("http://127.0.0.1:11435",)
    assert await ways_to("http://203.0.113.1:11435") == ("http://203.0.113.1:11435",)
    assert await ways_to("http://localhost:11435") == (
        "http://127.0.0.1:11435",
        "http://localhost:11435",
    )


async def test_when_loopback_fails_the_other_way_is_tried_at_once(monkeypatch) -> None:
    async with router_running() as router:
        unused = FakeRouter()
        await unused.start()
        await unused.stop()

        async def two_ways(url: str) -> tuple[str, ...]:
            return (unused.url, url)

        monkeypatch.setattr(reporter_module, "ways_to", two_ways)
        async with reporting(FixedRouter(router.url)) as (node, _):
            assert in_time(await until(lambda: router.reports), 1)
            await until(lambda: node.said)
            assert node.said == [f"reporting to the router at {router.url}"]
