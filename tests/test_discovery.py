"""mDNS: found on loopback, followed when it moves, and found across a real network."""

import asyncio
import ipaddress
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator

import pytest

from ollama_herd.discovery import (
    Advertisement,
    RouterBrowser,
    best_address,
    own_interfaces,
    shown_addresses,
)

LOOPBACK = ["127.0.0.1"]
DEADLINE_S = 15.0


def advertise(port: int, router_id: str, interfaces: list[str] | None = None) -> Advertisement:
    return Advertisement(
        name="test.lan",
        port=port,
        version="1",
        router_id=router_id,
        interfaces=interfaces or LOOPBACK,
    )


async def within(work: Awaitable[str]) -> str:
    return await asyncio.wait_for(work, DEADLINE_S)


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not claim():  # noqa: ASYNC110 - what it looks at has no event to wait for
            await asyncio.sleep(0.02)


@pytest.fixture
def router_id() -> str:
    """Sorts before those of other tests that may run at the same time on this loopback."""
    return f"0-{uuid.uuid4().hex}"


async def test_found_on_loopback_whoever_starts_first(router_id: str) -> None:
    async with RouterBrowser(interfaces=LOOPBACK) as early:
        async with advertise(4001, router_id):
            assert await within(early.next()) == "http://127.0.0.1:4001"
            async with RouterBrowser(interfaces=LOOPBACK) as late:
                assert late.url == ""
                assert await within(late.next()) == "http://127.0.0.1:4001"
                assert late.url == "http://127.0.0.1:4001"
        await until(lambda: early.url == "")


async def test_a_router_that_comes_back_elsewhere_is_followed(router_id: str) -> None:
    async with RouterBrowser(interfaces=LOOPBACK) as browser:
        async with advertise(4002, router_id):
            assert await within(browser.next()) == "http://127.0.0.1:4002"
        async with advertise(4003, router_id):
            assert await within(browser.next()) == "http://127.0.0.1:4003"


async def test_stays_with_its_router_until_that_goes(router_id: str) -> None:
    async with RouterBrowser(interfaces=LOOPBACK) as browser, advertise(4004, f"1{router_id}"):
        assert await within(browser.next()) == "http://127.0.0.1:4004"
        async with advertise(4005, router_id):
            await until(lambda: len(browser.urls) > 1)
            assert browser.url == "http://127.0.0.1:4004"
            browser.give_up("http://127.0.0.1:4004")
            assert await within(browser.next()) == "http://127.0.0.1:4005"
        assert await within(browser.next()) == "http://127.0.0.1:4004"


async def test_giving_up_the_only_router_tries_it_again(router_id: str) -> None:
    async with advertise(4006, router_id), RouterBrowser(interfaces=LOOPBACK) as browser:
        url = await within(browser.next())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(browser.next(), 0.05)
        browser.give_up(url)
        assert await within(browser.next()) == url


async def test_a_router_needs_only_its_port() -> None:
    async with (
        RouterBrowser(interfaces=LOOPBACK) as browser,
        Advertisement(port=4008, interfaces=LOOPBACK),
    ):
        assert await within(browser.next()) == "http://127.0.0.1:4008"


async def test_without_a_network_both_enter_and_leave(router_id: str) -> None:
    nowhere = ["192.0.2.1"]  # TEST-NET-1: no interface has it
    async with advertise(4007, router_id, nowhere), RouterBrowser(interfaces=nowhere) as browser:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(browser.next(), 0.1)


OWN = tuple(
    ipaddress.IPv4Interface(text)
    for text in ("127.0.0.1/8", "172.17.0.1/16", "192.168.1.7/24", "169.254.3.3/16")
)


@pytest.mark.parametrize(
    ("announced", "best"),
    [
        (["10.0.0.5"], "10.0.0.5"),
        (["10.0.0.5", "192.168.1.5"], "192.168.1.5"),
        (["172.17.0.1", "10.0.0.5"], "10.0.0.5"),
        (["172.17.0.1", "192.168.1.7"], "172.17.0.1"),
        (["169.254.9.9", "192.168.1.5"], "192.168.1.5"),
        (["127.0.0.1"], "127.0.0.1"),
        ([], ""),
    ],
)
def test_the_address_that_is_most_likely_reached(announced: list[str], best: str) -> None:
    assert best_address(announced, OWN) == best


def test_loopback_is_shown_only_when_there_is_nothing_else() -> None:
    assert shown_addresses(OWN) == ("172.17.0.1", "192.168.1.7", "169.254.3.3")
    assert shown_addresses(OWN[:1]) == ("127.0.0.1",)


def test_own_interfaces_has_loopback() -> None:
    assert "127.0.0.1" in {str(item.ip) for item in own_interfaces()}
    assert own_interfaces(["192.0.2.1"]) == ()


SPACES = ("herd-test-a", "herd-test-b")

ANNOUNCE = """
import asyncio, sys
from ollama_herd.discovery import Advertisement
async def main():
    async with Advertisement(name="far", port=4100, version="1", router_id="far"):
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""

FIND = """
import asyncio
from ollama_herd.discovery import RouterBrowser
async def main():
    async with RouterBrowser() as browser:
        print(await asyncio.wait_for(browser.next(), 20), flush=True)
asyncio.run(main())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@pytest.fixture
def two_machines() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces joined by a cable; gives the prefix that runs a command in each."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs Linux, root and the command ip")
    one, other = (f"{space}-{os.getpid()}" for space in SPACES)
    try:
        ip("netns", "add", one)
        ip("netns", "add", other)
        ip("link", "add", "herd0", "netns", one, "type", "veth", "peer", "herd0", "netns", other)
        for space, address in ((one, "10.254.77.1/24"), (other, "10.254.77.2/24")):
            ip("-n", space, "address", "add", address, "dev", "herd0")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", "herd0", "up")
            ip("-n", space, "route", "add", "224.0.0.0/4", "dev", "herd0")
        yield (["ip", "netns", "exec", one], ["ip", "netns", "exec", other])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not possible here: {error.stderr.decode().strip()}")
    finally:
        for space in (one, other):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


@pytest.mark.netns
def test_found_between_two_machines(two_machines: tuple[list[str], list[str]]) -> None:
    there, here = two_machines
    router = subprocess.Popen([*there, sys.executable, "-c", ANNOUNCE], stdin=subprocess.PIPE)
    try:
        found = subprocess.run(
            [*here, sys.executable, "-c", FIND],
            check=False,
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert found.stdout.strip() == "http://10.254.77.1:4100", found.stderr
        router.communicate(timeout=10)
        assert router.returncode == 0
    finally:
        router.kill()
        router.wait()
