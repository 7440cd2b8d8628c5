"""A run's results as a table: `report.py RESULTS.json [--markdown]`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from figures import TITLES
from machine import line as machine_line

_COLUMNS = ("figure", "nginx", "herd", "herd / nginx", "target", "")
_NUMBER_WIDTH = 22
_WIDTHS = (44, _NUMBER_WIDTH, _NUMBER_WIDTH, _NUMBER_WIDTH, 13, 9)
_WIDTH = sum(_WIDTHS) + 4 * len(_WIDTHS)
_NOISY_PERCENT = 10.0
"""Other work on the proxy's core above which its delays are those of the scheduler."""
_STYLES = {"met": "green", "NOT MET": "bold red"}


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _spread(spread: Sequence[float] | None, digits: int) -> str:
    """`median (min-max)`, or a dash when it was not measured."""
    if spread is None:
        return "-"
    median, low, high = (_number(value, digits) for value in spread)
    around = f" ({low}-{high})" if low != high else ""
    return f"{median}{around}"


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["target"]:
        return ""
    return {True: "met", False: "NOT MET", None: "not known"}[row["met"]]


def _cells(row: Mapping[str, Any]) -> list[str]:
    digits, unit = row["digits"], row["unit"]
    label = f"{row['label']}, {unit}" if unit else row["label"]
    return [
        label,
        _spread(row["nginx"], digits),
        _spread(row["herd"], digits),
        _spread(row["ratio"], 2),
        row["target"],
        _verdict(row),
    ]


def print_tables(results: Mapping[str, Any], console: Console) -> None:
    wide = console if console.width >= _WIDTH else Console(width=_WIDTH)
    wide.print("[bold]Ollama Herd beside nginx[/bold]: medians (min-max) of the rounds")
    for scenario, rows in _by_scenario(results):
        table = Table(title=TITLES[scenario], title_justify="left", title_style="bold", box=SIMPLE)
        for column, width in zip(_COLUMNS, _WIDTHS, strict=True):
            is_number = width == _NUMBER_WIDTH
            table.add_column(column, justify="right" if is_number else "left", width=width)
        for row in rows:
            *cells, verdict = _cells(row)
            style = _STYLES.get(verdict)
            table.add_row(*cells, f"[{style}]{verdict}[/]" if style else verdict)
        wide.print(table)
    for line in _notes(results):
        wide.print(line, highlight=False, markup=False)


def markdown(results: Mapping[str, Any]) -> str:
    lines = []
    for scenario, rows in _by_scenario(results):
        lines += ["", f"**{TITLES[scenario]}**", ""]
        lines += ["| " + " | ".join(_COLUMNS) + " |", "| --- | ---: | ---: | ---: | --- | --- |"]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join([*_page_notes(results), *lines])


def _page_notes(results: Mapping[str, Any]) -> list[str]:
    """As a list, without what only this run knows: a moment and a commit."""
    machine = results["machine"]
    versions = f"Ollama Herd {machine['herd']}, nginx {machine['nginx']}"
    notes = [f"{versions}; {machine_line(machine)}", *_notes(results)[1:]]
    return [f"- {note}" for note in notes]


def _by_scenario(results: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [
        (scenario, [row for row in results["figures"] if row["scenario"] == scenario])
        for scenario in results["scenarios"]
    ]


def _notes(results: Mapping[str, Any]) -> list[str]:
    machine = results["machine"]
    ran_on = (
        f"{results['started']} · {machine['cpu']}, {machine['cores']} cores, {machine['system']} "
        f"· Python {machine['python']}, nginx {machine['nginx']}, commit {machine['commit']}"
    )
    how = (
        f"Small requests by {results['generator']}; {results['pinning']}; other work on the "
        f"proxy's core: median {results['foreign_percent']:.0f} %; load average at the end "
        f"{machine['load_average']}"
    )
    lines = [ran_on, how]
    if results["foreign_percent"] > _NOISY_PERCENT:
        lines.append(
            "The machine was busy with other work: trust the ratios; times and rates are worse "
            "than on a quiet one, for nginx too."
        )
    if results["quick"]:
        lines.append("Quick run: a smoke test, too short for figures to compare.")
    lines += results["skipped"]
    lines += [f"PROBLEM {problem}" for problem in results["problems"]]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="a file that bench/run.py wrote")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    if options.markdown:
        print(markdown(results))
    else:
        print_tables(results, Console())


if __name__ == "__main__":
    main()
