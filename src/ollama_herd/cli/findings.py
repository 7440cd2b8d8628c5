"""What `herd doctor` and `herd-node doctor` find, and how they print it."""

import enum
from collections.abc import Iterable, Sequence

import msgspec
import typer

from ollama_herd.cli import show


class Grade(enum.StrEnum):
    """How bad a finding is; the process ends with 1 when one is critical."""

    OK = "ok"
    WARNING = "warning"  # works, but not as well or not for all
    CRITICAL = "critical"  # the herd cannot work so


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `code` is stable: scripts may look for it."""

    code: str
    grade: Grade
    seen: str
    advice: str = ""


class _Report(msgspec.Struct):
    overall: Grade
    findings: Sequence[Finding]


def ok(code: str, seen: str) -> Finding:
    """As it should be."""
    return Finding(code, Grade.OK, seen)


def warning(code: str, seen: str, advice: str) -> Finding:
    """Worth a look."""
    return Finding(code, Grade.WARNING, seen, advice)


def critical(code: str, seen: str, advice: str) -> Finding:
    """To be mended."""
    return Finding(code, Grade.CRITICAL, seen, advice)


def report(found: Iterable[Finding], *, as_json: bool) -> None:
    """Print findings as they come; ends the process with 1 when one is critical."""
    console = None if as_json else show.console()
    findings = []
    for finding in found:
        findings.append(finding)
        if console is not None:
            line = show.text(f"{finding.grade.value:9}", _STYLES[finding.grade])
            line.append(f"{finding.code:22}", style="dim")
            line.append(show.clean(finding.seen, 500))
            console.print(line, soft_wrap=True)
            if finding.advice:
                console.print(show.text(f"{'':31}-> {finding.advice}"), soft_wrap=True)
    overall = max((f.grade for f in findings), key=list(Grade).index, default=Grade.OK)
    if as_json:
        typer.echo(msgspec.json.encode(_Report(overall, findings)))
    if overall is Grade.CRITICAL:
        raise typer.Exit(1)


_STYLES = {Grade.OK: "green", Grade.WARNING: "yellow", Grade.CRITICAL: "bold red"}
