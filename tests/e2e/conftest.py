"""A herd of two nodes for all tests of a session that do not break it, fakes as its engines."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from ollama_herd.core.node import NodeStatus
from tests.e2e.processes import Herd, Node
from tests.fakes.models import embedding_model, model, recorded_models
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, Response, call
from tests.fakes.state import Settings


@dataclass
class Pair:
    """A router and two nodes. `shared` models are on both, `only-a` and `only-b` on one each."""

    herd: Herd
    nodes: tuple[Node, Node]
    engines: tuple[FakeOllama, FakeOllama]
    clients: list[Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.herd.port

    def engine(self, name: str) -> FakeOllama:
        """The engine of node `a` or `b`."""
        return self.engines[0] if name == "a" else self.engines[1]

    def call(self, method: str, path: str, body: object = None, **more: object) -> Response:
        """Through the router."""
        return self.herd.call(method, path, body, **more)  # type: ignore[arg-type]

    def direct(self, name: str, method: str, path: str, body: object = None) -> Response:
        """Straight to the engine of a node."""
        return call(self.engine(name).port, method, path, body)

    def open(self, path: str, body: object) -> Client:
        """A request under way through the router; closed after the test at the latest."""
        client = Client(self.port)
        self.clients.append(client)
        client.ask("POST", path, body)
        return client


def engines() -> tuple[FakeOllama, FakeOllama]:
    """Two fakes: the recorded models and an embedder on both, one model of its own on each."""
    shared = (*recorded_models(), embedding_model("nomic-embed-text"))
    return (
        FakeOllama([*shared, model("only-a")], Settings(is_frozen=True, num_parallel=4)),
        FakeOllama([*shared, model("only-b")], Settings(is_frozen=True, num_parallel=4)),
    )


@pytest.fixture(scope="session")
def standing_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    first, second = engines()
    with first.in_thread(), second.in_thread(), Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        slots = {"HERD_NODE_SLOTS": "4"}
        with (
            Node(folder, "a", url, [first.url], env=slots) as node_a,
            Node(folder, "b", url, [second.url], env=slots) as node_b,
        ):
            herd.wait_models("tiny:latest", "only-a:latest", "only-b:latest")
            yield Pair(herd, (node_a, node_b), (first, second))


@pytest.fixture
def pair(standing_pair: Pair) -> Iterator[Pair]:
    """The standing herd with healthy engines; afterwards both nodes must still be there."""
    for engine in standing_pair.engines:
        engine.reset(Settings(is_frozen=True, num_parallel=4))
    processes = (standing_pair.herd, *standing_pair.nodes)
    before = [len(process.log()) for process in processes]
    yield standing_pair
    while standing_pair.clients:
        standing_pair.clients.pop().close()
    for engine in standing_pair.engines:
        engine.heal()
        engine.wait_for(lambda c: c.in_flight == 0, 5, "all requests to have left the engine")
    standing_pair.herd.check_alive()
    usable = [n for n in standing_pair.herd.status()["nodes"] if n["status"] != NodeStatus.OFFLINE]
    assert len(usable) == 2
    for process, length in zip(processes, before, strict=True):
        assert "Traceback" not in process.log()[length:]
