"""The API page: its commands answer what it says, and it lists every path."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from tools.routes import herd_app

from tests.documents import DOCS
from tests.e2e.processes import Herd, Node
from tests.fakes.manage import ManagedOllama
from tests.fakes.models import model
from tests.fakes.raw import Response

PAGE = (DOCS / "api.md").read_text(encoding="utf-8")
_EXAMPLE = re.compile(
    r"^```sh\n(curl .*?)\n```\n\n```(json|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
EXAMPLES = [(found[1], found[3]) for found in _EXAMPLE.finditer(PAGE)]
BASE = "http://localhost:11435"
ANYTHING = "…"


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder = tmp_path_factory.mktemp("api")
    new = [model("qwen3:1.7b", size_bytes=4000)]
    first = ManagedOllama([model("llama3.2"), model("mistral")], registry=new)
    second = ManagedOllama([model("llama3.2")], registry=new)
    with first.in_thread(), second.in_thread(), Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with (
            Node(folder, "studio", url, [first.url]),
            Node(folder, "laptop", url, [second.url]),
        ):
            herd.wait_node("laptop", "online")
            herd.wait_node("studio", "online")
            herd.wait_models("llama3.2:latest", "mistral:latest")
            yield herd


def run(herd: Herd, command: str) -> Response:
    """What curl would do."""
    words = iter(shlex.split(command)[1:])
    method, path, data = "", "", None
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-d":
            data = next(words).encode()
        else:
            assert word.startswith(BASE), word
            path = word.removeprefix(BASE)
    return herd.call(method or ("POST" if data else "GET"), path, data)


def matches(said: Any, got: Any) -> bool:
    """Whether an answer has at least what the page says."""
    if isinstance(said, dict):
        return isinstance(got, dict) and all(
            k in got and matches(v, got[k]) for k, v in said.items()
        )
    if isinstance(said, list):
        return isinstance(got, list) and all(any(matches(s, g) for g in got) for s in said)
    if isinstance(said, str) and ANYTHING in said:
        parts = ".*".join(re.escape(part) for part in said.split(ANYTHING))
        return re.fullmatch(parts, str(got), re.DOTALL) is not None
    return bool(said == got)


def test_examples_answer_what_the_page_says(herd: Herd) -> None:
    """In the order of the page, as a reader would type them."""
    assert len(EXAMPLES) == PAGE.count("\ncurl ") > 12
    for command, said in EXAMPLES:
        answer = run(herd, command)
        if not said:
            assert (answer.status, answer.body) in ((200, b""), (201, b"")), command
            continue
        wanted = [json.loads(line) for line in said.splitlines()]
        got = answer.lines()
        assert len(got) == 1 or got[-1] == wanted[-1], command
        for line in wanted:
            assert any(matches(line, other) for other in got), f"{command}: {line} not in {got}"
        assert ("error" in wanted[-1]) is (answer.status >= 400), command


def test_a_wrong_answer_would_be_noticed() -> None:
    assert matches({"a": "…"}, {"a": 1, "b": 2})
    assert not matches({"a": "x…"}, {"a": "y"})
    assert not matches({"b": 1}, {"a": 1})
    assert not matches([{"a": 1}], [{"a": 2}])


def test_every_path_is_listed() -> None:
    paths = {route.resource.canonical for route in herd_app().router.routes() if route.resource}
    listed = set(re.findall(r"`(/[^`]*)`", PAGE))
    ours = ("/api/", "/v1/", "/fleet/")
    missing = [path for path in paths if path.startswith(ours) and path not in listed]
    assert not missing
