"""How the router gets to an engine, on real sockets."""

import socket

import pytest

from ollama_herd.agent.reach import (
    address_towards,
    connects,
    find_reach,
    is_loopback,
    is_this_machine,
    own_addresses,
)
from ollama_herd.core.node import Reach
from ollama_herd.engines.address import EngineAddress


def listening(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family)


def own_other_address() -> str:
    """An address of this machine beside loopback that takes connections; skips without one."""
    for address in sorted(own_addresses()):
        if not is_loopback(address) and not address.startswith("fe80"):
            try:
                listening(address).close()
            except OSError:
                continue
            return address
    return pytest.skip("this machine has loopback only")


async def test_an_engine_on_loopback_is_reached_through_the_relay() -> None:
    with listening("127.0.0.1") as engine:
        address = EngineAddress("127.0.0.1", engine.getsockname()[1])
        assert await find_reach(address, "") is Reach.LOOPBACK
        assert await find_reach(address, "127.0.0.1") is Reach.LOOPBACK


async def test_from_elsewhere_a_loopback_engine_is_loopback_and_an_open_one_lan() -> None:
    own = own_other_address()
    with listening("127.0.0.1") as engine:
        address = EngineAddress("127.0.0.1", engine.getsockname()[1])
        assert await find_reach(address, own) is Reach.LOOPBACK
    with listening("0.0.0.0") as engine:
        address = EngineAddress("127.0.0.1", engine.getsockname()[1])
        assert await find_reach(address, own) is Reach.LAN


async def test_a_local_router_cannot_reach_what_is_not_on_its_loopback() -> None:
    own = own_other_address()
    with listening(own) as engine:
        address = EngineAddress(own, engine.getsockname()[1])
        assert await find_reach(address, "127.0.0.1") is Reach.REMOTE
        assert await find_reach(address, own) is Reach.LAN


async def test_another_machine_is_remote() -> None:
    assert await find_reach(EngineAddress("203.0.113.1", 11434), "") is Reach.REMOTE
    assert await find_reach(EngineAddress("a..b", 1), "") is Reach.REMOTE


async def test_own_names_and_addresses_are_this_machine() -> None:
    assert await is_this_machine("localhost")
    assert await is_this_machine("127.0.0.1")
    for address in own_addresses():
        assert await is_this_machine(address)
    assert not await is_this_machine("203.0.113.1")


async def test_a_port_without_a_listener_does_not_connect() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not await connects("127.0.0.1", unused.getsockname()[1])


async def test_the_address_towards_a_local_router_is_loopback() -> None:
    assert await address_towards("http://127.0.0.1:11435") == "127.0.0.1"
    assert await address_towards("http://a..b:1") == ""


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("name", False)],
)
def test_loopback_addresses(address: str, expected: bool) -> None:  # noqa: FBT001
    assert is_loopback(address) is expected
