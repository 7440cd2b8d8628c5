"""Two nodes that are as at the start before each test."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Pair
from tests.e2e.manage.catalogue import NEW, catalogue
from tests.e2e.processes import Herd, Node
from tests.fakes.manage import ManagedOllama, Pace
from tests.fakes.state import Settings


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("manage")
    settings = Settings(is_frozen=True, num_parallel=4)
    first = ManagedOllama(catalogue("only-a"), registry=[NEW], settings=settings)
    second = ManagedOllama(catalogue("only-b"), registry=[NEW], settings=settings)
    with first.in_thread(), second.in_thread(), Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with (
            Node(folder, "a", url, [first.url]) as node_a,
            Node(folder, "b", url, [second.url]) as node_b,
        ):
            herd.wait_models("tiny:latest", "only-a:latest", "only-b:latest")
            yield Pair(herd, (node_a, node_b), (first, second))


@pytest.fixture
def fleet(standing: Pair) -> Iterator[Pair]:
    """Both engines as at the start, and the router knows it."""
    changed = False
    for engine, own in zip(standing.engines, ("only-a", "only-b"), strict=True):
        assert isinstance(engine, ManagedOllama)
        engine.reset(Settings(is_frozen=True, num_parallel=4))
        engine.pace = Pace()
        engine.refuses.clear()
        engine.forget_recorded()
        if engine.models != {m.key: m for m in catalogue(own)}:
            changed = True
            engine.stock(catalogue(own))
    if changed:  # after a change the router reads the lists of the engines it has changed
        for node in ("a", "b"):
            made = {"model": "z", "from": "tiny-b", "node": node, "stream": False}
            assert standing.call("POST", "/api/create", made).json() == {"status": "success"}
        assert standing.call("DELETE", "/api/delete", {"model": "z"}).status == 200
    for engine in standing.engines:
        assert isinstance(engine, ManagedOllama)
        engine.calls.clear()
        engine.state.requests.clear()
    yield standing
    standing.herd.check_alive()
