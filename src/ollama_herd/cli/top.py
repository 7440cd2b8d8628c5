"""`herd top`: the herd live in a terminal, until Ctrl-C."""

import time
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live

from ollama_herd.api.fleet_status import FleetView
from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Refused, Router, RouterOption
from ollama_herd.cli.ended import HEADINGS, EndedPage, cells
from ollama_herd.cli.status import overview

_LATEST = 10


def top(
    *,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, help="seconds between two looks")
    ] = 1.0,
    count: Annotated[int, typer.Option("--count", min=0, help="looks; 0: until Ctrl-C")] = 0,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch nodes, queues and the latest requests. With --json a line a look."""
    herd = Router(router)
    left = count or float("inf")
    try:
        if as_json:
            while left > 0:
                typer.echo(herd.get("/fleet/status"))
                left = _rest(left, interval_s)
            return
        console = show.console()
        with Live(_screen(herd, console), console=console, auto_refresh=False) as live:
            while (left := _rest(left, interval_s)) > 0:
                live.update(_screen(herd, console), refresh=True)
        if not console.is_terminal:
            console.print()  # Live ends a terminal's last line, and no other
    except KeyboardInterrupt:
        pass


def _rest(left: float, interval_s: float) -> float:
    if left > 1:
        time.sleep(interval_s)  # nothing else runs in this process
    return left - 1


def _screen(herd: Router, console: Console) -> RenderableType:
    fleet = herd.read("/fleet/status", FleetView)
    names = {node.node_id: node.name for node in fleet.nodes}
    return Group(overview(fleet, herd.url, console), _latest(herd, names, console))


def _latest(herd: Router, names: dict[str, str], console: Console) -> RenderableType:
    path = f"/dashboard/api/traces?limit={_LATEST}"
    try:
        with herd.sent("GET", path) as response:
            page = herd.decoded(response.read(), EndedPage)
    except Refused as refused:  # traces are switched off, or their database is away
        return show.text(f"no latest requests: {refused}")
    table = show.table("latest", *HEADINGS, "tokens/s>")
    for one in page.traces:
        rate = (one.output_tokens or 0) / one.decode_ms * 1000 if one.decode_ms else 0
        show.row(table, (*cells(one, names), f"{rate:.1f}" if rate else "·"))
    if not table.row_count:
        return show.text("no request yet")
    return show.fitted(table, ("client", "tokens/s"), console)
