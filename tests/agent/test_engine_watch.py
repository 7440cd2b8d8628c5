"""Watching engines that live, hang, die and come back."""

import aiohttp
import pytest

from ollama_herd.agent import engine_watch as watch_module
from ollama_herd.agent.engine_watch import Engines, EngineWatch, Surroundings, engine_id
from ollama_herd.core.node import EngineKind, Reach
from ollama_herd.engines import probe as engine_module
from ollama_herd.engines.address import EngineAddress
from tests.agent.fake_engine import (
    LLAMACPP,
    OLLAMA,
    engine_running,
    json_answer,
    recorded,
    until,
)


class Notes:
    """What a watch said and how often it reported a change."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
async def around(notes):
    async with aiohttp.ClientSession() as session:
        yield Surroundings(session, None, notes.said.append, notes.changed)


async def test_ollama_is_found_out_and_reported(around, notes) -> None:
    async with engine_running(OLLAMA) as engine:
        watch = EngineWatch(engine.address, around)
        assert watch.report.error
        await watch.look()
        report = watch.report
        assert report.engine_id == f"ollama-{engine.port}"
        assert report.kind is EngineKind.OLLAMA
        assert report.port == engine.port
        assert report.reach is Reach.LOOPBACK
        assert report.version == "0.33.0-rc2"
        assert len(report.models) == 5
        assert report.loaded[0].name == "tiny:latest"
        assert report.error == ""
        expected = f"engine: Ollama 0.33.0-rc2 at {engine.address.netloc}, 5 models"
        assert notes.said == [expected]
        assert notes.changes == 1
        await watch.close()


async def test_llama_cpp_is_found_out_and_reported(around, notes) -> None:
    async with engine_running(LLAMACPP) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        assert watch.report.engine_id == f"openai-{engine.port}"
        assert watch.report.kind is EngineKind.OPENAI
        assert watch.report.slots == 2
        assert watch.report.loaded[0].context_length == 2048
        assert "b0-unknown" in notes.said[0]
        assert "1 model" in notes.said[0]
        await watch.close()


async def test_slots_of_the_settings_beat_what_the_engine_says(around) -> None:
    around.slots = 9
    async with engine_running(LLAMACPP) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        assert watch.report.slots == 9
        await watch.close()


async def test_slots_come_from_the_environment(around, monkeypatch) -> None:
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "3")
    monkeypatch.setenv("OLLAMA_MAX_LOADED_MODELS", "2")
    monkeypatch.setattr("ollama_herd.agent.engine_limits._of_systemd", lambda: None)
    async with engine_running(OLLAMA) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        await until(lambda: watch.report.slots == 3)
        assert watch.report.max_loaded == 2
        await watch.close()


async def test_the_environment_here_says_nothing_of_an_engine_elsewhere(
    around, monkeypatch
) -> None:
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "3")

    async def elsewhere(host: str) -> bool:
        return False

    monkeypatch.setattr(watch_module, "is_this_machine", elsewhere)
    async with engine_running(OLLAMA) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        await until(watch._reading.done)
        assert watch.report.slots is None
        await watch.close()


async def test_an_engine_that_dies_keeps_its_models_and_says_why_once(around, notes) -> None:
    async with engine_running(OLLAMA) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        models = watch.report.models
        await engine.stop()
        for _ in range(3):
            await watch.look()
        assert "nothing listens" in watch.report.error
        assert [model.name for model in watch.report.models] == [model.name for model in models]
        assert watch.report.loaded == ()
        assert len(notes.said) == 2
        assert notes.changes == 2
        await engine.start()
        engine.asked.clear()
        await watch.look()
        assert watch.report.error == ""
        assert watch.report.loaded
        assert "/api/tags" in engine.asked  # at once: it may have other models now
        assert len(notes.said) == 3
        await watch.close()


async def test_a_hung_engine_keeps_what_it_has_loaded(around, monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "PROBE_TIMEOUT_S", 0.1)
    async with engine_running(OLLAMA) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        engine.hanging.update(engine.answers)
        await watch.look()
        assert "may hang" in watch.report.error
        assert watch.report.loaded
        engine.hanging.clear()
        await watch.look()
        assert watch.report.error == ""
        await watch.close()


async def test_another_kind_of_engine_on_the_port_is_noticed(around) -> None:
    async with engine_running(OLLAMA) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        engine.answers = dict(LLAMACPP)
        await watch.look()
        assert "404" in watch.report.error
        await watch.look()
        assert watch.report.error == ""
        assert watch.report.engine_id == f"openai-{engine.port}"
        await watch.close()


async def test_a_router_is_no_engine(around, notes) -> None:
    herd = OLLAMA | {"/fleet/status": json_answer("{}")}
    async with engine_running(herd) as router, engine_running(OLLAMA) as own:
        watch = EngineWatch(router.address, around)
        await watch.look()
        assert "is the router of a herd" in watch.report.error
        watch = EngineWatch(router.address, around, fallback=own.address)
        await watch.look()
        assert watch.report.error == ""
        assert watch.address == own.address
        assert any(str(own.port) in line for line in notes.said)
        await watch.close()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({}, "is no engine"),
        ({"/v1/models": json_answer("{}", "503 X")}, "is loading"),
        ({"/v1/models": recorded("llamacpp_073_key_models_open")}, "API key"),
    ],
)
async def test_what_is_no_usable_engine_says_why(around, answers, reason: str) -> None:
    async with engine_running(answers) as engine:
        watch = EngineWatch(engine.address, around)
        await watch.look()
        assert reason in watch.report.error
        await watch.close()


async def test_engines_are_watched_on_their_own(around, monkeypatch) -> None:
    monkeypatch.setattr(watch_module, "LOOK_EVERY_S", 0.02)
    async with engine_running(OLLAMA) as healthy, engine_running(LLAMACPP) as hung:
        hung.hanging.update(hung.answers)
        engines = Engines([EngineWatch(item.address, around) for item in (healthy, hung)])
        engines.start()
        await until(lambda: healthy.asked.count("/api/ps") > 5)
        assert engines.reports()[0].error == ""
        assert engines.reports()[1].error
        assert engines.find(f"ollama-{healthy.port}") == healthy.address
        assert engines.find("nobody") is None
        await engines.close()
        asked = len(healthy.asked)
        assert hung.asked.count("/api/version") == 1  # never two at a time
        assert len(healthy.asked) == asked


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "ollama-1"), ("localhost", "ollama-1"), ("10.0.0.9", "ollama-10.0.0.9-1")],
)
def test_engine_ids(host: str, expected: str) -> None:
    assert engine_id(EngineKind.OLLAMA, EngineAddress(host, 1)) == expected
