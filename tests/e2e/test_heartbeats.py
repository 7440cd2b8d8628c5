"""Reports that are wrong, absurd or somebody else's are refused with a reason and lose no node."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Response

KEY = {"Authorization": "Bearer key-of-this-test"}
_numbers = itertools.count()
HUGE = 10 * 2**20


@dataclass
class Small:
    """A router and one real node with one model."""

    herd: Herd
    engine: FakeOllama


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    folder = tmp_path_factory.mktemp("heartbeats")
    with (
        FakeOllama([model("real")]).in_thread() as engine,
        Herd(folder).ready() as herd,
        Node(folder, "real", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("real:latest")
        yield Small(herd, engine)


@pytest.fixture
def intact(standing: Small) -> Iterator[Small]:
    """Whatever a test reports: the real node is still there, and serves."""
    yield standing
    node = standing.herd.node("real")
    assert node is not None
    assert node["status"] in ("online", "late")
    answer = standing.herd.call("POST", "/api/generate", {"model": "real", "prompt": "x"})
    assert answer.status == 200


def report(herd: Herd, body: object, headers: dict[str, str] | None = None) -> Response:
    return herd.call("POST", "/fleet/heartbeat", body, KEY if headers is None else headers)


def engine(**fields: object) -> dict[str, Any]:
    return {"engine_id": "ollama-1", "kind": "ollama", "port": 1, **fields}


def full(**fields: object) -> dict[str, Any]:
    """A minimal full report."""
    base = {"node_id": f"absurd-{next(_numbers)}", "boot": 1, "seq": 1, "name": "absurd"}
    return {**base, "platform": {}, "vitals": {}, "engines": [], **fields}


MALFORMED = {
    "empty": b"",
    "not json": b"{bad",
    "array": b"[]",
    "null": b"null",
    "no id": b'{"boot":1,"seq":1}',
    "id of a wrong type": b'{"node_id":5,"boot":1,"seq":1}',
    "seq of a wrong type": b'{"node_id":"x","boot":1,"seq":"one"}',
    "boot a float": b'{"node_id":"x","boot":1.5,"seq":1}',
    "engines an object": json.dumps(full(engines={})).encode(),
    "unknown engine kind": json.dumps(full(engines=[engine(kind="toaster")])).encode(),
    "port a text": json.dumps(full(engines=[engine(port="80")])).encode(),
    "models of a wrong type": json.dumps(full(engines=[engine(models=["x"])])).encode(),
    "not utf-8": b'{"node_id":"\xff","boot":1,"seq":1}',
    "deep": b'{"node_id":"x","boot":1,"seq":1,"vitals":' + b"[" * 50_000,
}
ABSURD = {
    "empty id": full(node_id=""),
    "endless id": full(node_id="x" * 5000),
    "negative seq": full(seq=-1),
    "negative boot": full(boot=-5),
    "seq beyond 64 bits": full(seq=2**70),
    "negative memory": full(vitals={"memory_total_bytes": -1}),
    "memory beyond 64 bits": full(vitals={"memory_total_bytes": 2**80}),
    "negative port": full(engines=[engine(port=-1)]),
    "port beyond range": full(engines=[engine(port=70000)]),
    "relay port beyond range": full(relay_port=99999),
    "zero slots": full(engines=[engine(slots=0)]),
    "negative slots": full(engines=[engine(slots=-3)]),
    "negative size": full(engines=[engine(models=[{"name": "m", "size_bytes": -1}])]),
    "nameless model": full(engines=[engine(models=[{"name": ""}])]),
    "control characters": full(relay_key="x\r\nHost: evil", name="a\r\nb"),
    "one engine twice": full(engines=[engine(), engine()]),
    "future protocol": full(protocol=99),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_report_is_refused_with_a_reason(intact: Small, body: bytes) -> None:
    answer = report(intact.herd, body)
    assert answer.status == 400
    assert len(answer.json()["error"]) > 10


@pytest.mark.parametrize("body", ABSURD.values(), ids=ABSURD.keys())
def test_absurd_report_is_refused_with_a_reason(intact: Small, body: dict[str, Any]) -> None:
    before = intact.herd.status()["nodes_total"]
    answer = report(intact.herd, body)
    assert answer.status in (400, 403), answer.body
    assert len(answer.json()["error"]) > 10
    assert intact.herd.status()["nodes_total"] == before


def test_report_without_a_key(intact: Small) -> None:
    answer = report(intact.herd, full(), {})
    assert answer.status == 401
    assert "Bearer" in answer.json()["error"]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_ten_megabytes_are_refused(intact: Small, *, is_chunked: bool) -> None:
    body = json.dumps(full(name="x" * HUGE)).encode()
    headers = dict(KEY)
    if is_chunked:
        headers["Transfer-Encoding"] = "chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    answer = report(intact.herd, body, headers)
    assert answer.status == 413
    assert "4194304" in answer.json()["error"]


def test_report_of_a_real_node_with_another_key(intact: Small) -> None:
    node = intact.herd.node("real")
    assert node is not None
    body = full(node_id=node["node_id"], boot=2**42, seq=1, leaving=True)
    answer = report(intact.herd, body)
    assert answer.status == 403
    assert "another key" in answer.json()["error"]


def test_wrong_method(intact: Small) -> None:
    assert intact.herd.call("GET", "/fleet/heartbeat").status == 405


def test_a_plain_report_is_accepted_and_asks_for_the_rest(intact: Small) -> None:
    herd = intact.herd
    before = herd.status()["nodes_total"]
    delta = {"node_id": "new", "boot": 1, "seq": 1}
    assert report(herd, delta).json()["resend"] is True
    assert report(herd, full(node_id="new")).status == 200
    assert report(herd, full(node_id="new")).json()["accepted"] is False
    later = {"node_id": "new", "boot": 1, "seq": 2}
    assert report(herd, later).status == 200
    assert herd.status()["nodes_total"] == before + 1


def test_an_engine_that_is_not_there(intact: Small) -> None:
    models = [{"name": "ghost"}]
    body = full(name="haunted", engines=[engine(models=models)])
    assert report(intact.herd, body).status == 200
    answer = intact.herd.call("POST", "/api/generate", {"model": "ghost", "prompt": "x"})
    assert answer.status in (502, 503)
    assert "haunted" in answer.json()["error"]
