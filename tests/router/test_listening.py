"""New clients do not wait in line while the loop is busy with others."""

import asyncio
import socket
from contextlib import ExitStack
from typing import cast

import pytest

from ollama_herd.router.listening import listen

CLIENTS = 64


class Greeter(asyncio.Protocol):
    """Tells each client that it is in."""

    def __init__(self, accepted: list[asyncio.BaseTransport]) -> None:
        self.accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(b"in")
        self.accepted.append(transport)


async def turns_until_all_are_in() -> int:
    """Turns of the loop it takes to let in clients that all came while it was busy."""
    accepted: list[asyncio.BaseTransport] = []
    listening = await listen(lambda: Greeter(accepted), "127.0.0.1", 0)
    address = ("127.0.0.1", listening.port)
    turns = 0
    with ExitStack() as opened:
        opened.callback(listening.close)
        clients = [socket.create_connection(address, timeout=5) for _ in range(CLIENTS)]
        for client in clients:
            opened.enter_context(client)
        while len(accepted) < CLIENTS and turns < 10 * CLIENTS:
            await asyncio.sleep(0)
            turns += 1
        for transport in accepted:
            opened.callback(transport.close)
            taken = transport.get_extra_info("socket")
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        heard = await asyncio.to_thread(lambda: [client.recv(8) for client in clients])
        assert heard == [b"in"] * CLIENTS
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    return turns


@pytest.mark.parametrize("name", ["uvloop", "asyncio"])
def test_waiting_clients_come_in_many_at_a_time(name: str) -> None:
    loops = pytest.importorskip(name)
    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        assert runner.run(turns_until_all_are_in()) < CLIENTS / 4


async def heard_at(address: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return await reader.readexactly(2)
    finally:
        writer.close()


async def both_kinds_of_address() -> None:
    accepted: list[asyncio.BaseTransport] = []
    listening = await listen(lambda: Greeter(accepted), "::", 0)
    try:
        assert await heard_at("127.0.0.1", listening.port) == b"in"
        assert await heard_at("::1", listening.port) == b"in"
    finally:
        for transport in accepted:
            transport.close()
        listening.close()
        await asyncio.sleep(0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="one kind of address here")
@pytest.mark.parametrize("name", ["uvloop", "asyncio"])
def test_every_address_is_every_address(name: str) -> None:
    loops = pytest.importorskip(name)
    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(both_kinds_of_address())
