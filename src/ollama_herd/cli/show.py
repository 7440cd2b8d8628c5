"""How commands print: tables, sizes, ages; what comes from elsewhere is text and nothing else."""

import sys
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from ollama_herd.cli.process import fail

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ollama_herd.core.node import NodeStatus, Vitals

_UNBOUND = 10_000
"""A width that no table has."""

_UNITS = ("B", "KB", "MB", "GB", "TB")
_STYLES = {
    "online": "green", "late": "yellow", "restored": "yellow", "offline": "red",
    "ok": "green", "info": "blue", "warning": "yellow", "critical": "bold red",
}  # fmt: skip


def console(*, stderr: bool = False) -> "Console":
    """Where people read; a pipe gets wide lines without colours."""
    from rich.console import Console  # noqa: PLC0415 - slow to load, and JSON needs none

    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 200
    return Console(highlight=False, width=width, soft_wrap=False, stderr=stderr)


def table(*headings: str, title: str | None = None) -> "Table":
    """An empty table; a heading that ends with > is of a column of numbers."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for heading in headings:
        is_number = heading.endswith(">")
        name = heading.removesuffix(">")
        made.add_column(
            name,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,
            min_width=len(name),
        )
    return made


def fitted(table: "Table", spare: Iterable[str], console: "Console") -> "Table":
    """`table` without as many of its `spare` columns, the first named first, as make it fit."""
    from rich.measure import Measurement  # noqa: PLC0415

    for heading in spare:
        wide = console.options.update(width=_UNBOUND)
        if Measurement.get(console, wide, table).maximum <= console.width:
            break
        table.columns = [one for one in table.columns if one.header != heading]
    return table


def text(value: object, style: str = "") -> "Text":
    """`value` as it is, with what would steer a terminal made visible, and no markup."""
    from rich.text import Text  # noqa: PLC0415

    return Text(clean(str(value)), style=style or _STYLES.get(str(value), ""))


def node_status(status: "NodeStatus", vitals: "Vitals", *, draining: bool) -> str:
    """What a node does, in a word or two."""
    if draining:
        return "draining"
    if vitals.quiet_until and status.value != "offline":
        return f"quiet until {vitals.quiet_until}"
    return status.value


def clean(value: str, most: int = 300) -> str:
    """Without control and direction characters, and not without end."""
    cut = value if len(value) <= most else f"{value[: most - 1]}…"
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in cut)


def row(into: "Table", values: Iterable[object]) -> None:
    """Add a row of plain texts."""
    from rich.text import Text  # noqa: PLC0415

    into.add_row(*(value if isinstance(value, Text) else text(value) for value in values))


def size(count: float) -> str:
    """Bytes as people read them: 4.7 GB."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def span(seconds: float) -> str:
    """A length of time: 12 s, 3 min, 5 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def ms(value: float | None) -> str:
    """Milliseconds, or seconds when there are many."""
    if value is None or value < 0:
        return "·"
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def confirm(question: str, *, yes: bool) -> None:
    """Go on only when the user says so; ends the process otherwise, also where nobody can."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody is there to answer: say yes with --yes", code=2)
    if not typer.confirm(clean(question)):
        fail("nothing was done")
