"""Pins that are changed by two people at once."""

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ollama_herd.core.at_once import Policy, scheduler
from ollama_herd.core.fleet import Fleet, restored
from ollama_herd.core.node import EngineKind, EngineReport, Model, Node, NodeStatus
from ollama_herd.core.pins import Pin
from ollama_herd.core.predict import Predictor
from ollama_herd.core.queue import QueueSettings
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.pins import PinAnswers


def fleet() -> Fleet:
    models = tuple(Model(name=f"{name}:latest") for name in ("one", "two"))
    engine = EngineReport("ollama-11434", EngineKind.OLLAMA, 11434, models=models)
    node = Node("a", "a", "127.0.0.1", NodeStatus.ONLINE, 1, 1, 0.0, 0.0, engines=(engine,))
    return restored([node], 0.0)


async def test_what_is_kept_last_is_what_holds() -> None:
    kept: list[tuple[Pin, ...]] = []
    is_first_kept, may_be_kept = asyncio.Event(), asyncio.Event()

    async def keep(pins: tuple[Pin, ...]) -> bool:
        if not is_first_kept.is_set():
            is_first_kept.set()
            await may_be_kept.wait()  # a thread whose turn comes late
        kept.append(pins)
        return True

    known = fleet()
    dispatcher = Dispatcher(scheduler(QueueSettings(), Predictor(), Policy.EXPECTED_COMPLETION))
    app = web.Application()
    PinAnswers(dispatcher, lambda: known, (), keep).add_routes(app)
    async with TestClient(TestServer(app)) as client:
        first = asyncio.ensure_future(client.post("/fleet/pins", json={"model": "one"}))
        await is_first_kept.wait()
        second = asyncio.ensure_future(client.post("/fleet/pins", json={"model": "two"}))
        async with asyncio.timeout(10):
            while len((await (await client.get("/fleet/pins")).json())["pins"]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        may_be_kept.set()
        assert [(await one).status for one in (first, second)] == [200, 200]
    assert [pin.model_key for pin in kept[-1]] == ["one:latest", "two:latest"]
