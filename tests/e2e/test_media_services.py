"""Pictures made by commands on the nodes themselves: queued, cancelled, made elsewhere."""

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kitchen import environment, fetch, install, is_running
from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.media import png
from tests.fakes.raw import Client
from tests.pace import in_time

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are POSIX scripts")

MODEL = "z-image-turbo"
ENGINE = "http://127.0.0.1:9"
"""Nothing listens there: these nodes have services only."""


class Machine:
    """A node with a stand-in for mflux; `step_s` is how slow it is."""

    def __init__(self, folder: Path, name: str, url: str, step_s: float = 0.0) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        install(self.folder, "mflux-generate-z-image-turbo")
        fetch(self.folder, "Tongyi-MAI/Z-Image-Turbo")
        env = environment(self.folder, STAND_IN_STEP_S=str(step_s))
        self.node = Node(self.folder, name, url, [ENGINE], env=env)

    def runs(self) -> list[dict[str, Any]]:
        log = self.folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def running(self) -> int:
        return sum(is_running(run["pid"]) for run in self.runs())


def body(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "a barn", "size": "64x64", "steps": 4, "seed": 3, **more}


@pytest.fixture
def herd(tmp_path: Path) -> Iterator[Herd]:
    with Herd(tmp_path).ready() as herd:
        yield herd
        assert "Traceback" not in herd.log()


def has(herd: Herd, count: int) -> None:
    herd.wait_status(
        lambda s: sum(MODEL in e["models"] for n in s["nodes"] for e in n["engines"]) == count,
        f"{count} nodes with {MODEL}",
        20,
    )


def test_pictures_queue_and_leave_with_their_clients(herd: Herd, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{herd.port}"
    machine = Machine(tmp_path, "mac", url, step_s=0.15)
    with machine.node:
        has(herd, 1)
        clients = [Client(herd.port) for _ in range(2)]
        for client in clients:
            client.ask("POST", "/v1/images/generations", body())
        wait_until(lambda: machine.running() == 1, 10, "a picture to begin")
        queue = herd.call("GET", "/fleet/queue").json()
        assert (queue["in_flight"], queue["waiting"]) == (1, 1)
        for client in clients:
            answer = client.read()
            assert answer.status == 200, answer.body
            picture = base64.b64decode(answer.json()["data"][0]["b64_json"])
            assert picture == png(64, 64, (3, 0, 0))
            assert answer.header("X-Herd-Node") == "mac"
            client.close()

        leaving = Client(herd.port)
        leaving.ask("POST", "/v1/images/generations", body(steps=200))
        wait_until(lambda: machine.running() == 1, 10, "the long picture to begin")
        herd.wait_status(
            lambda s: any("step" in one for one in s["nodes"][0]["vitals"].get("doing", ())),
            "the node to tell its progress",
        )
        leaving.close()
        wait_until(lambda: machine.running() == 0, 1.5, "the command to be gone")
        refused = herd.call("POST", "/v1/images/generations", body(quantize=7))
        assert refused.status == 400
        assert re.search(r"invalid choice: '?7", refused.json()["error"]["message"])
    assert machine.running() == 0


def test_progress_for_a_client_that_asks(herd: Herd, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "mac", f"http://127.0.0.1:{herd.port}", step_s=0.2)
    with machine.node:
        has(herd, 1)
        answer = herd.call("POST", "/v1/images/generations", body(stream=True, n=2))
        assert answer.header("Content-Type") == "text/event-stream"
        events = [json.loads(line[6:]) for line in answer.body.split(b"\n\n") if line]
        progress, made = events[:-2], events[-2:]
        assert (progress[-1]["step"], progress[-1]["steps"]) == (4, 4)
        assert [one["type"] for one in made] == ["image_generation.completed"] * 2
        pictures = [base64.b64decode(one["b64_json"]) for one in made]
        assert pictures == [png(64, 64, (seed, 0, 0)) for seed in (3, 4)]
        refused = herd.call("POST", "/v1/images/generations", body(stream=True, quantize=7))
        assert refused.status == 400
        trace = herd.call("GET", "/dashboard/api/traces?limit=5").json()
        assert "truncated" not in json.dumps(trace)


def test_a_node_that_dies_in_the_middle(herd: Herd, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{herd.port}"
    first, second = (Machine(tmp_path, name, url, step_s=0.5) for name in ("first", "second"))
    with first.node, second.node:
        has(herd, 2)
        client = Client(herd.port, timeout_s=30)
        client.ask("POST", "/v1/images/generations", body())
        wait_until(lambda: first.running() + second.running() == 1, 10, "the picture to begin")
        dying, other = (first, second) if first.running() else (second, first)
        dying.node.popen.kill()  # the agent alone, as when it crashes
        answer = client.read()
        client.close()
        assert answer.status == 200, answer.body
        assert answer.header("X-Herd-Node") == other.node.name
        assert answer.header("X-Herd-Attempts") == "2"
        wait_until(lambda: dying.running() == 0, 5, "nothing to be left on the dead node")


def test_an_agent_that_ends_ends_its_picture(herd: Herd, tmp_path: Path) -> None:
    machine = Machine(tmp_path, "mac", f"http://127.0.0.1:{herd.port}", step_s=30)
    with machine.node:
        has(herd, 1)
        client = Client(herd.port)
        client.ask("POST", "/v1/images/generations", body())
        wait_until(lambda: machine.running() == 1, 10, "the picture to begin")
        status, took_s = machine.node.terminate()
        client.close()
        assert (status, in_time(took_s, 5)) == (0, True), machine.node.log()
        assert machine.running() == 0
        assert list((machine.node.home / "pictures").glob("*")) == []
