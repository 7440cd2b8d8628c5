"""`herd explain`: what a running router would do with a request now, and why."""

import http.client
from typing import Annotated
from urllib.parse import urlencode, urlsplit

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ollama_herd.cli.process import fail
from ollama_herd.config import RouterSettings
from ollama_herd.core.decision import Cost
from ollama_herd.core.explanation import Choice, Explanation

_TIMEOUT_S = 5.0
_MOST_BYTES = 16 << 20
_SHOWN = 12

_TERMS = tuple(name for name in Cost.__struct_fields__ if name != "total_ms")


def explain(
    model: Annotated[str, typer.Argument(help="the model a request would ask for")],
    *,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="length of its prompt")] = 500,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="its bound on the answer")] = None,
    num_ctx: Annotated[int | None, typer.Option(min=1, help="the context it asks for")] = None,
    router: Annotated[
        str, typer.Option(metavar="URL", help="the running router")
    ] = f"http://127.0.0.1:{RouterSettings.model_fields['port'].default}",
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="print JSON")] = False,
) -> None:
    """Show where a request would go now and what each place would cost. Nothing is sent on."""
    given = {
        "model": model,
        "prompt_tokens": prompt_tokens,
        "max_tokens": max_tokens,
        "num_ctx": num_ctx,
    }
    body = _asked(router, urlencode({k: v for k, v in given.items() if v is not None}))
    if as_json:
        typer.echo(body)
        return
    try:
        found = msgspec.json.decode(body, type=Explanation)
    except msgspec.MsgspecError as error:
        fail(f"{router} is no herd of this version: {error}")
    console = Console(highlight=False)
    console.print(
        f"{found.model}, prompt of {found.prompt_tokens} tokens, "
        f"about {found.expected_output_tokens:.0f} expected: [bold]{found.verdict}[/bold]"
    )
    if found.choices:
        console.print(_choices(found))
    if found.excluded:
        console.print(_excluded(found))


def _asked(router: str, query: str) -> bytes:
    parts = urlsplit(router if "//" in router else f"http://{router}")
    try:
        port = parts.port or 80
    except ValueError as error:
        fail(f"'{router}' is no URL of a router: {error}", code=2)
    if parts.scheme != "http" or not parts.hostname:
        fail(f"'{router}' is no URL of a router: it must begin with http://", code=2)
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/fleet/explain?{query}")
        response = connection.getresponse()
        body = response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        fail(f"no router answers at {router}: {error}; start one with 'herd', or name it: --router")
    finally:
        connection.close()
    if response.status != 200:
        fail(f"{router} answered {response.status}: {body[:500].decode(errors='replace')}")
    return body


def _choices(found: Explanation) -> Table:
    """A column a place, the cheapest first; a row a signal."""
    shown = found.choices[:_SHOWN]
    left = len(found.choices) - len(shown) + found.more
    caption = "ms; the least total wins" + (f"; {left} dearer places are not shown" if left else "")
    table = Table(title="Candidates", caption=caption)
    table.add_column("")
    for choice in shown:
        table.add_column(choice.node, justify="right", overflow="fold")
    table.add_row("state", *(_state(c) for c in shown))
    table.add_row("first token", *(f"{c.first_token_ms:,.0f}" for c in shown))
    table.add_row("whole answer", *(f"{c.total_ms:,.0f}" for c in shown), end_section=True)
    for name in _TERMS:
        values = [getattr(c.cost, name) for c in shown]
        title = name.removesuffix("_ms").replace("_", " ")
        table.add_row(title, *(f"{value:,.0f}" if round(value) else "·" for value in values))
    table.add_section()
    table.add_row("total", *(f"{c.cost.total_ms:,.0f}" for c in shown), style="bold")
    return table


def _state(choice: Choice) -> str:
    loaded = "loaded" if choice.is_loaded else "on disk"
    return f"{loaded}, {choice.in_flight} of {choice.slots}"


def _excluded(found: Explanation) -> Table:
    table = Table(title="Not possible")
    for heading in ("node", "engine", "reason", "detail"):
        table.add_column(heading, overflow="fold")
    for place in found.excluded:
        reason = place.reason.value.replace("_", " ")
        table.add_row(place.node, place.engine_id, reason, place.detail)
    return table
