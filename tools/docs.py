"""Writes what is made from the code: pages of docs/ from their `.in.md`, and the words that the
dashboard has for signals and outcomes. `make docs`.

A `.in.md` page is Markdown with two kinds of marks: a line `<!-- part: NAME words -->` becomes a
part of `parts.PARTS`, and `{{config.ROUTER_PORT}}` or `{{RouterSettings.drain_s}}` a value.
"""

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ollama_herd.config import NodeSettings, RouterSettings
from tools.parts import PARTS, default_of, meanings
from tools.sources import ROOT

DOCS = ROOT / "docs"
MEANINGS = ROOT / "web" / "src" / "lib" / "meanings.json"

_PART = re.compile(r"^<!-- part: (\w+)((?: [\w./-]+)*) -->$", re.MULTILINE)
_VALUE = re.compile(r"\{\{([\w.]+)\}\}")


def pages() -> Mapping[Path, str]:
    """Each generated file and what it should hold."""
    made = {
        path.with_name(path.name.removesuffix(".in.md") + ".md"): render(path)
        for path in sorted(DOCS.rglob("*.in.md"))
    }
    made[MEANINGS] = meanings()
    return made


def render(template: Path) -> str:
    """The page of one template. Raises KeyError, AttributeError or TypeError on an unknown mark."""
    text = template.read_text(encoding="utf-8")
    text = _VALUE.sub(lambda mark: _value(mark[1]), text)
    text = _PART.sub(lambda mark: PARTS[mark[1]](*mark[2].split()), text)
    if "<!-- part:" in text:
        raise KeyError(f"{template.name} has a part that is no mark")
    note = f"<!-- Made by `make docs` from {template.name} and the code; edit those. -->"
    return f"{note}\n\n{text.strip()}\n"


def _value(path: str) -> str:
    """The default of a setting, or a constant of the package."""
    owner, name = path.rsplit(".", 1)
    for kind in (RouterSettings, NodeSettings):
        if owner == kind.__name__:
            return default_of(kind.model_fields[name])
    value = getattr(importlib.import_module(f"ollama_herd.{owner}"), name)
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Write what differs; with `--check` only say so, and end with 1."""
    is_check = sys.argv[1:] == ["--check"]
    stale = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        name = path.relative_to(ROOT)
        if is_check:
            sys.stderr.write(f"{name} is not what the code gives: run make docs\n")
            continue
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
