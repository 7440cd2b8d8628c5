"""Clients with and without `num_ctx` on one machine: who has the model loaded anew, and who not."""

from collections.abc import Iterator

import pytest

from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import call
from tests.fakes.state import Settings

ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Herd, FakeOllama]]:
    folder = tmp_path_factory.mktemp("windows")
    with (
        FakeOllama([model("m")], Settings(load_ms=20)).in_thread() as engine,
        Herd(folder).ready() as herd,
        Node(folder, "n", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("m:latest")
        yield herd, engine


def ask(herd: Herd, path: str = "/api/chat", **fields: object) -> None:
    body = {"model": "m", "messages": ASK, "prompt": "hi", "stream": False, **fields}
    assert call(herd.port, "POST", path, body).status == 200


def test_a_window_somebody_asked_for_serves_the_others(small: tuple[Herd, FakeOllama]) -> None:
    herd, engine = small
    ask(herd, options={"num_ctx": 8192})
    before = engine.counters.loads
    for path in ("/api/chat", "/api/generate", "/api/chat"):
        ask(herd, path)
        ask(herd, path, options={"seed": 1})
    ask(herd, options={"num_ctx": 8192})
    assert engine.counters.loads == before


def test_what_a_client_names_is_what_it_gets(small: tuple[Herd, FakeOllama]) -> None:
    herd, engine = small
    ask(herd, options={"num_ctx": 8192})
    before = engine.counters.loads
    ask(herd, options={"num_ctx": 2048})
    assert engine.counters.loads == before + 1
    assert [runner.context_length for runner in engine.runners.loaded.values()] == [2048]


def test_v1_has_no_such_field_and_gets_the_default(small: tuple[Herd, FakeOllama]) -> None:
    herd, engine = small
    ask(herd, options={"num_ctx": 8192})
    before = engine.counters.loads
    ask(herd, "/v1/chat/completions")
    assert engine.counters.loads == before + 1


def test_a_window_that_is_none_is_refused_as_by_one_engine(
    small: tuple[Herd, FakeOllama],
) -> None:
    herd, engine = small
    ask(herd, options={"num_ctx": 8192})
    body = {"model": "m", "messages": ASK, "stream": False, "options": {"num_ctx": "big"}}
    told, direct = (call(port, "POST", "/api/chat", body) for port in (herd.port, engine.port))
    assert (told.status, told.body) == (direct.status, direct.body)
    assert told.status == 500
