"""Records a command as it really runs, into an SVG that types itself: `make recording`.

The picture is text in the system's own font and a few lines of style, so it loads nothing and stays
small. Where motion is not wanted or not known, all of it is shown at once.
"""

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

COLUMNS = 92
FONT_PX = 14
CHAR_PX = FONT_PX * 0.6
"""Of any fixed-width font, near enough; `textLength` makes it exact."""

LINE_PX = 20
MARGIN_PX = 18
BAR_PX = 34
LONGEST_PAUSE_S = 1.2
"""Nobody watches a model being loaded."""

LONGEST_RUN_S = 300.0
_COLOURS = {1: "#ff7b72", 2: "#7ee787", 3: "#e3b341", 6: "#76e3ea"}
_PLAIN = "#e6edf3"


class Piece(NamedTuple):
    """What came at once; `at_s` counts from the start, long pauses cut."""

    at_s: float
    text: str


class Run(NamedTuple):
    """Characters of one line that look alike and came together."""

    line: int
    column: int
    text: str
    style: str
    at_s: float


def record(command: Sequence[str]) -> list[Piece]:
    """Run `command` and note what it writes, and when. Raises CalledProcessError, TimeoutError."""
    shown = {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "COLUMNS": "1000"}
    started_s = last_s = time.monotonic()  # noqa: TID251 - outside of the package
    at_s = 0.0
    pieces = []
    with subprocess.Popen(  # noqa: S603 - the command of whoever records
        command, stdout=subprocess.PIPE, env=os.environ | shown
    ) as process:
        assert process.stdout is not None  # noqa: S101 - so it was asked for
        while chunk := os.read(process.stdout.fileno(), 65536):
            now_s = time.monotonic()  # noqa: TID251
            if now_s - started_s > LONGEST_RUN_S:
                process.kill()
                raise TimeoutError(f"{shlex.join(command)} took longer than {LONGEST_RUN_S:g} s")
            at_s += min(now_s - last_s, LONGEST_PAUSE_S)
            last_s = now_s
            pieces.append(Piece(at_s, chunk.decode(errors="replace")))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return pieces


def runs(command: str, pieces: Sequence[Piece]) -> list[Run]:
    """What was written, broken into lines of a terminal at blanks."""
    console = Console(width=COLUMNS)
    text = Text.from_ansi("".join(piece.text for piece in pieces))
    # From the end of each piece in plain characters, when each character came.
    ends = itertools.accumulate(len(Text.from_ansi(p.text + ".").plain) - 1 for p in pieces)
    marks = list(zip(ends, (piece.at_s for piece in pieces), strict=True))
    found = [Run(0, 0, f"$ {command}", f"fill:{_PLAIN};font-weight:bold", 0.0)]
    for line, (start, end) in enumerate(_lines(text.plain), 2):
        for offset in range(start, end):
            at_s = next((when for upto, when in marks if offset < upto), marks[-1][1])
            style = _style(text, console, offset)
            last = found[-1]
            if last.line == line and (last.style, last.at_s) == (style, at_s):
                found[-1] = last._replace(text=last.text + text.plain[offset])
            else:
                found.append(Run(line, offset - start, text.plain[offset], style, at_s))
    return found


def _lines(plain: str) -> Iterator[tuple[int, int]]:
    start = 0
    for row in plain.rstrip("\n").split("\n"):
        end = start + len(row)
        while end - start > COLUMNS:
            blank = plain.rfind(" ", start, start + COLUMNS)
            cut = blank if blank > start else start + COLUMNS
            yield start, cut
            start = cut + (blank > start)
        yield start, end
        start = end + 1


def _style(text: Text, console: Console, offset: int) -> str:
    style = text.get_style_at_offset(console, offset)
    number = style.color.number if style.color else None
    colour = _PLAIN if number is None else _COLOURS.get(number, _PLAIN)
    return f"fill:{colour}" + (";font-weight:bold" if style.bold else "")


def draw(title: str, parts: Sequence[Run]) -> str:
    """The SVG."""
    width = round(COLUMNS * CHAR_PX + 2 * MARGIN_PX)
    height = (parts[-1].line + 1) * LINE_PX + BAR_PX + MARGIN_PX
    lights = "".join(
        f'<circle cx="{20 + 18 * at}" cy="17" r="5.5" fill="{colour}"/>'
        for at, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    texts = "\n".join(
        f'<text x="{MARGIN_PX + run.column * CHAR_PX:.1f}" y="{BAR_PX + (run.line + 1) * LINE_PX}"'
        f' textLength="{len(run.text) * CHAR_PX:.1f}" xml:space="preserve"'
        f' style="{run.style};animation-delay:{run.at_s:.2f}s">{escape(run.text)}</text>'
        for run in parts
        if run.text.strip()
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>{escape(title)}</title>
<style>
text {{ font: {FONT_PX}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
@media (prefers-reduced-motion: no-preference) {{
  text {{ animation: shown 1ms both }}
  @keyframes shown {{ from {{ opacity: 0 }} }}
}}
</style>
<rect width="{width}" height="{height}" rx="9" fill="#0d1117"/>
{lights}
{texts}
</svg>
"""


def main() -> None:
    """`recording.py FILE TITLE COMMAND…`: record the command into the file."""
    target, title, *command = sys.argv[1:]
    shown = shlex.join([Path(command[0]).name, *command[1:]])
    picture = draw(title, runs(shown, record(command)))
    Path(target).write_text(picture, encoding="utf-8")
    sys.stdout.write(f"wrote {target}\n")


if __name__ == "__main__":
    main()
