"""The hook by which mkdocs makes a site of docs/ and of the pages beside it: `make site`.

README, CONTRIBUTING and the like stay where a git host looks for them and become pages of the site
as well; links between them and docs/ are turned, so that each is right in both places.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

OUTSIDE: Mapping[str, str] = MappingProxyType(
    {
        "README.md": "index.md",
        "CONTRIBUTING.md": "contributing.md",
        "SECURITY.md": "security-policy.md",
        "CHANGELOG.md": "changelog.md",
    }
)
"""Pages outside docs/, and what they are called in the site."""

_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_SPAN = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page of a folder into the navigation where `FOLDER/*` stands, and at its end the
    pages that it does not name.
    """
    nav = [_spread(entry) for entry in config.nav or ()]
    pages = (path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md")))
    named = set(_named(nav))
    left = [uri for uri in pages if uri not in named and not uri.endswith(".in.md")]
    config.nav = [*nav, {"More": left}] if left else nav
    return config


def _named(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict | list):
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from _named(part)


def _spread(entry: object) -> object:
    if isinstance(entry, dict):
        return {title: _spread(rest) for title, rest in entry.items()}
    if isinstance(entry, list):
        return [_spread(rest) for rest in entry]
    if isinstance(entry, str) and entry.endswith("/*"):
        folder = DOCS / entry.removesuffix("/*")
        found = (path for path in folder.glob("*.md") if not path.name.endswith(".in.md"))
        # The folder's own page first.
        ordered = sorted(found, key=lambda path: (path.stem != "README", path.name))
        return [path.relative_to(DOCS).as_posix() for path in ordered]
    return entry


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for name, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs calls it so
    """Turn links that leave docs/, or that come from outside of it."""
    source = Path(page.file.abs_src_path or "")
    here = posixpath.dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        aim = (source.parent / link[1]).resolve()
        uri = OUTSIDE.get(aim.relative_to(ROOT).as_posix()) if aim.is_relative_to(ROOT) else None
        if uri is None and aim.is_relative_to(DOCS):
            uri = aim.relative_to(DOCS).as_posix()
        return link[1] if uri is None else posixpath.relpath(uri, here or ".")

    text = _LINK.sub(turned, markdown)
    # In a cell, a git host wants bars escaped within code too; here the escape would be seen.
    return _ROW.sub(lambda row: _SPAN.sub(_unescaped, row[0]), text)


def _unescaped(span: re.Match[str]) -> str:
    return span[0].replace(r"\|", "|")
