"""Results in the documentation, between two markers that a page holds for them."""

from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name`; ValueError when the page has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, has_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise ValueError(f"{page.name} has no markers for {name}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
