"""Two nodes with different models under one name: lists, show and routing mean the same one."""

from dataclasses import replace
from pathlib import Path

from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings

NEWER = replace(
    model("same"),
    digest="b" * 64,
    weights="sha256:" + "c" * 64,
    modified_at="2026-11-23T00:00:00Z",
    parameter_size="7B",
)
OLDER = model("same")


def test_only_one_of_them_answers(tmp_path: Path) -> None:
    old, new = (FakeOllama([kind], Settings(is_frozen=True)) for kind in (OLDER, NEWER))
    with old.in_thread(), new.in_thread(), Herd(tmp_path).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(tmp_path, "old", url, [old.url]), Node(tmp_path, "new", url, [new.url]):
            herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
            herd.wait_status(
                lambda s: all(e["models"] for n in s["nodes"] for e in n["engines"]), "their models"
            )
            (entry,) = herd.call("GET", "/api/tags").json()["models"]
            assert entry["digest"] == NEWER.digest
            shown = herd.call("POST", "/api/show", {"model": "same"})
            assert shown.json()["details"]["parameter_size"] == "7B"
            for _ in range(6):
                answer = herd.call("POST", "/api/generate", {"model": "same", "prompt": "x"})
                assert (answer.status, answer.header("x-herd-node")) == (200, "new")
            (left_out,) = herd.call("GET", "/fleet/explain?model=same").json()["excluded"]
            assert left_out["node"] == "old"
            assert NEWER.digest[:12] in left_out["detail"]
            assert OLDER.digest[:12] in left_out["detail"]
    assert old.counters.received == 0
