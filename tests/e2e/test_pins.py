"""Pins from the command line to the engine, over a restart of the router and back."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ollama_herd.cli.commands import app
from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.models import embedding_model, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import call


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Herd, FakeOllama]]:
    folder = tmp_path_factory.mktemp("pins")
    with (
        FakeOllama([model("m"), embedding_model("e")]).in_thread() as engine,
        Herd(folder).ready() as herd,
        Node(folder, "n", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("m:latest", "e:latest")
        yield herd, engine


def run(herd: Herd, *command: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{herd.port}"
    env = {"COLUMNS": "120", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*command, "--router", url], env=env)
    return result.exit_code, result.output


def loaded(engine: FakeOllama) -> dict[str, str]:
    answer = call(engine.port, "GET", "/api/ps").json()
    return {one["name"]: one["expires_at"] for one in answer["models"]}


def test_a_pin_loads_and_unpinning_lets_go(small: tuple[Herd, FakeOllama]) -> None:
    herd, engine = small
    code, text = run(herd, "pin", "m", "n")
    assert code == 0, text
    assert "m:latest" in text
    wait_until(lambda: loaded(engine).get("m:latest", "") > "21", 15, "the pinned model")
    code, _ = run(herd, "pin", "e")
    assert code == 0
    wait_until(lambda: loaded(engine).get("e:latest", "") > "21", 15, "the pinned embedder")

    def all_loaded() -> bool:
        return [p["is_loaded"] for p in pins(herd)] == [True, True]

    wait_until(all_loaded, 15, "both to be shown as loaded")
    assert run(herd, "unpin", "m")[0] == 0
    wait_until(lambda: loaded(engine)["m:latest"] < "21", 15, "the model to be let go")
    assert [p["model"] for p in pins(herd)] == ["e:latest"]
    assert run(herd, "unpin", "e")[0] == 0


def pins(herd: Herd) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run(herd, "pins", "--json")[1])["pins"]
    return found


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["pin", "nope"], "no node of the fleet has 'nope'"),
        (["pin", "m", "nowhere"], "no node is called 'nowhere'"),
        (["unpin", "m"], "'m' is not pinned"),
    ],
)
def test_mistakes_are_named(
    small: tuple[Herd, FakeOllama], command: list[str], reason: str
) -> None:
    code, text = run(small[0], *command)
    assert code == 1
    assert reason in " ".join(text.split())


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":""}', b'{"model":"m","where":"n"}'])
def test_other_bodies_are_refused(small: tuple[Herd, FakeOllama], body: bytes) -> None:
    answer = small[0].call("POST", "/fleet/pins", body)
    assert answer.status == 400
    assert answer.json()["error"]


def test_no_foreign_page_pins(small: tuple[Herd, FakeOllama]) -> None:
    body, headers = {"model": "m"}, {"Origin": "https://evil.example"}
    assert small[0].call("POST", "/fleet/pins", body, headers).status == 403


def test_pins_outlive_the_router(tmp_path: Path) -> None:
    with FakeOllama([model("m")]).in_thread() as engine:
        with (
            Herd(tmp_path).ready() as herd,
            Node(tmp_path, "n", f"http://127.0.0.1:{herd.port}", [engine.url]),
        ):
            herd.wait_models("m:latest")
            assert run(herd, "pin", "m")[0] == 0
        with Herd(tmp_path).ready() as herd:
            assert [p["model"] for p in pins(herd)] == ["m:latest"]
