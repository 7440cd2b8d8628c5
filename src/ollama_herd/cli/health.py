"""`herd health`: what is wrong with the herd, since when, and what to do about it."""

import typer

from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Router, RouterOption
from ollama_herd.clock import now_s
from ollama_herd.core.health.values import Health, Severity


def health(*, router: RouterOption = None, as_json: JsonOption = False) -> None:
    """Show all that the health checks found. Ends with 1 when something is critical."""
    herd = Router(router)
    body = herd.get("/dashboard/api/health")
    found = herd.decoded(body, Health)
    if as_json:
        typer.echo(body)
    else:
        _print(found)
    if found.overall is Severity.CRITICAL:
        raise typer.Exit(1)


def _print(found: Health) -> None:
    console = show.console()
    quiet = sum(check.severity is Severity.OK for check in found.checks)
    for check in found.checks:
        for finding in check.findings:
            since = show.span(max(0.0, now_s() - finding.since_s))
            line = show.text(finding.severity.value)
            line.append(f"  {show.clean(check.title)}: {show.clean(finding.seen, 1000)}")
            line.append(f" (for {since}, {check.code})", style="dim")
            console.print(line)
            if finding.advice:
                console.print(show.text(f"    {finding.advice}"))
    console.print(f"{quiet} of {len(found.checks)} checks found nothing wrong")
