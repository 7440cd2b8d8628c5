"""The stream of changes: a snapshot, then only what changed, bounded for those who do not read."""

import asyncio
import json
from typing import Any

import pytest

from ollama_herd.router import feed as feed_module
from ollama_herd.router.feed import KEPT_EVENTS, MAX_SUBSCRIBERS, PING, Feed, Subscription


def read(event: bytes | None) -> tuple[str, dict[str, Any]]:
    assert event is not None
    head, data, rest = event.split(b"\n", 2)
    assert rest == b"\n"
    return head.removeprefix(b"event: ").decode(), json.loads(data.removeprefix(b"data: "))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "PERIOD_S", 0.005)


def subscribed(feed: Feed) -> Subscription:
    subscription = feed.try_subscribe()
    assert subscription is not None
    return subscription


async def test_a_snapshot_and_then_what_changed() -> None:
    parts = {"a": b"1", "b": b"2"}
    feed = Feed(lambda: dict(parts))
    browser = subscribed(feed)
    kind, first = read(await browser.next())
    assert (kind, first["set"], first["gone"]) == ("snapshot", {"a": 1, "b": 2}, [])
    parts["b"] = b'{"x":3}'
    del parts["a"]
    parts["c"] = b"4"
    kind, second = read(await browser.next())
    assert kind == "delta"
    assert (second["set"], second["gone"]) == ({"b": {"x": 3}, "c": 4}, ["a"])
    assert second["seq"] == first["seq"] + 1
    await feed.close()


async def test_nothing_is_sent_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "PING_S", 0.05)
    feed = Feed(lambda: {"a": b"1"})
    browser = subscribed(feed)
    assert read(await browser.next())[0] == "snapshot"
    assert await browser.next() == PING
    await feed.close()


async def test_one_who_does_not_read_starts_anew() -> None:
    count = 0

    def parts() -> dict[str, bytes]:
        nonlocal count
        count += 1
        return {"n": b"%d" % count}

    feed = Feed(parts)
    slow, quick = subscribed(feed), subscribed(feed)
    assert read(await slow.next())[0] == "snapshot"
    assert read(await quick.next())[0] == "snapshot"
    last = 0
    for _ in range(KEPT_EVENTS + 5):
        kind, content = read(await quick.next())
        assert (kind, content["seq"] > last) == ("delta", True)
        last = content["seq"]
    kind, content = read(await slow.next())
    assert kind == "snapshot"
    assert content["seq"] >= last
    kind, after = read(await slow.next())
    assert (kind, after["seq"]) == ("delta", content["seq"] + 1)
    await feed.close()


async def test_nobody_follows_nobody_looks() -> None:
    looks = 0

    def parts() -> dict[str, bytes]:
        nonlocal looks
        looks += 1
        return {"n": b"%d" % looks}

    feed = Feed(parts)
    browser = subscribed(feed)
    await browser.next()
    browser.leave()
    await asyncio.sleep(0.02)
    seen = looks
    await asyncio.sleep(0.05)
    assert looks == seen
    again = subscribed(feed)
    assert read(await again.next())[0] == "snapshot"
    await feed.close()


async def test_closing_ends_every_wait() -> None:
    feed = Feed(lambda: {"a": b"1"})
    browsers = [subscribed(feed) for _ in range(50)]
    for browser in browsers:
        await browser.next()
    waiting = [asyncio.ensure_future(browser.next()) for browser in browsers]
    await asyncio.sleep(0)
    await feed.close()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [None] * 50
    assert feed.try_subscribe() is None
    assert feed.subscribers == 0


async def test_subscribers_are_bounded() -> None:
    feed = Feed(lambda: {"a": b"1"})
    browsers = [subscribed(feed) for _ in range(MAX_SUBSCRIBERS)]
    assert feed.try_subscribe() is None
    browsers[0].leave()
    assert feed.try_subscribe() is not None
    await feed.close()
