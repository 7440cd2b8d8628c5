"""Reports that are wrong, absurd or somebody else's are refused with a reason and lose no node."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Pair
from tests.e2e.processes import Herd
from tests.fakes.raw import Response

KEY = {"Authorization": "Bearer key-of-this-test"}
HUGE = 10 * 2**20


@pytest.fixture
def intact(pair: Pair) -> Iterator[Pair]:
    """Whatever a test reports: both real nodes are still there, with their models."""
    before = {n["node_id"] for n in pair.herd.status()["nodes"]}
    yield pair
    status = pair.herd.status()
    assert before <= {n["node_id"] for n in status["nodes"]}
    for name in ("a", "b"):
        node = pair.herd.node(name)
        assert node is not None
        assert node["status"] in ("online", "late")
    assert pair.call("POST", "/api/generate", {"model": "only-a", "prompt": "x"}).status == 200


def report(herd: Herd, body: object, headers: dict[str, str] | None = None) -> Response:
    return herd.call("POST", "/fleet/heartbeat", body, KEY if headers is None else headers)


def engine(**fields: object) -> dict[str, Any]:
    return {"engine_id": "ollama-1", "kind": "ollama", "port": 1, **fields}


def full(**fields: object) -> dict[str, Any]:
    """A minimal full report."""
    base = {"node_id": "absurd", "boot": 1, "seq": 1, "name": "absurd"}
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
def test_malformed_report_is_refused_with_a_reason(intact: Pair, body: bytes) -> None:
    answer = report(intact.herd, body)
    assert answer.status == 400
    assert len(answer.json()["error"]) > 10


@pytest.mark.parametrize("body", ABSURD.values(), ids=ABSURD.keys())
def test_absurd_report_is_refused_with_a_reason(intact: Pair, body: dict[str, Any]) -> None:
    answer = report(intact.herd, body)
    assert answer.status in (400, 403), answer.body
    assert len(answer.json()["error"]) > 10
    assert intact.herd.node("absurd") is None


def test_report_without_a_key(intact: Pair) -> None:
    answer = report(intact.herd, full(), {})
    assert answer.status == 401
    assert "Bearer" in answer.json()["error"]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_ten_megabytes_are_refused(intact: Pair, *, is_chunked: bool) -> None:
    body = json.dumps(full(name="x" * HUGE)).encode()
    headers = dict(KEY)
    if is_chunked:
        headers["Transfer-Encoding"] = "chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    answer = report(intact.herd, body, headers)
    assert answer.status == 413
    assert "at most" in answer.json()["error"]


def test_report_of_a_real_node_with_another_key(intact: Pair) -> None:
    node = intact.herd.node("a")
    assert node is not None
    body = full(node_id=node["node_id"], boot=2**42, seq=1, leaving=True)
    answer = report(intact.herd, body)
    assert answer.status == 403
    assert "another key" in answer.json()["error"]


def test_wrong_method(intact: Pair) -> None:
    assert intact.call("GET", "/fleet/heartbeat").status == 405


def test_a_plain_report_is_accepted_and_asks_for_the_rest(tmp_path: Any) -> None:
    with Herd(tmp_path).ready() as herd:
        delta = {"node_id": "new", "boot": 1, "seq": 1}
        assert report(herd, delta).json()["resend"] is True
        assert report(herd, full(node_id="new")).status == 200
        assert report(herd, full(node_id="new")).json()["accepted"] is False
        later = {"node_id": "new", "boot": 1, "seq": 2}
        assert report(herd, later).status == 200
        assert herd.status()["nodes_total"] == 1


def test_an_engine_that_is_not_there(tmp_path: Any) -> None:
    with Herd(tmp_path).ready() as herd:
        models = [{"name": "ghost"}]
        assert report(herd, full(engines=[engine(models=models)])).status == 200
        answer = herd.call("POST", "/api/generate", {"model": "ghost", "prompt": "x"})
        assert answer.status in (502, 503)
        assert "absurd" in answer.json()["error"]
