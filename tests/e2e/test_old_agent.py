"""An agent of the oldest supported report protocol works with the router of today.

`tests/golden/heartbeats/protocol-1.json` was written by the first agent that spoke it; it stays as
it is for as long as that protocol is supported.
"""

import json
from pathlib import Path

import pytest

from ollama_herd.core.node import PROTOCOL_VERSION
from tests.e2e.processes import Herd
from tests.fakes.raw import Response

OLDEST = 1
REPORTS = Path(__file__).parent.parent / "golden" / "heartbeats"
KEY = {"Authorization": "Bearer " + "n" * 43}


def beat(herd: Herd, report: dict[str, object]) -> Response:
    return herd.call("POST", "/fleet/heartbeat", report, headers=KEY)


@pytest.mark.parametrize("protocol", range(OLDEST, PROTOCOL_VERSION + 1))
def test_its_report_is_understood(tmp_path: Path, protocol: int) -> None:
    report = json.loads((REPORTS / f"protocol-{protocol}.json").read_bytes())
    with Herd(tmp_path).ready() as herd:
        answer = beat(herd, report)
        assert answer.status == 200, answer.body
        assert answer.json().get("accepted", True)
        names = [model["name"] for model in herd.call("GET", "/api/tags").json()["models"]]
        assert names == ["llama3.2:latest"]
        loaded = herd.call("GET", "/api/ps").json()["models"]
        assert [model["context_length"] for model in loaded] == [4096]
        later = {"node_id": report["node_id"], "boot": report["boot"], "seq": 2}
        assert beat(herd, later).json().get("resend", False) is False
        node = herd.node("study")
        assert node is not None
        assert node["status"] == "online"


def test_an_agent_from_the_future_is_told_what_to_do(tmp_path: Path) -> None:
    report = json.loads((REPORTS / f"protocol-{PROTOCOL_VERSION}.json").read_bytes())
    with Herd(tmp_path).ready() as herd:
        answer = beat(herd, {**report, "protocol": PROTOCOL_VERSION + 1})
        assert answer.status >= 400
        assert "upgrade the router first" in answer.body.decode()
