"""Cells of the fault matrix as text: a line each, and their sums as a Markdown table."""

from collections.abc import Sequence

from tests.e2e.fault_matrix import FAULTS, Cell, is_continued

_COLUMNS = ("complete", "faults met", "told", "silent", "text", "counts", "wasted")
HEADINGS = f"{'fault':19}{'endpoint':29}" + "".join(f"{c:>{len(c) + 2}}" for c in _COLUMNS)
HEADINGS += f"{'added ms':>10}{'worst':>7}"


_SUMS = (
    "endpoints",
    "complete",
    "faults met",
    "told instead",
    "lost or repeated",
    "most wasted in a cell",
    "added ms",
    "worst",
)


def line(cell: Cell) -> str:
    """One cell; where it is no proof, what was seen."""
    values = (
        f"{cell.completed}/{cell.requests}",
        cell.met,
        cell.told,
        cell.silent,
        cell.wrong_text,
        cell.wrong_counts,
        cell.wasted,
    )
    text = f"{cell.fault:19}{cell.form.name:29}"
    text += "".join(f"{v:>{len(c) + 2}}" for c, v in zip(_COLUMNS, values, strict=True))
    text += f"{cell.added_ms:>10.1f}{cell.worst_ms:>7.0f}"
    if cell.is_proof:
        return text
    seen = "".join(f"\n    {seen[:300]}" for seen in sorted(set(cell.seen))[:3])
    return f"{text}  NO PROOF{'' if cell.met else ': no fault met'}{seen}"


def table(cells: Sequence[Cell]) -> str:
    """A row for each fault, in streams and in whole answers."""
    rows = [_joined("fault", "answers", *_SUMS), _joined("---", "---", *["--:"] * len(_SUMS))]
    for fault in FAULTS:
        for is_stream in (True, False):
            some = [c for c in cells if c.fault == fault and c.form.is_stream is is_stream]
            if some:
                rows.append(_row(fault, some))
    return "\n".join(rows)


def _row(fault: str, cells: Sequence[Cell]) -> str:
    requests, met = sum(c.requests for c in cells), sum(c.met for c in cells)
    added = sum(c.added_ms * c.met for c in cells) / met if met else 0.0
    lost = sum(c.silent + c.wrong_text + c.wrong_counts for c in cells)
    told = sum(c.told for c in cells if not is_continued(fault, c.form))
    values = (
        fault.replace("_", " "),
        "streams" if cells[0].form.is_stream else "whole",
        len(cells),
        f"{sum(c.completed for c in cells)}/{requests}",
        met,
        told,
        lost,
        max(c.wasted for c in cells),
        f"{added:.0f}",
        f"{max(c.worst_ms for c in cells):.0f}",
    )
    return _joined(*values)


def _joined(*values: object) -> str:
    return "| " + " | ".join(str(value) for value in values) + " |"
