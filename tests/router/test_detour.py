"""An engine that its node reaches on the LAN but the router does not: through the relay then."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from ollama_herd.agent.relay import Relay
from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Detour, Endpoint
from ollama_herd.core.request import OutcomeKind
from ollama_herd.engines.address import EngineAddress
from ollama_herd.router import upstream as module
from ollama_herd.router.asking import ask
from ollama_herd.router.upstream import Upstream, UpstreamFailed
from tests.fakes.ollama import FakeOllama
from tests.pace import in_time

KEY = "secret-key"


@pytest.fixture
async def engine() -> AsyncIterator[FakeOllama]:
    async with FakeOllama() as fake:
        yield fake


@pytest.fixture
async def relay_port(engine: FakeOllama) -> AsyncIterator[int]:
    engines = {"ollama-1": EngineAddress("127.0.0.1", engine.port)}
    relay = Relay(KEY, engines.get)
    yield await relay.start(0, host="127.0.0.1")
    await relay.close()


@pytest.fixture
def rejected() -> int:
    """A port that refuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def dropped() -> Iterator[int]:
    """A port that does not answer: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(deaf.getsockname())
        yield int(deaf.getsockname()[1])


def endpoint(port: int, relay_port: int) -> Endpoint:
    return Endpoint("127.0.0.1", port, detour=Detour(relay_port, "ollama-1", KEY))


async def version(upstream: Upstream, where: Endpoint) -> int:
    return (await ask(upstream, where, b"GET", b"/api/version")).status


@pytest.mark.parametrize("kind", ["rejected", "dropped"])
async def test_the_relay_is_the_other_way(
    request: pytest.FixtureRequest,
    relay_port: int,
    engine: FakeOllama,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DIRECT_S", 0.3)
    where = endpoint(request.getfixturevalue(kind), relay_port)
    upstream = Upstream(5)
    assert await version(upstream, where) == 200
    begun_s = monotonic_s()
    assert await version(upstream, where) == 200  # and taken at once the next time
    assert monotonic_s() - begun_s < 0.29
    assert len(engine.state.requests) == 2


async def test_the_direct_way_is_taken_where_it_is_open(engine: FakeOllama, rejected: int) -> None:
    assert await version(Upstream(5), endpoint(engine.port, rejected)) == 200


async def test_the_direct_way_is_tried_again(
    engine: FakeOllama, relay_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(5)
    await engine.server.refuse()
    where = endpoint(engine.port, relay_port)
    with pytest.raises(UpstreamFailed):
        await version(upstream, where)  # neither way: the engine is gone
    await engine.server.start()
    assert await version(upstream, where) == 200
    monkeypatch.setattr(module, "DETOUR_S", 0.0)
    assert await version(upstream, where) == 200


@pytest.mark.parametrize("kind", ["rejected", "dropped"])
async def test_when_neither_way_is_open(
    request: pytest.FixtureRequest, rejected: int, kind: str
) -> None:
    """The time to connect is as long as without another way."""
    begun_s = monotonic_s()
    with pytest.raises(UpstreamFailed) as failed:
        await version(Upstream(0.6), endpoint(request.getfixturevalue(kind), rejected))
    assert failed.value.outcome is OutcomeKind.UNREACHABLE
    assert in_time(monotonic_s() - begun_s, 2)


async def test_a_wrong_key_is_told(engine: FakeOllama, relay_port: int, rejected: int) -> None:
    where = Endpoint("127.0.0.1", rejected, detour=Detour(relay_port, "ollama-1", "wrong"))
    with pytest.raises(UpstreamFailed) as failed:
        await asyncio.wait_for(version(Upstream(5), where), 5)
    assert failed.value.outcome is OutcomeKind.UNREACHABLE
