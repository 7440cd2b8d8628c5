"""Reads Markdown pages: links, code spans, command lines, examples."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAMS = re.compile(r"(\S*/)?(make|herd|herd-node|python3?)")


def pages() -> list[Path]:
    """Every page for people; templates are read as the pages they become."""
    found = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    found += [path for folder in ("bench", "tools", "web") for path in ROOT.glob(f"{folder}/*.md")]
    return sorted(path for path in found if not path.name.endswith(".in.md"))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of the page's links that lead to files here."""
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def spans(page: Path) -> list[str]:
    """Code spans of the page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: Path) -> Iterator[list[str]]:
    """Command lines of the page, in blocks and in spans, as words."""
    lines = [
        line
        for language, block in _FENCE.findall(page.read_text(encoding="utf-8"))
        if language in ("", "console", "sh", "bash")
        for line in block.splitlines()
    ]
    for line in (*lines, *spans(page)):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words and _PROGRAMS.fullmatch(words[0]) and _is_call(words):
            yield words


def _is_call(words: list[str]) -> bool:
    """Diagrams and sentences may begin with a program's name too."""
    return all(re.fullmatch(r"[!-~]+", word) for word in words)


def options_of(text: str) -> set[str]:
    """The options that a `--help` names."""
    return set(re.findall(r"(?<![\w-])(--[a-z][\w-]*|-[a-zA-Z])(?![\w-])", text))


def toml_examples() -> list[tuple[str, str]]:
    """Every TOML block that begins with `# NAME.toml`, with that name."""
    found = []
    for page in pages():
        for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
            name = re.match(r"# (\w+\.toml)\n", block)
            if language == "toml" and name:
                found.append((name[1], block))
    return found
