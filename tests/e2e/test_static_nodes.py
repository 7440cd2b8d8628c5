"""Engines that the router's settings name, on machines without an agent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, Running, free_port, wait_until
from tests.e2e.real import GGUF, NEEDS_ENGINE, SERVE
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings

CHAT = {"model": "m1", "messages": [{"role": "user", "content": "x"}], "stream": False}


def fake(port: int = 0, *names: str) -> FakeOllama:
    return FakeOllama([model(name) for name in names or ("m1",)], Settings(token_ms=1), port=port)


def herd(folder: Path, *engines: str, **env: str) -> Herd:
    return Herd(folder, env={"HERD_ENGINE": ",".join(engines), **env}).ready()


def test_an_engine_without_an_agent_answers(tmp_path: Path) -> None:
    with fake().in_thread() as engine, herd(tmp_path, f"shed={engine.url}") as router:
        router.wait_models("m1:latest")
        node = router.node("shed")
        assert node is not None
        assert (node["has_agent"], node["agent_version"]) == (False, "")
        assert node["vitals"].get("memory_total_bytes", 0) == 0
        answer = router.call("POST", "/api/chat", CHAT)
        assert answer.status == 200
        assert answer.header("x-herd-node") == "shed"
        assert [m["name"] for m in router.call("GET", "/api/tags").json()["models"]] == [
            "m1:latest"
        ]
        loaded = lambda: router.node("shed")["engines"][0]["loaded"] == ["m1:latest"]  # noqa: E731
        wait_until(loaded, 10, "the load to be seen")
        assert router.call("POST", "/api/copy", {"source": "m1", "destination": "m2"}).status == 200
        router.wait_models("m1:latest", "m2:latest")


def test_one_engine_dies_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with fake(0, "m1").in_thread() as other:
        with fake(port, "m1", "own").in_thread() as first:
            router = herd(tmp_path, f"first={first.url}", f"other={other.url}")
            router.wait_models("m1:latest", "own:latest")
        with router:
            for _ in range(5):
                assert router.call("POST", "/api/chat", CHAT).header("x-herd-node") == "other"
            router.wait_node("first", "offline", 15)
            refused = router.call("POST", "/api/chat", {**CHAT, "model": "own"})
            assert refused.status == 503
            assert b"own" in refused.body
            with fake(port, "m1", "own").in_thread():
                router.wait_node("first", "online", 30)
                served = router.call("POST", "/api/chat", {**CHAT, "model": "own"})
                assert served.header("x-herd-node") == "first"


def test_an_engine_that_never_answered_is_shown_with_the_reason(tmp_path: Path) -> None:
    port = free_port()
    with herd(tmp_path, f"shed=127.0.0.1:{port}", "nowhere=http://no.such.host.invalid") as router:
        router.wait_status(lambda status: len(status["nodes"]) == 2, "both nodes")
        shed, nowhere = router.node("shed"), router.node("nowhere")
        assert shed is not None
        assert nowhere is not None
        assert shed["engines"][0]["error"].startswith(f"nothing listens at 127.0.0.1:{port}")
        assert "there is no address for 'no.such.host.invalid'" in nowhere["engines"][0]["error"]
        router.wait_node("shed", "offline", 15)
        health = lambda: router.call("GET", "/dashboard/api/health").body  # noqa: E731
        wait_until(lambda: b"is taken out of `engine`" in health(), 15, "advice that helps")


def test_a_node_goes_with_its_setting(tmp_path: Path) -> None:
    with fake().in_thread() as engine:
        with herd(tmp_path, f"shed={engine.url}") as router:
            router.wait_models("m1:latest")
            assert router.terminate()[0] == 0
        with herd(tmp_path) as router:
            assert router.status()["nodes"] == []


def test_an_agent_takes_its_engine_over(tmp_path: Path) -> None:
    with fake().in_thread() as engine, herd(tmp_path, f"shed={engine.url}") as router:
        router.wait_models("m1:latest")
        with Node(tmp_path, "agent", f"http://127.0.0.1:{router.port}", [engine.url]):
            names = lambda: [node["name"] for node in router.status()["nodes"]]  # noqa: E731
            wait_until(lambda: names() == ["agent"], 15, "the agent to be the only node")
            assert router.call("POST", "/api/chat", CHAT).header("x-herd-node") == "agent"
        router.wait_node("agent", "offline", 15)
        router.wait_node("shed", "online", 15)


def test_no_agent_may_speak_for_one(tmp_path: Path) -> None:
    with fake().in_thread() as engine, herd(tmp_path, f"shed={engine.url}") as router:
        router.wait_models("m1:latest")
        report = {"node_id": f"static:127.0.0.1:{engine.port}", "boot": 2**60, "seq": 1}
        report |= {"platform": {}, "vitals": {}, "engines": [], "name": "thief"}
        key = {"Authorization": "Bearer thief"}
        answer = router.call("POST", "/fleet/heartbeat", report, key)
        assert answer.status == 403
        assert b"are of engines in the router's settings" in answer.body
        assert router.node("thief") is None
        assert router.call("POST", "/api/chat", CHAT).header("x-herd-node") == "shed"


def test_a_router_is_no_engine(tmp_path: Path) -> None:
    port = free_port()
    env = {"HERD_ENGINE": f"self=127.0.0.1:{port}"}
    with Herd(tmp_path, port=port, env=env).ready() as router:
        router.wait_status(lambda status: bool(status["nodes"]), "the node")
        wait_until(lambda: "is the router of a herd" in str(router.node("self")), 15, "the reason")


def test_a_drained_one_gets_nothing_and_may_be_renamed(tmp_path: Path) -> None:
    with fake().in_thread() as engine, herd(tmp_path, f"shed={engine.url}") as router:
        router.wait_models("m1:latest")
        assert router.call("POST", "/fleet/nodes/shed/drain").status == 200
        assert router.call("POST", "/api/chat", CHAT).status == 503
        assert router.call("POST", "/fleet/nodes/shed/undrain").status == 200
        assert router.call("POST", "/api/chat", CHAT).status == 200


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("https://gpu.lan:443", "an engine is reached over plain http://HOST:PORT"),
        ("=http://gpu.lan", "has no name before '='"),
        ("http://gpu.lan/api", "should have no path"),
        ("a=gpu.lan,b=gpu.lan:11434", "is given twice"),
        ("http://gpu.lan:99999", "port"),
    ],
)
def test_a_wrong_url_is_an_error_that_names_it(tmp_path: Path, value: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ollama_herd.cli.herd", "--port", "0", "--no-mdns"],
        env={**os.environ, "HERD_HOME": str(tmp_path), "HERD_ENGINE": value},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "HERD_ENGINE" in done.stderr
    assert words in done.stderr


class TestRealEngine:
    """llama.cpp's server with a real small model."""

    pytestmark = NEEDS_ENGINE

    def test_answers_without_an_agent(self, tmp_path: Path) -> None:
        url_file = tmp_path / "engine.url"
        arguments = ["--model", GGUF, "--alias", "smollm2", "--url-file", str(url_file)]
        with Running("engine", ["-c", SERVE, *arguments], tmp_path, {}):
            wait_until(url_file.exists, 60, "the engine to load its model")
            with herd(tmp_path, f"shed={url_file.read_text().strip()}") as router:
                router.wait_models("smollm2")
                question = "What is the capital of France? Answer in one word."
                body = {
                    "model": "smollm2",
                    "messages": [{"role": "user", "content": question}],
                    "options": {"temperature": 0, "num_predict": 24},
                    "stream": False,
                }
                answer = router.call("POST", "/api/chat", body, timeout_s=90)
                assert answer.header("x-herd-node") == "shed"
                assert "Paris" in answer.json()["message"]["content"]
