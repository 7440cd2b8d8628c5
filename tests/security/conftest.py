"""A herd with one node, on which attacks are tried."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Response, exchange
from tests.fakes.state import Settings

WELL_S = 20.0
"""For an engine that was held up by its own test, on a machine busy with others."""

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi"}], "stream": False}


@dataclass
class Target:
    """A router, its node, and the engine behind it."""

    herd: Herd
    node: Node
    engine: FakeOllama

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Response:
        """Through the router; header names with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.herd.call(method, path, body, named)

    def raw(self, data: bytes) -> Response:
        """These bytes on a connection of their own."""
        return exchange(self.herd.port, data, timeout_s=10)

    def is_well(self) -> bool:
        """Whether it still answers a chat. The engine shares this test's process, and may have been
        too busy for the agent to call it well.
        """
        try:
            wait_until(
                lambda: self.call("POST", "/api/chat", CHAT).status == 200, WELL_S, "an answer"
            )
        except TimeoutError:
            return False
        return True


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("target")
    engine = FakeOllama([model("tiny")], Settings(is_frozen=True, num_parallel=4))
    with engine.in_thread(), Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(folder, "a", url, [engine.url]) as node:
            herd.wait_models("tiny:latest")
            yield Target(herd, node, engine)
            assert "Traceback" not in herd.log()
            herd.check_alive()
