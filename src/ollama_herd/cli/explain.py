"""`herd explain`: what a running router would do with a request now, and why."""

from typing import Annotated

import typer
from rich.table import Table

from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Router, RouterOption
from ollama_herd.core.decision import Cost
from ollama_herd.core.explanation import Choice, Explanation

_SHOWN = 12

_TERMS = tuple(name for name in Cost.__struct_fields__ if name != "total_ms")


def explain(
    model: Annotated[str, typer.Argument(help="the model a request would ask for")],
    *,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="length of its prompt")] = 500,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="its bound on the answer")] = None,
    num_ctx: Annotated[int | None, typer.Option(min=1, help="the context it asks for")] = None,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a request would go now and what each place would cost. Nothing is sent on."""
    given = {
        "model": model,
        "prompt_tokens": prompt_tokens,
        "max_tokens": max_tokens,
        "num_ctx": num_ctx,
    }
    herd = Router(router)
    body = herd.get("/fleet/explain", given)
    if as_json:
        typer.echo(body)
        return
    found = herd.decoded(body, Explanation)
    console = show.console()
    asked = f"{found.model}, prompt of {found.prompt_tokens} tokens, "
    line = show.text(f"{asked}about {found.expected_output_tokens:.0f} expected: ")
    console.print(line.append(show.text(found.verdict, "bold")))
    if found.choices:
        console.print(_choices(found))
    if found.excluded:
        console.print(_excluded(found))
    if not found.choices and not found.excluded:
        console.print(
            show.text(f"'herd models' lists what there is, 'herd pull {model}' downloads it")
        )


def _choices(found: Explanation) -> Table:
    """A column a place, the cheapest first; a row a signal."""
    shown = found.choices[:_SHOWN]
    left = len(found.choices) - len(shown) + found.more
    caption = "ms; the least total wins" + (f"; {left} dearer places are not shown" if left else "")
    table = Table(title="Candidates", caption=caption)
    table.add_column("")
    for choice in shown:
        table.add_column(show.text(choice.node), justify="right", overflow="fold")
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
    table = show.table("node", "engine", "reason", "detail", title="Not possible")
    for place in found.excluded:
        reason = place.reason.value.replace("_", " ")
        show.row(table, (place.node, place.engine_id, reason, place.detail))
    return table
