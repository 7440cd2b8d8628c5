"""The herd's own API does what its OpenAPI document says, whatever it is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollama_herd.router.openapi import PATH
from ollama_herd.router.operations import OPERATIONS
from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings
from tests.interop.environments import python_of, run

FUZZ_S = 25
"""Schemathesis is told to end by then; the rest of the time is for its start."""

NOT_ASKED = ("positive_data_acceptance", "use_after_free", "ensure_resource_availability")
"""Checks that ask for more than a schema can say: that a cursor is one, a time before another, a
node known."""


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder = tmp_path_factory.mktemp("openapi")
    with (
        FakeOllama([model("tiny")], Settings(is_frozen=True)).in_thread() as engine,
        Herd(folder).ready() as running,
        Node(folder, "studio", f"http://127.0.0.1:{running.port}", [engine.url]),
    ):
        running.wait_models("tiny:latest")
        running.call("POST", "/api/generate", {"model": "tiny", "prompt": "x"})
        yield running


@pytest.fixture
def document(herd: Herd) -> dict[str, Any]:
    answer = herd.call("GET", PATH)
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    found: dict[str, Any] = answer.json()
    return found


def test_every_row_is_a_route_and_every_route_is_told_of(document: dict[str, Any]) -> None:
    told = {(method.upper(), path) for path, ways in document["paths"].items() for method in ways}
    assert set(OPERATIONS) <= told
    for method, path in told - set(OPERATIONS):
        operation = document["paths"][path][method.lower()]
        assert operation["summary"], f"{method} {path} needs a docstring, or a row in operations.py"
    assert ("GET", PATH) in told
    assert not any(path.startswith(("/api/", "/v1/")) for _, path in told)


def test_answers_are_described_field_by_field(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert {"FleetView", "NodeView", "QueueView", "NodeReport", "Problem"} <= set(schemas)
    assert set(schemas["FleetView"]["required"]) >= {"nodes", "queue", "models"}
    explained = document["paths"]["/fleet/explain"]["get"]
    assert [p["name"] for p in explained["parameters"] if p["required"]] == ["model"]


def test_no_request_finds_it_otherwise(
    herd: Herd, document: dict[str, Any], tmp_path: Path
) -> None:
    """What has no row yet is not asked: only its name is known."""
    url = f"http://127.0.0.1:{herd.port}"
    rowless = set(document["paths"]) - {path for _, path in OPERATIONS}
    left_out = {"/dashboard/events"} | rowless  # the events never end
    command = [
        *(python_of("schemathesis"), "-m", "schemathesis.cli", "run", f"{url}{PATH}"),
        *("--header", "Authorization: Bearer fuzz"),
        *(word for path in sorted(left_out) for word in ("--exclude-path", path)),
        *("--checks", "all", "--exclude-checks", ",".join(NOT_ASKED)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1"),
        *("--max-time", str(FUZZ_S), "--request-timeout", "10", "--no-color"),
        *("--generation-database", "none"),
    ]
    done = run(command, tmp_path, {}, FUZZ_S + 60)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in herd.log()
    herd.check_alive()
