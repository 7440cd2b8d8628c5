"""The docs as a site: it builds strictly and alone, and asks nobody when it is read."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.documents import DOCS, ROOT, anchors, pages, prose

OUTSIDE = {"README.md": "index.md", "SECURITY.md": "security-policy.md"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; every request to the network would fail."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "NO_MKDOCS_2_WARNING": "1",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
    }
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(
        call, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def _built(site: Path, page: Path) -> Path:
    uri = OUTSIDE.get(page.name) if page.parent == ROOT else page.relative_to(DOCS).as_posix()
    assert uri is not None
    return (site / uri.replace("README.md", "index.md")).with_suffix(".html")


def test_every_page_is_there_with_the_anchors_of_a_git_host(site: Path) -> None:
    wanted = [page for page in pages() if DOCS in page.parents]
    wanted += [ROOT / name for name in OUTSIDE]
    assert len(wanted) > 40
    for page in wanted:
        text = _built(site, page).read_text(encoding="utf-8")
        assert anchors(page) <= set(re.findall(r'<h\d id="([^"]*)"', text)), page.name


def test_reading_it_asks_nobody_else(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'> ]+)"""
    )
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not loaded.findall(text), page.name
        # The theme would load what draws these from a server elsewhere.
        assert 'class="mermaid"' not in text, page.name
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8"))


def test_search_finds_a_setting(site: Path) -> None:
    found = msgspec.json.decode((site / "search/search_index.json").read_bytes())["docs"]
    places = {
        entry["location"].partition("#")[0] for entry in found if "relay_port" in entry["text"]
    }
    assert "configuration.html" in places


def test_lists_and_tables_are_such_in_both_places() -> None:
    """Python-Markdown wants an empty line before a list; a git host does not."""
    for page in pages():
        if DOCS not in page.parents and page.parent != ROOT:
            continue
        text = prose(page)
        for block in re.split(r"\n\s*\n|^#.*\n", text, flags=re.MULTILINE):
            first, *rest = block.strip("\n").splitlines() or [""]
            if not re.match(r"\s*(-|\d+\.) ", first):
                assert not [line for line in rest if line.startswith("- ")], (page.name, first)
            if not first.startswith("|"):
                assert not [line for line in rest if line.startswith("|")], (page.name, first)


def test_code_in_a_cell_shows_its_bars(site: Path) -> None:
    text = html.unescape((site / "cli.html").read_text(encoding="utf-8"))
    assert "--join auto|key|approve" in text
