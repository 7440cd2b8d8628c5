"""`herd top`: the herd live in a terminal, until Ctrl-C."""

import time
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.live import Live

from ollama_herd.api.fleet_status import FleetView
from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Refused, Router, RouterOption
from ollama_herd.cli.status import overview

_LATEST = 10


class _Row(msgspec.Struct):
    """What is shown of a request that ended."""

    started_s: float
    model: str
    node_id: str
    client: str
    status: int
    error: str
    ttft_ms: float
    total_ms: float
    output_tokens: int | None = None
    decode_ms: float | None = None


class _Page(msgspec.Struct):
    traces: list[_Row]


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
        with Live(_screen(herd), console=show.console(), auto_refresh=False) as live:
            while (left := _rest(left, interval_s)) > 0:
                live.update(_screen(herd), refresh=True)
    except KeyboardInterrupt:
        pass


def _rest(left: float, interval_s: float) -> float:
    if left > 1:
        time.sleep(interval_s)  # nothing else runs in this process
    return left - 1


def _screen(herd: Router) -> RenderableType:
    fleet = herd.read("/fleet/status", FleetView)
    names = {node.node_id: node.name for node in fleet.nodes}
    return Group(overview(fleet, herd.url), _latest(herd, names))


def _latest(herd: Router, names: dict[str, str]) -> RenderableType:
    path = f"/dashboard/api/traces?limit={_LATEST}"
    try:
        with herd.sent("GET", path) as response:
            page = herd.decoded(response.read(), _Page)
    except Refused as refused:  # traces are switched off, or their database is away
        return show.text(f"no latest requests: {refused}")
    table = show.table(
        "latest", "model", "node", "client", "status", "first token>", "total>", "tokens/s>"
    )
    for one in page.traces:
        begun = time.strftime("%H:%M:%S", time.localtime(one.started_s))
        rate = (one.output_tokens or 0) / one.decode_ms * 1000 if one.decode_ms else 0
        show.row(
            table,
            (
                begun,
                one.model,
                names.get(one.node_id, one.node_id),
                one.client,
                show.text(f"{one.status} {one.error}".strip(), "red" if one.error else "green"),
                show.ms(one.ttft_ms),
                show.ms(one.total_ms),
                f"{rate:.1f}" if rate else "·",
            ),
        )
    return table
