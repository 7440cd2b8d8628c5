"""The whole agent, against a fake engine and a fake router on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ollama_herd.agent import engine_watch as watch_module
from ollama_herd.agent.app import distinct, own_engine, run
from ollama_herd.agent.errors import AgentError
from ollama_herd.agent.identity import IDENTITY_FILE, load_identity
from ollama_herd.clock import monotonic_s
from ollama_herd.config import NodeSettings
from ollama_herd.core.node import EngineKind, Reach
from ollama_herd.engines.address import EngineAddress
from tests.agent.fake_engine import OLLAMA, engine_running, until
from tests.agent.fake_router import FakeRouter, router_running
from tests.pace import in_time


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(watch_module, "LOOK_EVERY_S", 0.05)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)


def settings(tmp_path, router_url: str, engine_url: str, **more) -> NodeSettings:
    return NodeSettings(
        router=router_url, engine=(engine_url,), home=tmp_path, relay_port=0, name="n", **more
    )


@asynccontextmanager
async def agent_running(chosen: NodeSettings) -> AsyncIterator[list[str]]:
    said: list[str] = []
    task = asyncio.ensure_future(run(chosen, on_event=said.append))
    try:
        yield said
    finally:
        assert not task.done(), task.exception()
        started_s = monotonic_s()
        task.cancel()
        await task  # returns: it has said goodbye
        assert in_time(monotonic_s() - started_s, 2)


async def test_a_node_reports_its_engine_and_relays_to_it(tmp_path) -> None:
    async with (
        engine_running(OLLAMA) as engine,
        router_running() as router,
        agent_running(settings(tmp_path, router.url, engine.address.url)) as said,
    ):
        await until(lambda: router.reports)
        first = router.reports[0]
        identity = load_identity(tmp_path)
        assert first.node_id == identity.node_id
        assert router.keys[0] == f"Bearer {identity.node_key}"
        assert first.name == "n"
        assert first.vitals.memory_total_bytes > 0
        assert first.vitals.cpu_count > 0
        assert first.vitals.disk_total_bytes > 0
        assert first.platform.system
        (reported,) = first.engines
        assert reported.kind is EngineKind.OLLAMA
        assert reported.reach is Reach.LOOPBACK
        assert len(reported.models) == 5

        reader, writer = await asyncio.open_connection("127.0.0.1", first.relay_port)
        writer.write(
            f"CONNECT {reported.engine_id} HTTP/1.1\r\n"
            f"Authorization: Bearer {first.relay_key}\r\n\r\n"
            "GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await reader.readuntil(b"established\r\n\r\n")
        assert await reader.readuntil(b"}") == OLLAMA["/api/version"]
        writer.close()
        assert any("Ollama 0.33.0-rc2" in line for line in said)
        await until(lambda: any(line.startswith("reporting to") for line in said))


async def test_an_engine_that_dies_and_heals_is_in_the_next_reports(tmp_path) -> None:
    async with (
        engine_running(OLLAMA) as engine,
        router_running() as router,
        agent_running(settings(tmp_path, router.url, engine.address.url)),
    ):
        await until(lambda: router.reports)
        await engine.stop()
        await until(lambda: news(router) and "nothing listens" in news(router).error)
        assert len(news(router).models) == 5
        await engine.start()
        await until(lambda: not news(router).error)


def news(router: FakeRouter):
    """The engine as last reported."""
    told = [report.engines for report in router.reports if report.engines is not None]
    return told[-1][0] if told else None


async def test_a_hung_engine_delays_no_heartbeat(tmp_path) -> None:
    async with (
        engine_running(OLLAMA) as engine,
        router_running() as router,
        agent_running(settings(tmp_path, router.url, engine.address.url)),
    ):
        await until(lambda: router.reports)
        engine.hanging.update(engine.answers)
        seen, started_s = len(router.reports), monotonic_s()
        await until(lambda: len(router.reports) >= seen + 10)
        assert in_time(monotonic_s() - started_s, 2.5)


async def test_it_says_goodbye(tmp_path) -> None:
    async with engine_running(OLLAMA) as engine, router_running() as router:
        async with agent_running(settings(tmp_path, router.url, engine.address.url)) as said:
            await until(lambda: any(line.startswith("reporting to") for line in said))
        assert router.reports[-1].leaving
        assert [report.seq for report in router.reports] == list(range(1, len(router.reports) + 1))


async def test_a_second_start_is_the_same_node_with_a_later_boot(tmp_path) -> None:
    async with engine_running(OLLAMA) as engine, router_running() as router:
        for _ in range(2):
            async with agent_running(settings(tmp_path, router.url, engine.address.url)) as said:
                await until(lambda said=said: any("reporting to" in line for line in said))
        boots = sorted({report.boot for report in router.reports})
        assert len(boots) == 2
        assert len({report.node_id for report in router.reports}) == 1
        assert len({report.relay_key for report in router.reports if report.relay_key}) == 2


async def test_it_ends_quickly_without_router_and_engine(tmp_path) -> None:
    router = FakeRouter()
    await router.start()
    await router.stop()
    async with engine_running(OLLAMA) as engine:
        await engine.stop()
        async with agent_running(settings(tmp_path, router.url, engine.address.url)) as said:
            await until(lambda: len(said) >= 2)
        await engine.start()


async def test_a_damaged_identity_stops_the_start(tmp_path) -> None:
    (tmp_path / IDENTITY_FILE).write_text("{")
    with pytest.raises(AgentError, match="damaged"):
        await run(settings(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:1"))


async def test_a_taken_relay_port_stops_the_start(tmp_path) -> None:
    async with router_running() as router:
        chosen = settings(tmp_path, router.url, router.url).model_copy(
            update={"relay_port": router.port}
        )
        with pytest.raises(AgentError, match="--relay-port"):
            await run(chosen)


@pytest.mark.parametrize(
    ("ollama_host", "address", "lines"),
    [
        ("", EngineAddress("127.0.0.1", 11434), 0),
        ("0.0.0.0:8080", EngineAddress("127.0.0.1", 8080), 0),
        ("localhost:8080", EngineAddress("localhost", 8080), 0),
        ("203.0.113.1:11434", EngineAddress("127.0.0.1", 11434), 1),
        ("https://ollama.example.org", EngineAddress("127.0.0.1", 11434), 1),
    ],
)
async def test_the_own_engine(ollama_host: str, address: EngineAddress, lines: int) -> None:
    said: list[str] = []
    assert await own_engine(ollama_host, said.append) == address
    assert len(said) == lines


def test_an_engine_given_twice_is_one() -> None:
    urls = ["http://localhost:1", "http://127.0.0.1:1", "http://127.0.0.1:2", "http://10.0.0.9:1"]
    assert [address.netloc for address in distinct(urls)] == [
        "localhost:1",
        "127.0.0.1:2",
        "10.0.0.9:1",
    ]
