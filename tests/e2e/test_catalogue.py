"""The routes the router answers itself, from what its nodes have reported."""

import pytest

from tests.e2e.conftest import Pair
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape


def test_root(pair: Pair) -> None:
    answer = pair.call("GET", "/")
    assert (answer.status, answer.body) == (200, b"Ollama is running")
    assert answer.header("content-type") == "text/plain; charset=utf-8"
    head = pair.call("HEAD", "/")
    assert (head.status, head.header("content-length"), head.body) == (200, "17", b"")


def test_version(pair: Pair) -> None:
    answer = pair.call("GET", "/api/version")
    assert answer.json() == {"version": "0.33.0-rc2"}
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert pair.call("HEAD", "/api/version").status == 200


def test_status(pair: Pair) -> None:
    recorded = parse_response(read(OLLAMA / "007_get_status.txt").response)
    assert pair.call("GET", "/api/status").body == recorded.body


def test_tags_have_each_name_once(pair: Pair) -> None:
    answer = pair.call("GET", "/api/tags")
    assert answer.header("content-type") == "application/json; charset=utf-8"
    names = [entry["name"] for entry in answer.json()["models"]]
    assert len(names) == len(set(names))
    assert {"tiny:latest", "tiny2:latest", "only-a:latest", "only-b:latest"} <= set(names)
    head = pair.call("HEAD", "/api/tags")
    assert (head.status, head.body) == (200, b"")


def test_tags_entries_are_those_of_the_engine(pair: Pair) -> None:
    direct = {e["name"]: e for e in pair.direct("a", "GET", "/api/tags").json()["models"]}
    herded = {e["name"]: e for e in pair.call("GET", "/api/tags").json()["models"]}
    for name in ("tiny:latest", "tiny-full:latest", "only-a:latest"):
        assert herded[name] == direct[name]
        assert list(herded[name]) == list(direct[name])


def test_ps_shows_what_is_loaded(pair: Pair) -> None:
    pair.call("POST", "/api/generate", {"model": "only-a", "keep_alive": "10m"})
    pair.herd.wait_status(
        lambda fleet: any(
            "only-a:latest" in engine["loaded"]
            for node in fleet["nodes"]
            for engine in node["engines"]
        ),
        "the loaded model to be reported",
    )
    answer = pair.call("GET", "/api/ps")
    entry = next(e for e in answer.json()["models"] if e["name"] == "only-a:latest")
    direct = pair.direct("a", "GET", "/api/ps").json()["models"]
    same = next(e for e in direct if e["name"] == "only-a:latest")
    assert {**entry, "expires_at": ""} == {**same, "expires_at": ""}
    assert list(entry) == list(same)


def test_v1_models(pair: Pair) -> None:
    recorded = parse_response(read(OLLAMA / "140_v1_models.txt").response)
    answer = pair.call("GET", "/v1/models")
    content_type = answer.header("content-type")
    assert content_type == recorded.header("content-type")
    assert body_shape(content_type, answer.body) == body_shape(content_type, recorded.body)
    direct = {e["id"]: e for e in pair.direct("a", "GET", "/v1/models").json()["data"]}
    herded = {e["id"]: e for e in answer.json()["data"]}
    assert herded["tiny:latest"]["owned_by"] == direct["tiny:latest"]["owned_by"]
    assert set(direct) | {"only-b:latest"} == set(herded)


def test_v1_one_model(pair: Pair) -> None:
    answer = pair.call("GET", "/v1/models/tiny")
    assert answer.json()["id"] == "tiny"
    recorded = parse_response(read(OLLAMA / "142_v1_model_unknown.txt").response)
    unknown = pair.call("GET", "/v1/models/nope")
    assert (unknown.status, unknown.body) == (recorded.status, recorded.body)


def test_fleet_status_names_nodes_and_no_keys(pair: Pair) -> None:
    answer = pair.call("GET", "/fleet/status")
    status = answer.json()
    assert {n["name"] for n in status["nodes"]} == {"a", "b"}
    assert (status["nodes_total"], status["nodes_usable"]) == (2, 2)
    assert b"relay_key" not in answer.body
    assert b"node_key" not in answer.body


UNKNOWN = (
    "054_chat_unknown",
    "055_chat_unknown_stream_false",
    "026_generate_unknown_model",
    "029_generate_no_model",
    "058_chat_no_model",
    "074_embed_unknown",
    "146_v1_chat_unknown",
    "147_v1_chat_unknown_stream",
    "151_v1_chat_no_model",
    "165_v1_completions_unknown",
    "168_v1_embeddings_unknown",
    "173_v1_responses_unknown",
)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_model_as_recorded(pair: Pair, name: str) -> None:
    recording = read(OLLAMA / f"{name}.txt")
    real = parse_response(recording.response)
    answer = pair.call("POST", recording.path, recording.body)
    assert (answer.status, answer.body) == (real.status, real.body)
    assert answer.header("content-type") == real.header("content-type")


def test_unknown_model_for_anthropic(pair: Pair) -> None:
    recording = read(OLLAMA / "176_v1_messages_unknown.txt")
    real = parse_response(recording.response)
    answer = pair.call("POST", recording.path, recording.body)
    assert answer.status == real.status
    assert answer.header("content-type") == real.header("content-type")
    assert answer.json()["error"] == real.json()["error"]
    assert answer.json()["request_id"].startswith("req_")
