"""A herd of two nodes and, beside it, one engine that has all their models."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.processes import Herd, Node
from tests.interop.engine import TaskOllama, catalogue, pullable, settings


@dataclass
class Rig:
    """The same tasks go to `herd` and, to compare, to `alone`."""

    herd: Herd
    engines: tuple[TaskOllama, TaskOllama]
    alone: TaskOllama

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.herd.port}"

    def settled(self) -> None:
        """No client has left a request behind on any engine."""
        for engine in (*self.engines, self.alone):
            engine.wait_for(lambda c: c.in_flight == 0, 5, "all requests to have left the engine")
        self.herd.check_alive()
        assert "Traceback" not in self.herd.log()


@pytest.fixture(scope="session")
def standing_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("interop")
    first, second, alone = (
        TaskOllama(catalogue(), registry=[pullable()], settings=settings()) for _ in range(3)
    )
    with (
        first.in_thread(),
        second.in_thread(),
        alone.in_thread(),
        Herd(folder).ready() as herd,
    ):
        url, slots = f"http://127.0.0.1:{herd.port}", {"HERD_NODE_SLOTS": "4"}
        with (
            Node(folder, "a", url, [first.url], env=slots),
            Node(folder, "b", url, [second.url], env=slots),
        ):
            herd.wait_models("llama3.1:latest", "gpt-oss:20b", "nomic-embed-text:latest")
            herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
            yield Rig(herd, (first, second), alone)


@pytest.fixture
def rig(standing_rig: Rig) -> Iterator[Rig]:
    yield standing_rig
    standing_rig.settled()
