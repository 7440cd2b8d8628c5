"""What the sources say about themselves: docstrings, comments behind fields, constants, messages.

Comments are not in the running program, so they are read from the files.
"""

import ast
import importlib
import inspect
import io
import itertools
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "ollama_herd"

GAP = "…"
"""Stands for what a message fills in."""

_RAISED = frozenset(
    {
        "AgentError",
        "ApiError",
        "BadParameter",
        "ChatError",
        "ConfigError",
        "EngineFailure",
        "Failure",
        "HerdRouterFound",
        "ModelError",
        "ReportFailed",
        "RequestRefusedError",
        "StartError",
        "StoreError",
        "_refuse",
        "_refused",
        "fail",
        "refuse",
        "unsupported",
    }
)
"""Calls whose text a person may have to act on."""

_NAMED = frozenset({"message", "text", "_NO_ENGINE"})
"""Variables that hold such a text until it is raised."""

_LOGGED = frozenset({"error", "exception", "warning"})
"""Methods of a logger whose text is a problem."""

_SHORTEST = 12
"""Characters of a text; shorter ones, and those of one word, are codes and names."""


class Member(NamedTuple):
    """A field of a struct or a member of an enum; `comment` is what stands behind it."""

    name: str
    kind: str
    value: Any
    comment: str


class Constant(NamedTuple):
    """A named number of a module and the docstring under it."""

    module: str
    name: str
    value: float
    why: str


class Message(NamedTuple):
    """A text of the product, with GAP for what it fills in, and the file that says it."""

    file: str
    text: str


def sources() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    """`router/serve.py`."""
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def paragraph(doc: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def module_doc(name: str) -> str:
    """The first paragraph of `router/serve.py`'s docstring."""
    return paragraph(ast.get_docstring(tree(PACKAGE / name)))


def members(kind: type) -> list[Member]:
    """Fields or members of a class in the order of its source. Raises ValueError if it has none."""
    path = Path(inspect.getfile(kind))
    comments = _comments(path)
    found = []
    for node in _class(path, kind.__name__).body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        if not isinstance(target, ast.Name) or not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        value = getattr(kind, target.id, None)
        comment = comments.get(node.end_lineno or 0, "")
        found.append(Member(target.id, annotation, value, comment))
    if not found:
        raise ValueError(f"{kind.__name__} has no fields")
    return found


def constants(folder: str) -> list[Constant]:
    """Numbers with a reason of one folder's modules."""
    found = []
    for path in sorted((PACKAGE / folder).glob("*.py")):
        module = importlib.import_module(_dotted(path))
        body = tree(path).body
        for node, after in itertools.pairwise(body):
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                continue
            name = node.targets[0].id
            value = getattr(module, name)
            why = _text(after)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if why and is_number and not name.startswith("_"):
                found.append(Constant(place(path), name, value, " ".join(why.split())))
    return found


def commented(fragment: str) -> Mapping[str, str]:
    """Comments behind tuples that begin with a constant holding `fragment`, by that constant."""
    found = {}
    for path in sources():
        comments = _comments(path)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
                value = node.elts[0].value
                text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                if fragment in text:
                    found[text] = comments.get(node.end_lineno or 0, "")
    return found


def literals() -> str:
    """Every text of the package, one after the other, f-strings in pieces."""
    found = []
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                value = node.value
                found.append(value if isinstance(value, str) else value.decode("latin-1"))
    return "\n".join(" ".join(text.split()) for text in found)


def messages() -> Iterator[Message]:
    """The problems that the product can tell of: what it raises, refuses and logs as such.

    Texts in functions that nothing calls are left out, and findings of health: each of them comes
    with its own remedy.
    """
    called = frozenset(name for path in sources() for name in _names(tree(path)))
    for path in sources():
        if place(path).startswith("core/health/"):
            continue
        for top in tree(path).body:
            if isinstance(top, ast.FunctionDef) and top.name not in called:
                continue
            for text in (text for node in ast.walk(top) for text in map(_template, _told(node))):
                if len(text) >= _SHORTEST and " " in text:
                    yield Message(place(path), text)


def uses(kind: type, name: str) -> list[str]:
    """Modules that mention a member of an enum, the one that defines it left out."""
    home = Path(inspect.getfile(kind))
    return [
        place(path)
        for path in sources()
        if path != home and f"{kind.__name__}.{name}" in path.read_text(encoding="utf-8")
    ]


def _names(top: ast.AST) -> Iterator[str]:
    """The names of functions that the code calls or passes on."""
    for node in ast.walk(top):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Call):
            yield from (e.attr for e in (node.func, *node.args) if isinstance(e, ast.Attribute))


def _told(node: ast.AST) -> list[ast.expr]:
    """Expressions in which a text for people may stand."""
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        return [node.value] if isinstance(target, ast.Name) and target.id in _NAMED else []
    if not isinstance(node, ast.Call):
        return []
    function = node.func
    if isinstance(function, ast.Name):
        return node.args if function.id in _RAISED else []
    if not isinstance(function, ast.Attribute):
        return []
    is_log = isinstance(function.value, ast.Name) and function.value.id == "_log"
    return node.args if function.attr in (_LOGGED if is_log else _RAISED) else []


def _template(node: ast.expr) -> str:
    """The text of an expression with GAP where it is filled in, "" when it is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " ".join(node.value.split())
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = [
        str(part.value) if isinstance(part, ast.Constant) else GAP
        for part in node.values
        if isinstance(part, ast.Constant | ast.FormattedValue)
    ]
    return " ".join("".join(parts).split())


def _text(node: ast.stmt) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    return ""


def _class(path: Path, name: str) -> ast.ClassDef:
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise ValueError(f"{path} has no class {name}")


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _comments(path: Path) -> Mapping[int, str]:
    """Comments by line, without those for tools."""
    source = io.StringIO(path.read_text(encoding="utf-8"))
    return {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(source.readline)
        if token.type == tokenize.COMMENT and "noqa" not in token.string
    }
