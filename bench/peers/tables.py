"""A run's results as tables: rows of texts, for the terminal and for the documentation alike."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e.fault_matrix import FAULTS

from peers.kinds import KINDS, OLLAMA, OPENAI, OURS, PATHS

API = {OPENAI: "OpenAI", OLLAMA: "Ollama"}
_REFERENCE = "nginx"
_SLOW_S = 5.0
_BUSY = 1.5  # of load average a core; the bench itself makes less than one
_LEFT = ("mid", "gap", "before", "plain")
_COST_COLUMNS = (
    "router",
    "CPU per request, µs",
    "x nginx",
    "requests/s",
    "CPU per chunk, µs",
    "x nginx",
    "added latency, ms",
    "memory, MB",
    "growth, MB",
    "client gone: engine told after, ms",
)


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Costs, faults and probes of each API; a part that was left out has no table."""
    dialects = (OPENAI, OLLAMA)
    made = [_costs(results, dialect) for dialect in dialects]
    made += [
        _faults(results, f"{PATHS[dialect]} {form}", dialect)
        for dialect in dialects
        for form in ("stream", "whole")
    ]
    made += [_probes(results, dialect) for dialect in dialects]
    return [table for table in made if table.rows]


def titled(results: Mapping[str, Any], name: str) -> str:
    """The router with its version; ours in bold where that is understood."""
    title = KINDS[name].title if name in KINDS else name
    return f"{title} {results['versions'].get(name, '')}".strip()


def spread(values: Sequence[float], digits: int) -> str:
    """`median (least-greatest)`, or a dash for nothing."""
    if not values:
        return "-"
    texts = [f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values))]
    return texts[0] if texts[1] == texts[2] else f"{texts[0]} ({texts[1]}-{texts[2]})"


def _costs(results: Mapping[str, Any], dialect: str) -> Table:
    rows = []
    reference = results["costs"].get(_REFERENCE, [])
    for name, rounds in results["costs"].items():
        mine = [one[dialect] for one in rounds if dialect in one]
        if not mine:
            continue
        pairs = [
            (one[dialect], other[dialect])
            for one, other in zip(rounds, reference, strict=False)
            if dialect in one and dialect in other
        ]
        rows.append(
            (
                titled(results, name),
                spread(_values(mine, "request_cpu_us"), 0),
                _ratio(pairs, "request_cpu_us"),
                spread(_values(mine, "requests_per_s"), 0),
                spread(_values(mine, "chunk_cpu_us"), 0),
                _ratio(pairs, "chunk_cpu_us"),
                spread([us / 1000 for us in _values(mine, "added_us")], 2),
                spread(_values(mine, "rss_mb"), 0),
                spread(_values(mine, "growth_mb"), 0),
                _left([one["left"] for one in mine]),
            )
        )
    return Table(f"{API[dialect]} API: costs", _COST_COLUMNS, rows)


def _values(rounds: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [one[key] for one in rounds if key in one]


def _ratio(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], key: str) -> str:
    """To nginx within each round, because both met the same noise then."""
    ratios = [a[key] / b[key] for a, b in pairs if a.get(key) and b.get(key)]
    return f"{statistics.median(ratios):,.1f}" if ratios else "-"


def _left(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Mid-stream / between chunks / before a stream's first byte / before a whole answer."""
    texts = []
    for case in _LEFT:
        took = [one[f"{case}_p50_ms"] for one in rounds if one[f"{case}_p50_ms"]]
        texts.append(f"{statistics.median(took):.0f}" if len(took) == len(rounds) else "no")
    return " / ".join("<1" if text == "0" else text for text in texts)


def _faults(results: Mapping[str, Any], form: str, dialect: str) -> Table:
    names = [name for name in _in_order(results["faults"]) if dialect in KINDS[name].dialects]
    by_name = {
        name: {cell["fault"]: cell for cell in results["faults"][name] if cell["form"] == form}
        for name in names
    }
    found = {fault for cells in by_name.values() for fault in cells}
    faults = sorted(found, key=FAULTS.index)
    rows = [
        (
            fault.replace("_", " "),
            *(outcome(by_name[name].get(fault)) for name in names),
        )
        for fault in faults
    ]
    columns = ("fault", *(titled(results, name) for name in names))
    return Table(f"{API[dialect]} API: requests that end right, {form}", columns, rows)


def _in_order(names: Iterable[str]) -> list[str]:
    """The engine itself, then the routers as they are listed; they run beside each other."""
    return [name for name in ("engine", *KINDS) if name in names]


def outcome(cell: Mapping[str, Any] | None) -> str:
    """`9/12`, and what became of the others."""
    if cell is None:
        return "-"
    others = [
        f"{cell[key]} {word}"
        for key, word in (("told", "errors"), ("silent", "CUT SHORT"), ("hung", "HUNG"))
        if cell[key]
    ]
    unmet = ["not met"] if cell["met"] == 0 else []
    slow_s = cell.get("slowest_s", 0.0)
    slow = [f"slowest {slow_s:.0f} s"] if slow_s > _SLOW_S else []
    return ", ".join([f"{cell['completed']}/{cell['requests']}", *others, *slow, *unmet])


def _probes(results: Mapping[str, Any], dialect: str) -> Table:
    seen = results["probes"]
    found = {name: seen[name][dialect] for name in _in_order(seen) if dialect in seen[name]}
    probes = list(dict.fromkeys(probe for one in found.values() for probe in one))
    rows = [(probe, *(one.get(probe, "-") for one in found.values())) for probe in probes]
    columns = ("what", *(titled(results, name) for name in found))
    return Table(f"{API[dialect]} API: what a client sees", columns, rows)


def notes(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know to judge the tables."""
    lines = [line for line in (results["where"], results["how"]) if line]
    if not results["is_closed"]:
        lines.append("Not in a namespace of its own: the routers could have reached the network.")
    here = results["machine"]
    if float(here["load_average"]) > _BUSY * here["cores"]:
        lines.append(
            "The machine was busy with other work: trust the ratios; times and rates are worse "
            "than on a quiet one, for all of them."
        )
    if results["quick"]:
        lines.append("A quick run: too short for figures to compare.")
    lines += [f"{titled(results, name)}: {KINDS[name].settings}." for name in results["order"]]
    lines += [f"{titled(results, name)} not measured: {why}" for name, why in _failed(results)]
    lines += _wrong(results)
    return lines


def _failed(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"{part}: {' '.join(why.split())[:300]}")
        for part, reasons in results["failed"].items()
        for name, why in reasons.items()
    ]


def _wrong(results: Mapping[str, Any]) -> list[str]:
    """Answers under load that were wrong; what clients that leave show is in the table."""
    lines = []
    for name, rounds in results["costs"].items():
        seen = dict.fromkeys(
            problem
            for one in rounds
            for values in one.values()
            for problem in values["problems"]
            if not problem.startswith("disconnect:")
        )
        lines += [f"{titled(results, name)} under load: {problem[:200]}" for problem in seen]
    return lines


def markdown(results: Mapping[str, Any]) -> str:
    """For the documentation: notes, then the tables."""
    lines = [f"- {_escaped(note)}" for note in notes(results)]
    for table in tables(results):
        right = ["---", *(["---:"] * (len(table.columns) - 1))]
        is_figures = table.title.endswith("costs")
        lines += ["", f"**{table.title}**", "", _row(table.columns)]
        lines += [_row(right if is_figures else ["---"] * len(table.columns))]
        for row in table.rows:
            ours = row[0].startswith(OURS) and is_figures
            lines.append(_row([f"**{row[0]}**", *row[1:]] if ours else row))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
