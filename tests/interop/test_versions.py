"""The versions that the documents say were tried are those that the tests install."""

import re
from pathlib import Path

import msgspec
import pytest

from tests.documents import DOCS, ROOT

HERE = Path(__file__).parent

CALLED = {
    "LiteLLM": "litellm",
    "Pydantic AI": "pydantic-ai-slim",
    "Instructor": "instructor",
    "LangChain": "langchain-ollama",
    "LlamaIndex": "llama-index-llms-ollama",
    "Aider": "aider-chat",
    "CrewAI": "crewai",
    "Continue": "@continuedev/cli",
    "Open WebUI": "open-webui",
    "Claude Code": "@anthropic-ai/claude-code",
    "Codex": "@openai/codex",
}
"""Packages of tools whose names in the tables are not those of packages."""


def _python() -> set[tuple[str, str]]:
    files = (path.read_text(encoding="utf-8") for path in (HERE / "requirements").glob("*.txt"))
    return {
        pin for text in files for pin in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    }


def _node() -> set[tuple[str, str]]:
    files = (msgspec.json.decode(path.read_bytes()) for path in HERE.glob("*/package.json"))
    return {pin for text in files for pin in text["dependencies"].items()}


def _rows(page: Path) -> list[tuple[str, str]]:
    """What was tried, and the versions: the first and the last cell of the table of clients."""
    text = page.read_text(encoding="utf-8")
    table = re.search(
        r"^\| \w+ \| setting \| tried \|\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE
    )
    assert table
    cells = (row.strip("|").split(" | ") for row in table[1].splitlines())
    return [(first.strip(), last.strip()) for first, *_, last in cells]


@pytest.mark.parametrize(
    "page", [DOCS / "clients.md", ROOT / "README.md"], ids=lambda page: page.name
)
def test_versions_are_those_that_are_installed(page: Path) -> None:
    python, node = _python(), _node()
    versions = 0
    for label, tried in _rows(page):
        if tried == "not tried here":
            continue
        known = python if "(Python)" in label else node if "(npm)" in label else python | node
        names = set(re.findall(r"`([^`]+)`", label)) | {
            package for name, package in CALLED.items() if label.startswith(name)
        }
        inside = re.findall(r"`([\w@/-]+)` (\d[\w.]*)", label)
        assert set(inside) <= known, label
        for version in tried.split(", "):
            assert {(name, version) for name in names} & known, (label, version)
            versions += 1
    assert versions >= 12


def test_the_readme_says_what_the_page_of_clients_says() -> None:
    def start(label: str) -> str:
        return (
            re.sub(r" \(.*", "", label)
            if label.startswith(("LangC", "Llama", "Open", "Cont"))
            else label
        )

    page = {start(label): tried for label, tried in _rows(DOCS / "clients.md")}
    for label, tried in _rows(ROOT / "README.md"):
        assert page[start(label)] == tried, label
