"""The rules of the house that a machine can check: imports, sizes, names, banned calls."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "ollama_herd"
SOURCES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
BOUNDARIES = {
    "router/serve.py": "the request boundary: a defect costs one request, not the router",
    "router/front.py": "the same for the control plane",
    "agent/services/recogniser.py": "whatever a library raises is the answer to one request",
}
"""Where `except Exception` may stand, and why."""


def _id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_imports_point_down_only() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_file_is_one_thing(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_functions_fit_on_a_screen(path: Path) -> None:
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_names_say_what_a_thing_is(path: Path) -> None:
    vague = re.compile(r"(Manager|Helper|Utils?)$")
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert not [name for name in names if vague.search(name)]


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_failures_are_named(path: Path) -> None:
    broad = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    ]
    assert not broad or _id(path) in BOUNDARIES


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_no_pages_in_python(path: Path) -> None:
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [s for s in strings if re.search(r"<(html|script|style|body|div)\b", s)]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for group in project["dependency-groups"].values():
        wanted += group
    names = {re.split(r"[\[<>=;! ]", item, maxsplit=1)[0] for item in wanted}
    explained = set(
        re.findall(r"^\| `([\w.-]+)` \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    )
    assert names == explained
