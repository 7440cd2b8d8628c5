"""A herd of two nodes and, beside it, one engine that has all their models."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node
from tests.interop.engine import TaskOllama, catalogue, pullable, settings
from tests.interop.environments import run
from tests.interop.nowhere import Nowhere, nowhere


@dataclass
class Rig:
    """The same tasks go to `herd` and, to compare, to `alone`."""

    herd: Herd
    engines: tuple[TaskOllama, TaskOllama]
    alone: TaskOllama
    nowhere: Nowhere

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.herd.port}"

    def run(
        self,
        command: Sequence[str | Path],
        folder: Path,
        env: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 100,
    ) -> subprocess.CompletedProcess[str]:
        """A client to its end, with no way out of this machine."""
        return run(command, folder, {**self.nowhere.env, **(env or {})}, timeout_s)

    def settled(self) -> None:
        """No client has left a request behind on any engine, or asked for anything else."""
        assert not self.nowhere.taken()
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
        nowhere() as door,
        Herd(folder).ready() as herd,
    ):
        url, slots = f"http://127.0.0.1:{herd.port}", {"HERD_NODE_SLOTS": "4"}
        with (
            Node(folder, "a", url, [first.url], env=slots),
            Node(folder, "b", url, [second.url], env=slots),
        ):
            herd.wait_models("llama3.1:latest", "gpt-oss:20b", "nomic-embed-text:latest")
            herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
            yield Rig(herd, (first, second), alone, door)


@pytest.fixture
def rig(standing_rig: Rig) -> Iterator[Rig]:
    yield standing_rig
    standing_rig.settled()
