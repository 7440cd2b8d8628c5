"""What operators ask of nodes: lists, draining, forgetting."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Pair
from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama

PROMPT = {"model": "m1", "prompt": "x", "stream": False}


def test_nodes_are_listed_with_their_models(pair: Pair) -> None:
    answer = pair.call("GET", "/fleet/nodes")
    assert [node["name"] for node in answer.json()["nodes"]] == ["a", "b"]
    engine = answer.json()["nodes"][0]["engines"][0]
    assert "only-a:latest" in {one["name"] for one in engine["models"]}
    assert b"relay_key" not in answer.body
    node_id = answer.json()["nodes"][0]["node_id"]
    for named in ("a", node_id):
        assert pair.call("GET", f"/fleet/nodes/{named}").json()["node_id"] == node_id


def test_models_are_listed_with_their_places(pair: Pair) -> None:
    found = {
        one["model"]["name"]: one for one in pair.call("GET", "/fleet/models").json()["models"]
    }
    assert [place["node"] for place in found["tiny:latest"]["places"]] == ["a", "b"]
    assert [place["node"] for place in found["only-b:latest"]["places"]] == ["b"]
    assert all(place["usable"] for place in found["tiny:latest"]["places"])


def test_an_unknown_node_is_named_with_those_there_are(pair: Pair) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/drain"), ("POST", "/undrain")):
        answer = pair.call(method, f"/fleet/nodes/zzz{path}")
        assert (answer.status, answer.json()["code"]) == (404, "unknown_node")
        assert "there are a, b" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "http://localhost:3000"},
     {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)  # fmt: skip
def test_foreign_pages_change_nothing(pair: Pair, headers: dict[str, str]) -> None:
    for method, path in (("DELETE", ""), ("POST", "/drain"), ("POST", "/undrain")):
        assert pair.call(method, f"/fleet/nodes/a{path}", headers=headers).status == 403
    node = pair.herd.node("a")
    assert node is not None
    assert not node["draining"]


def test_a_drained_node_gets_no_requests(pair: Pair) -> None:
    assert pair.call("POST", "/fleet/nodes/a/drain").json()["draining"]
    try:
        assert pair.call("POST", "/fleet/nodes/a/drain").status == 200
        body = {"model": "only-a", "prompt": "x", "stream": False}
        assert pair.call("POST", "/api/generate", body).status == 503
        for _ in range(4):
            body = {"model": "tiny", "prompt": "x", "stream": False}
            assert pair.call("POST", "/api/generate", body).header("x-herd-node") == "b"
        models = pair.call("GET", "/fleet/models").json()["models"]
        only = next(one for one in models if one["model"]["name"] == "only-a:latest")
        assert [place["usable"] for place in only["places"]] == [False]
    finally:
        assert not pair.call("POST", "/fleet/nodes/a/undrain").json()["draining"]
    assert pair.call("POST", "/api/generate", {**PROMPT, "model": "only-a"}).status == 200


def test_a_node_that_reports_is_not_forgotten(pair: Pair) -> None:
    answer = pair.call("DELETE", "/fleet/nodes/a")
    assert (answer.status, answer.json()["code"]) == (409, "node_reports")


@pytest.fixture
def engine() -> Iterator[FakeOllama]:
    fake = FakeOllama([model("m1")])
    with fake.in_thread():
        yield fake


def test_draining_and_forgetting_outlive_a_restart(tmp_path: Path, engine: FakeOllama) -> None:
    with Herd(tmp_path).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with (
            Node(tmp_path, "gone", url, [engine.url]) as gone,
            Node(tmp_path, "stays", url, [engine.url]),
        ):
            herd.wait_node("gone", "online")
            herd.wait_node("stays", "online")
            assert herd.call("POST", "/fleet/nodes/stays/drain").status == 200
            gone.terminate()
            herd.wait_node("gone", "offline")
            assert herd.call("DELETE", "/fleet/nodes/gone").status == 204
            assert herd.node("gone") is None
            wait_until(lambda: herd.call("DELETE", "/fleet/nodes/gone").status == 404, 5, "404")
            herd.terminate()
    with Herd(tmp_path).ready() as herd:
        nodes = herd.status()["nodes"]
        assert [(node["name"], node["draining"]) for node in nodes] == [("stays", True)]
