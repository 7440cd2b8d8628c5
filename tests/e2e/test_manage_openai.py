"""Managing models where an engine speaks only the OpenAI dialect and manages its models itself."""

from collections.abc import Iterator

import pytest

from tests.e2e.processes import Herd, Node
from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.state import Settings

NAME = "smollm2-135m"


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder = tmp_path_factory.mktemp("manage-openai")
    settings = Settings(is_frozen=True)
    with (
        FakeOpenAI(NAME, settings, embeds=True).in_thread() as engine,
        Herd(folder).ready() as herd,
        Node(folder, "llama", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models(NAME)
        yield herd


def test_show_is_complete(herd: Herd) -> None:
    answer = herd.call("POST", "/api/show", {"model": NAME})
    assert (answer.status, answer.header("x-herd-node")) == (200, "llama")
    assert answer.header("content-type") == "application/json; charset=utf-8"
    shown = answer.json()
    real = parse_response(read(OLLAMA / "012_show.txt").response).json()
    assert set(shown) == set(real) - {"tensors"}
    assert set(shown["details"]) == set(real["details"])
    for key, value in shown.items():
        assert type(value) is type(real[key]), key
    architecture = shown["model_info"]["general.architecture"]
    assert isinstance(architecture, str)
    assert shown["model_info"].get(f"{architecture}.context_length", 1) > 0
    assert "completion" in shown["capabilities"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/delete", {"model": NAME}),
        ("POST", "/api/copy", {"source": NAME, "destination": "mine"}),
    ],
)
def test_its_models_are_its_own(herd: Herd, method: str, path: str, body: object) -> None:
    answer = herd.call(method, path, body)
    assert answer.status == 400
    assert "manages its models itself" in answer.json()["error"]
    assert "llama" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/api/pull", "/api/push", "/api/create"])
def test_there_is_no_ollama(herd: Herd, path: str) -> None:
    answer = herd.call("POST", path, {"model": "new"})
    assert answer.status == 503
    assert "no node with a running Ollama" in answer.json()["error"]


def test_a_node_without_ollama_can_be_named_in_vain(herd: Herd) -> None:
    answer = herd.call("POST", "/api/pull", {"model": "new", "node": "llama"})
    assert answer.status == 503
    assert answer.json()["error"] == "node 'llama' cannot be used now: it runs no Ollama"


def test_unload_is_answered(herd: Herd) -> None:
    answer = herd.call("POST", "/api/generate", {"model": NAME, "keep_alive": 0})
    assert (answer.status, answer.json()["done_reason"]) == (200, "unload")
