"""`herd traces`: requests that have ended, filtered; as a table, one in full, or exported."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlencode

import msgspec
import typer

from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Refused, Router, RouterOption
from ollama_herd.cli.ended import HEADINGS, Ended, EndedPage, cells
from ollama_herd.cli.process import fail
from ollama_herd.clock import now_s
from ollama_herd.dashboard.queries import STATUS_CHOICES, BadField, is_status, time_of

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_EXPORT_TIMEOUT_S = 120.0
_LISTED = 50
_PIECE_BYTES = 65536


class Export(StrEnum):
    """Formats that the router exports."""

    CSV = "csv"
    JSONL = "jsonl"


class _Node(msgspec.Struct):
    node_id: str
    name: str


class _Nodes(msgspec.Struct):
    nodes: list[_Node]


def traces(  # noqa: PLR0913 - one parameter an option
    request_id: Annotated[
        str | None, typer.Argument(metavar="[REQUEST]", help="one request in full, as JSON")
    ] = None,
    *,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="begun since: 30m, 2h, 7d ago, or 2026-01-31T12:00:00Z"),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="begun before")] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="served, or asked for")] = "",
    node: Annotated[str, typer.Option(metavar="NODE", help="its name or id")] = "",
    client: Annotated[str, typer.Option(metavar="ADDRESS", help="who asked")] = "",
    key: Annotated[str, typer.Option(metavar="NAME", help="name of the API key")] = "",
    status: Annotated[
        str,
        typer.Option(metavar="STATUS", help=STATUS_CHOICES),
    ] = "",
    tag: Annotated[str, typer.Option(metavar="TAG", help="one of its tags")] = "",
    error: Annotated[str, typer.Option(metavar="TEXT", help="part of the error code")] = "",
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="at most so many: 50, or all in an export"),
    ] = None,
    export: Annotated[
        Export | None,
        typer.Option("--export", metavar="csv|jsonl", help="write all that matches"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="where to export to")
    ] = None,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """List requests that have ended, newest first. Texts are never kept."""
    begun, ended = _times(since, until)
    if output is not None and export is None:
        fail("--output takes what is exported: add --export csv or --export jsonl", code=2)
    herd = Router(router)
    if request_id is not None:
        typer.echo(herd.get(f"/dashboard/api/traces/{quote(request_id, safe='')}"))
        return
    wanted: dict[str, object] = {
        "from": begun,
        "until": ended,
        "model": model,
        "node": node,
        "client": client,
        "key": key,
        "status": _status(status),
        "tag": tag,
        "error": error,
    }
    query = {name: value for name, value in wanted.items() if value not in (None, "")}
    if export is not None:
        bound = {} if limit is None else {"limit": limit}
        _export(herd, {**query, **bound, "format": export.value}, output)
        return
    _list(herd, query, limit or _LISTED, as_json=as_json)


def _status(given: str) -> str:
    if given and not is_status(given):
        fail(
            f"--status = '{show.clean(given, 40)}' is none: choose one of {STATUS_CHOICES}", code=2
        )
    return given


def _list(herd: Router, query: dict[str, object], limit: int, *, as_json: bool) -> None:
    left, before = limit, ""
    names: dict[str, str] = {}
    table = show.table("begun", *HEADINGS, "tokens>", "request")
    if not as_json:
        names = {n.node_id: n.name for n in herd.read("/fleet/nodes", _Nodes).nodes}
    while left > 0:
        page_query = {**query, "limit": min(left, 500), "before": before}
        body = herd.get("/dashboard/api/traces", page_query)
        page = herd.decoded(body, EndedPage)
        if as_json:
            for raw in msgspec.json.decode(body)["traces"]:
                typer.echo(msgspec.json.encode(raw))
        for one in page.traces:
            show.row(table, _row(one, names))
        left -= len(page.traces)
        before = page.next
        if not before:
            break
    if as_json:
        return
    console = show.console()
    if table.row_count:
        console.print(show.fitted(table, ("client", "tokens", "request"), console))
    else:
        console.print("no request that matches has ended yet" if query else "no request yet")


def _row(one: Ended, names: dict[str, str]) -> tuple[object, ...]:
    tokens = f"{one.prompt_tokens or 0} + {one.output_tokens or 0}"
    return (*cells(one, names, _tries(one)), tokens, one.request_id)


def _tries(one: Ended) -> str:
    """What the route went through, "" where the first node answered."""
    if one.attempt_count < 2:
        return ""
    told = [f"{one.attempt_count} tries"]
    told += ["two at once"] if one.hedged else []
    told += ["continued"] if one.continued else []
    return f" ({', '.join(told)})"


def _export(herd: Router, query: dict[str, object], output: Path | None) -> None:
    path = f"/dashboard/api/traces/export?{urlencode(query)}"
    try:
        with herd.sent("GET", path, timeout_s=_EXPORT_TIMEOUT_S) as response:
            pieces = iter(lambda: response.read(_PIECE_BYTES), b"")
            if output is None:
                _print(pieces)
                return
            _write(pieces, output)
    except Refused as refused:
        fail(f"{herd.url} answered {refused.status}: {refused}")
    typer.echo(f"written to {output}", err=True)


def _print(pieces: Iterator[bytes]) -> None:
    """To a pipe whose reader may have had enough (`| head`)."""
    for piece in pieces:
        try:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own end
            return


def _write(pieces: Iterator[bytes], output: Path) -> None:
    with _told(output):
        file = output.open("wb")
    with file:
        for piece in pieces:
            with _told(output):
                file.write(piece)
                file.flush()


@contextmanager
def _told(output: Path) -> Iterator[None]:
    """What goes wrong with the file is told as such; reading is the router's matter."""
    try:
        yield
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror or error}")


def _times(since: str | None, until: str | None) -> tuple[float | None, float | None]:
    """Both ends in seconds since 1970; ends the command when they are no times or no stretch."""
    begun, ended = _time(since, "--since"), _time(until, "--until")
    if begun is not None and ended is not None and begun >= ended:
        fail("--since must be before --until", code=2)
    return begun, ended


def _time(given: str | None, option: str) -> float | None:
    """Seconds since 1970, of `2h` (ago), of an RFC 3339 time, or of themselves."""
    if given is None:
        return None
    number = given.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = given[len(number) :]
    try:
        if unit in _UNITS:
            return now_s() - float(number) * _UNITS[unit]
        return time_of({option: given}, option)
    except (BadField, ValueError):
        fail(
            f"{option} = '{show.clean(given, 40)}' is no time: write 30m, 2h, 7d or "
            "2026-01-31T12:00:00Z",
            code=2,
        )
