"""A load ahead of requests, from the plan to the engine and back."""

import asyncio
import json
from datetime import UTC, datetime

import msgspec

from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.fleet import Fleet, NodeReported, apply
from ollama_herd.core.node import Reach
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.routing import RouteDecision
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.preload import Preloads
from ollama_herd.router.upstream import Upstream
from ollama_herd.tasks import cancel_and_wait, spawn
from tests.core import fleets
from tests.fakes import raw
from tests.fakes.models import model as fake_model
from tests.fakes.ollama import FakeOllama

NAME = "m:latest"


def told(node_id, port, loaded):
    """So large that nobody would go where it has to be loaded first."""
    one = fleets.engine([fleets.model(NAME, size_gb=120.0)], loaded)
    one = msgspec.structs.replace(one, port=port, reach=Reach.LAN)
    return fleets.report(node_id, [one], free_gb=400.0, total_gb=512.0)


async def planned(engine: FakeOllama, then, **asked) -> list[tuple[str, str, bytes]]:
    """What the engine of the idle node was asked until `then(dispatcher)` holds."""
    dispatcher = Dispatcher(Scheduler(QueueSettings(), Predictor()))
    upstream = Upstream(2.0)
    dispatcher.load_with(Preloads(upstream, dispatcher).start)
    fleet = Fleet()
    for report in (told("a", 9, [NAME]), told("b", engine.port, [])):
        fleet = apply(fleet, NodeReported(report, "127.0.0.1"), 0.0)
    dispatcher.fleet_changed(fleet)
    requests = (fleets.request(NAME, prompt_tokens=4000, max_tokens=1, **asked) for _ in range(60))
    granted = [dispatcher.grant(request) for request in requests]
    tasks = [spawn(g, name="ask") for g in granted if not isinstance(g, RouteDecision)]
    await asyncio.sleep(0)
    dispatcher.tick()
    async with asyncio.timeout(10):
        while not then(dispatcher):  # noqa: ASYNC110 - an engine in another thread
            await asyncio.sleep(0.01)
    await cancel_and_wait(*tasks)
    upstream.close()
    return [(r[0], r[1], r[3]) for r in engine.state.requests]


async def test_an_empty_prompt_loads_and_the_slot_comes_back() -> None:
    with FakeOllama([fake_model("m")]).in_thread() as engine:
        asked = await planned(engine, lambda d: engine.state.requests and not _loads(d))
    assert [(method, path) for method, path, _ in asked] == [("POST", "/api/generate")]
    assert json.loads(asked[0][2]) == {"model": NAME, "stream": False}


async def test_a_load_asks_for_the_window_that_is_in_demand() -> None:
    wanted = (("num_ctx", 4096),)
    with FakeOllama([fake_model("m")]).in_thread() as engine:
        asked = await planned(
            engine, lambda d: engine.state.requests and not _loads(d), load_options=wanted
        )
    body = json.loads(asked[0][2])
    assert body == {"model": NAME, "stream": False, "options": dict(wanted)}


async def test_an_engine_that_refuses_costs_nothing() -> None:
    with FakeOllama([]).in_thread() as engine:
        asked = await planned(engine, lambda d: engine.state.requests and not _loads(d))
    assert len(asked) == 1


async def test_a_model_that_will_be_asked_for_is_used_once_more_before_it_goes() -> None:
    """Its past is played to the scheduler; what comes of it reaches an engine on a socket."""
    scheduler = Scheduler(QueueSettings(), Predictor())
    dispatcher, upstream = Dispatcher(scheduler), Upstream(2.0)
    dispatcher.load_with(Preloads(upstream, dispatcher).start)
    wide = (("num_ctx", 8192),)
    with FakeOllama([fake_model("m")]).in_thread() as engine:
        asked = {"model": "m", "prompt": "x", "stream": False, "options": dict(wide)}
        assert raw.call(engine.port, "POST", "/api/generate", asked).status == 200
        (runner,) = engine.runners.loaded.values()
        engine.state.requests.clear()
        begun_s = monotonic_s()
        last_s = begun_s - 280.0
        runner.expires_s = now_s() + 20.0
        fleet = _keeping(engine.port, runner.expires_s, at_s=last_s)
        for number in range(4, -1, -1):
            at_s = last_s - 420.0 * number
            request = fleets.request(NAME, at_s, load_options=wide)
            assert scheduler.on_request(request, fleet, at_s)
            scheduler.on_first_byte(request.request_id, at_s)
            scheduler.on_finished(request.request_id, OutcomeKind.COMPLETED, None, fleet, at_s)
        dispatcher.fleet_changed(_keeping(engine.port, runner.expires_s, at_s=begun_s))
        dispatcher.tick()
        async with asyncio.timeout(10):
            while not engine.state.requests or _loads(dispatcher):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        ((method, path, _, body),) = engine.state.requests
        assert (method, path) == ("POST", "/api/generate")
        assert json.loads(body) == {"model": NAME, "stream": False, "options": dict(wide)}
        assert engine.counters.loads == 1
        assert runner.keep_alive_s == 300.0
        assert runner.expires_s > now_s() + 290.0
    upstream.close()


def _keeping(port: int, expires_s: float, *, at_s: float) -> Fleet:
    one = fleets.engine([fleets.model(NAME)], [NAME], keep_alive="default")
    text = datetime.fromtimestamp(expires_s, UTC).isoformat().replace("+00:00", "Z")
    loaded = msgspec.structs.replace(one.loaded[0], expires_at=text, context_length=8192)
    one = msgspec.structs.replace(one, port=port, reach=Reach.LAN, loaded=(loaded,))
    report = fleets.report("a", [one], seq=int(at_s * 1000))
    return apply(Fleet(), NodeReported(report, "127.0.0.1"), at_s)


def _loads(dispatcher: Dispatcher) -> bool:
    return "load-1" in dispatcher._scheduler.load.running
